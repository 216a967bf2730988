"""Every sampler of every embedded model, with the real weights: a picture of its own kind, from its seed alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from core.base_models import BASE_MODELS, POCKET
from core.engine import LocalEngine
from core.errors import BadRequest
from core.loading import load_pipeline, scheduler_for
from core.machine import Machine
from core.messages import Done, Job, Over, Progress, Raster
from core.request import request_from
from core.samplers import SAMPLERS

POCKETS = [(entry.key, sampler) for entry in BASE_MODELS.values() if entry.embedded for sampler in entry.samplers]
PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    assert POCKET.is_dir()
    return LocalEngine(Machine("cpu"))


def drawn(engine: LocalEngine, over: Over | None = None, **fields: Any) -> np.ndarray[Any, Any]:
    request = request_from({"prompt": PROMPT, "seed": 5, "guidance": None} | fields, "pocket-sd3")
    last = list(engine.run(Job(request, over=over), threading.Event()))[-1]
    assert isinstance(last, Done), last
    return np.frombuffer(last.pictures[0].raster.data, np.uint8).reshape(request.height, request.width, 3).astype(int)


def is_red_on_blue(picture: np.ndarray[Any, Any]) -> bool:
    (red, _, blue), (edge_red, _, edge_blue) = picture[60:68, 60:68].mean((0, 1)), picture[:12, :12].mean((0, 1))
    return bool(red > blue + 60 and edge_blue > edge_red + 60)


@pytest.mark.parametrize(("model", "sampler"), [pair for pair in POCKETS if pair[1] != "lcm"])
def test_each_sampler_draws_what_was_asked_for(engine: LocalEngine, model: str, sampler: str) -> None:
    assert is_red_on_blue(drawn(engine, model=model, sampler=sampler, steps=12))


@pytest.mark.parametrize(("model", "sampler"), POCKETS)
def test_each_sampler_takes_its_noise_from_the_seed(engine: LocalEngine, model: str, sampler: str) -> None:
    def once(global_seed: int) -> np.ndarray[Any, Any]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        picture = drawn(engine, model=model, sampler=sampler, steps=4)
        assert torch.equal(torch.get_rng_state(), before)
        return picture

    assert np.array_equal(once(1), once(2))


@pytest.mark.parametrize(("model", "sampler"), POCKETS)
def test_each_sampler_draws_over_a_picture_and_keeps_what_its_mask_keeps(
    engine: LocalEngine, model: str, sampler: str
) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    over = Over(Raster(128, 128, bytes((20, 40, 200)) * 128 * 128), mask.tobytes())
    picture = drawn(engine, over, model=model, sampler=sampler, image="0" * 64, mask="1" * 64)
    assert (picture[mask == 0] == (20, 40, 200)).all()
    assert not (picture[48:80, 48:80] == (20, 40, 200)).all()


def test_samplers_differ_in_what_they_draw(engine: LocalEngine) -> None:
    entry = BASE_MODELS["pocket-sdxl"]
    pictures = {drawn(engine, model=entry.key, sampler=name, steps=6).tobytes() for name in entry.samplers}
    assert len(pictures) == len(entry.samplers)


def test_karras_spaces_its_sigmas_evenly_in_their_seventh_root() -> None:
    """https://arxiv.org/abs/2206.00364, equation 5."""
    scheduler = scheduler_for("dpm++-2m-karras", load_pipeline(BASE_MODELS["pocket-sdxl"]).scheduler)
    scheduler.set_timesteps(10)
    roots = scheduler.sigmas[:-1] ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(9), atol=1e-3)


def test_a_second_order_sampler_counts_whole_steps(engine: LocalEngine) -> None:
    request = request_from({"prompt": PROMPT, "seed": 5, "steps": 4, "sampler": "flow-heun"}, "pocket-sd3")
    told = [m for m in engine.run(Job(request), threading.Event()) if isinstance(m, Progress) and m.total]
    assert [(one.done, one.total) for one in told] == [(done, 4) for done in (1, 1, 2, 2, 3, 3, 4)]
    assert len(told) == SAMPLERS["flow-heun"].passes(4)


@pytest.mark.parametrize(
    ("model", "sampler", "words"),
    [
        ("pocket-sd3", "lcm", "sampler must be flow-euler or flow-heun for pocket-sd3"),
        ("sd3.5-large-turbo", "flow-heun", "sampler must be flow-euler for sd3.5-large-turbo"),
        ("sdxl-lcm", "unipc", "sampler must be lcm for sdxl-lcm"),
        ("sdxl", "flow-euler", "sampler must be euler, euler-ancestral, dpm"),
    ],
)
def test_a_sampler_that_does_not_suit_a_model_is_refused_by_name(model: str, sampler: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        request_from({"prompt": "x", "model": model, "sampler": sampler}, model)
    assert str(refused.value).startswith(words)


def test_every_sampler_of_the_table_of_models_is_known() -> None:
    assert {name for entry in BASE_MODELS.values() for name in entry.samplers} == set(SAMPLERS)
