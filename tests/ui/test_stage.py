"""The stage's words: which step of which picture, and how long it will take."""

from __future__ import annotations

import pytest

from core.messages import Progress
from ui.durations import TimeLeft
from ui.stage import Stage


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("images", "each", "done", "total", "words"),
    [
        (1, 0.25, 7, 20, "step 7 of 20 · about 3 s left"),
        (1, 0.01, 7, 20, "step 7 of 20</p>"),
        (1, 1, 1, 20, "step 1 of 20</p>"),  # the first step tells nothing: it waited for the prompt to be read
        (2, 10, 4, 20, "step 4 of 10 · picture 1 of 2 · about 3 min left"),
        (1, 1, 20, 20, "step 20 of 20</p>"),
    ],
)
def test_the_time_left_is_told_from_the_steps_done(images: int, each: float, done: int, total: int, words: str) -> None:
    clock = Clock()
    stage = Stage(images, clock)
    stage.follow(Progress("Loading"))
    clock.now = 30.0  # loading a model says nothing about its steps
    for step in range(1, done + 1):
        stage.follow(Progress("Drawing", step, total))
        clock.now += each if step < done else 0
    assert words in stage.drawing()


def test_a_download_tells_its_bytes_and_no_steps() -> None:
    clock = Clock()
    stage = Stage(1, clock)
    stage.follow(Progress("Fetching glow", 2_000_000, 10_000_000, "bytes"))
    assert "left" not in stage.drawing()
    clock.now = 10.0
    stage.follow(Progress("Fetching glow", 4_000_000, 10_000_000, "bytes"))
    assert "4.0 MB of 10 MB · about 30 s left" in stage.drawing()
    stage.follow(Progress("Fetching pixel", 1_000_000, 10_000_000, "bytes"))
    assert "left" not in stage.drawing()


def test_a_row_of_pictures_tells_the_time_left_from_the_second_on() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    said = []
    for done in (0, 1, 2, 5):
        clock.now += 40.0 if done == 1 else 3.0  # the first waited for its model
        said.append(left.of(done, 5))
    assert said == ["", "", "about 9 s left", ""]
