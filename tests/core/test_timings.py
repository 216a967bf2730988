"""What pictures will take is told from those that were drawn, and never before."""

from __future__ import annotations

from typing import Any

import pytest

from core.request import GenerationRequest, request_from
from core.timings import Timings


def asked(**fields: Any) -> GenerationRequest:
    return request_from({"prompt": "", "model": "pocket-sd3", **fields}, "pocket-sd3")


def test_nothing_is_said_before_the_first_picture_of_a_model() -> None:
    timings = Timings()
    timings.note(asked(), 2.0)
    assert timings.seconds(asked(model="pocket-sdxl-lcm")) is None
    assert timings.seconds(asked()) == 2.0


def test_runs_of_the_same_shape_speak_first_and_by_their_median() -> None:
    timings = Timings()
    for seconds in (1.0, 1.2, 60.0):
        timings.note(asked(), seconds)
    timings.note(asked(steps=40, images=2), 8.0)
    assert timings.seconds(asked()) == 1.2
    assert timings.seconds(asked(steps=40)) == 4.0


@pytest.mark.parametrize(
    ("fields", "times"),
    [({"steps": 40}, 2), ({"width": 256}, 2), ({"guidance": 1}, 0.5), ({"sampler": "flow-heun", "steps": 20}, 39 / 20)],
)
def test_another_shape_is_told_in_proportion_to_its_work(fields: dict[str, Any], times: float) -> None:
    timings = Timings()
    timings.note(asked(), 2.0)
    assert timings.seconds(asked(**fields)) == pytest.approx(2.0 * times)
