"""Schedules: which steps a window holds, what PEFT gives with weights switched between steps, and no traces."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.engine import LocalEngine
from core.errors import Cancelled, LoraDoesNotFit
from core.loading import load_pipeline, scheduler_for
from core.lora.blend import Blender, Ingredient
from core.lora.changes import Whole
from core.lora.course import Course
from core.lora.parse import ParsedLora
from core.lora.schedule import on_at, steps_on, switches
from core.lora.stores import weights_of
from core.lora.weights import PlainWeight
from core.machine import Machine
from core.messages import Done, Failed, Job, LoraFile, Progress
from core.request import request_from
from tests.core.by_peft import PARTS, adapted, watched, weigh
from tests.core.conftest import write_lora

share = st.floats(0, 1)


def test_a_window_takes_in_its_start_and_leaves_out_its_end_and_1_is_behind_the_last_step() -> None:
    assert steps_on(0.3, 0.7, 10) == range(3, 7)
    assert steps_on(0, 1, 4) == range(4)
    assert steps_on(0.5, 1, 3) == range(2, 3)
    assert steps_on(0.8, 1, 4) == range(0)


@given(share, share, share, st.integers(1, 100))
def test_windows_that_meet_part_the_steps_between_them(one: float, two: float, three: float, steps: int) -> None:
    first, middle, last = sorted((one, two, three))
    assume(first < middle < last)
    together = [*steps_on(first, middle, steps), *steps_on(middle, last, steps)]
    assert together == list(steps_on(first, last, steps))


@given(st.lists(st.tuples(share, share), max_size=4), st.integers(1, 40))
def test_switches_tell_every_step_by_the_last_change_before_it(windows: list[tuple[float, float]], steps: int) -> None:
    changes = switches(windows, steps)
    for step in range(steps):
        latest = max(at for at in changes if at <= step)
        assert changes[latest] == tuple(on_at(start, end, step, steps) for start, end in windows)


def test_a_course_goes_on_and_off_again_and_leaves_pristine_copies_for_any_later_use() -> None:
    linear = torch.nn.Linear(4, 4)
    before = linear.weight.detach().clone()
    store = weights_of({"part": torch.nn.Sequential(linear)})
    lora = ParsedLora("0" * 64, {"part.0": Whole(torch.ones(4, 4))}, origins={"part.0": "it"})
    course = Course(Blender(store), [Ingredient(lora, "it", 1.0, 0.0)], [(0.25, 0.75)], steps=4, allow_partial=False)
    on = []
    with torch.inference_mode():  # as pipelines draw
        for step in (0, 1, 2, 3, 0, 1):
            course.before(step)
            on.append(not torch.equal(linear.weight, before))
    assert on == [False, True, True, False, False, True]
    weight = store["part.0"]
    assert isinstance(weight, PlainWeight)
    assert weight.pristine is not None
    assert not weight.pristine.is_inference()


STEPS = 6
WINDOWS = ((0.0, 0.5), (0.3, 1.0), (0.0, 1.0))  # the last as an accelerator has it
WEIGHTS = (0.7, -0.9, 0.4)


def file_of(path: Path, weight: float, window: tuple[float, float] = (0.0, 1.0), words: float = 0.0) -> LoraFile:
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoraFile(f"local:{path.name}", sha, path, weight, words, start=window[0], end=window[1])


def job(model: str, *files: LoraFile, **fields: Any) -> Job:
    raw = {"prompt": "a cat", "model": model, "steps": STEPS, "seed": 1, "width": 64, "height": 64} | fields
    return Job(request_from(raw, model), files)


@pytest.mark.parametrize("model", PARTS)
def test_at_every_step_the_model_gives_what_peft_gives_with_the_weights_of_that_step(
    random_pocket: Path, tmp_path: Path, model: str
) -> None:
    part, targets = PARTS[model]
    entry = BASE_MODELS[model]
    pipeline = load_pipeline(entry)
    denoiser = getattr(pipeline, part)
    files = adapted(denoiser, targets, part, tmp_path, len(WINDOWS))

    def switched(step: int) -> None:
        weigh(denoiser, lambda number, _: WEIGHTS[number] * on_at(*WINDOWS[number], step, STEPS))

    expected = watched(denoiser, switched)
    pipeline.scheduler = scheduler_for(entry.samplers[0], pipeline.scheduler)
    options = {"max_sequence_length": entry.t5_tokens} if entry.t5_tokens else {}
    with torch.inference_mode():
        pipeline(
            "a cat", num_inference_steps=STEPS, guidance_scale=entry.guidance, height=64, width=64, negative_prompt="",
            generator=torch.Generator().manual_seed(1), output_type="latent", **options,
        )  # fmt: skip

    easel = Easel(entry, "cpu")
    scheduled = job(model, *map(file_of, files, WEIGHTS, WINDOWS))
    seen = watched(getattr(easel.pipeline, part))
    easel.draw(scheduled.request, easel.blend(scheduled), lambda: False, lambda message: None)
    assert len(seen) == len(expected) == STEPS
    for ours, theirs in zip(seen, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    seen.clear()
    constant = job(model, *map(file_of, files, WEIGHTS))
    easel.draw(constant.request, easel.blend(constant), lambda: False, lambda message: None)
    for ours, theirs in zip(seen, expected, strict=True):
        assert (ours - theirs).abs().max() > 1e-3 * theirs.abs().max()


Q = "transformer.transformer_blocks.{}.attn.to_q"
FC1 = "text_encoder.text_model.encoder.layers.{}.mlp.fc1"


@pytest.fixture
def loras(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for seed, file in enumerate(files):
        write_lora(file, {Q.format(block): (192, 192) for block in range(6)}, seed=seed)
    return files


def pixels(engine: LocalEngine, asked: Job) -> list[bytes]:
    last = list(engine.run(asked, threading.Event()))[-1]
    assert isinstance(last, Done), last
    return [picture.raster.data for picture in last.pictures]


def test_every_picture_of_a_batch_begins_at_the_first_step_and_the_next_request_finds_no_trace(
    random_pocket: Path, loras: list[Path]
) -> None:
    engine, fresh = LocalEngine(Machine("cpu")), LocalEngine(Machine("cpu"))
    late, early = file_of(loras[0], 1.0, (0.5, 1.0)), file_of(loras[1], 0.6, (0.0, 0.4))
    batch = pixels(engine, job("pocket-sd3", late, early, images=2))
    assert pixels(engine, job("pocket-sd3", early, late, seed=2)) == batch[1:]
    plain, whole = job("pocket-sd3"), job("pocket-sd3", file_of(loras[0], 1.0))
    assert pixels(engine, plain) == pixels(fresh, plain)
    assert pixels(engine, whole) == pixels(fresh, whole)
    assert batch[0] not in (pixels(fresh, plain)[0], pixels(fresh, whole)[0])


def test_a_window_without_a_step_is_no_lora_but_still_has_a_receipt(random_pocket: Path, loras: list[Path]) -> None:
    engine = LocalEngine(Machine("cpu"))
    asked = job("pocket-sd3", file_of(loras[0], 1.0, (0.9, 1.0)))
    last = list(engine.run(asked, threading.Event()))[-1]
    assert isinstance(last, Done)
    assert last.receipts[0].applied == 6
    assert [picture.raster.data for picture in last.pictures] == pixels(engine, job("pocket-sd3"))


def test_a_lora_that_comes_late_is_judged_before_the_first_step(random_pocket: Path, tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    write_lora(file, {"unet.conv_in": (64, 16, 3, 3)})
    messages = list(
        LocalEngine(Machine("cpu")).run(job("pocket-sd3", file_of(file, 1.0, (0.5, 1.0))), threading.Event())
    )
    assert isinstance(messages[-1], Failed)
    assert isinstance(messages[-1].error, LoraDoesNotFit)
    assert not [message for message in messages if isinstance(message, Progress) and message.total]


class StopInTheMiddle:
    """Raised once the engine has told its fourth step."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 4


def test_a_cancel_within_a_schedule_leaves_nothing_to_the_next_request(random_pocket: Path, loras: list[Path]) -> None:
    engine, fresh = LocalEngine(Machine("cpu")), LocalEngine(Machine("cpu"))
    scheduled = job("pocket-sd3", file_of(loras[0], 1.0, (0.3, 1.0)), file_of(loras[1], 1.0, (0.0, 0.3)))
    last = list(engine.run(scheduled, StopInTheMiddle()))[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, Cancelled)
    for asked in (job("pocket-sd3"), scheduled, job("pocket-sd3", file_of(loras[0], 0.5))):
        assert pixels(engine, asked) == pixels(fresh, asked)


def test_text_encoders_keep_their_weight_for_the_whole_run(random_pocket: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    write_lora(file, {FC1.format(0): (512, 128), FC1.format(1): (512, 128)})
    engine = LocalEngine(Machine("cpu"))
    from_the_start = job("pocket-sd3", file_of(file, 1.0, (0.0, 0.2), words=1.0))
    assert pixels(engine, from_the_start) == pixels(engine, job("pocket-sd3", file_of(file, 1.0, words=1.0)))
    assert pixels(engine, from_the_start) != pixels(engine, job("pocket-sd3"))
