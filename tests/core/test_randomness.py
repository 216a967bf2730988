"""All that is random comes from the recipe's seed: no global generator is used, or touched."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.base_models import BASE_MODELS, POCKET
from core.drawing import Easel
from core.engine import LocalEngine
from core.loading import load_pipeline, scheduler_for
from core.machine import Machine
from core.messages import Done, Job
from core.recipe import recipe_from_text
from core.recipe_files import text_in_picture
from core.request import request_from
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE

SHIPPED = POCKET / "loras"
MODELS = ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"]


def drawn(engine: LocalEngine, model: str, **fields: Any) -> list[bytes]:
    raw = {"prompt": "a cat", "model": model, "steps": 3, "seed": 7, "width": 64, "height": 64} | fields
    last = list(engine.run(Job(request_from(raw, model)), threading.Event()))[-1]
    assert isinstance(last, Done), last
    return [picture.raster.data for picture in last.pictures]


def states() -> tuple[Any, ...]:
    """Of every global generator there is."""
    numpys = np.random.get_state()
    return torch.random.get_rng_state().tolist(), [str(part) for part in numpys], random.getstate()


@pytest.fixture
def engine(random_pocket: Path) -> LocalEngine:
    return LocalEngine(Machine("cpu"))


@pytest.mark.parametrize("model", MODELS)
def test_drawing_leaves_the_global_generators_as_they_were(engine: LocalEngine, model: str) -> None:
    drawn(engine, model)  # loading a model may draw what its weights then overwrite
    before = states()
    drawn(engine, model, images=2)
    assert states() == before


@pytest.mark.parametrize("model", MODELS)
def test_another_global_seed_changes_no_pixel(engine: LocalEngine, model: str) -> None:
    pictures = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        pictures.append(drawn(engine, model))
    assert pictures[0] == pictures[1]
    assert drawn(engine, model, seed=8) != pictures[0]


@pytest.mark.parametrize("model", MODELS)
def test_pictures_of_one_request_are_those_of_the_seeds_that_follow(engine: LocalEngine, model: str) -> None:
    together = drawn(engine, model, images=3)
    assert len(set(together)) == 3
    assert together == [drawn(engine, model, seed=7 + number)[0] for number in range(3)]


def test_every_png_carries_the_recipe_that_makes_it_again_alone(engine: LocalEngine) -> None:
    studio = Studio(engine, Catalog([BundledSource(SHIPPED)]), "pocket-sdxl-lcm")

    def generated(**raw: Any) -> Generated:
        last = list(studio.generate(raw, ANYONE, threading.Event()))[-1]
        assert isinstance(last, Generated)
        return last

    together = generated(prompt="a cat", images=3, seed=5, width=64, height=64)
    for number, picture in enumerate(together.pictures):
        own = recipe_from_text(text_in_picture(picture))
        assert (own.seed, own.images) == (5 + number, 1)
        again = generated(recipe=own.as_json()).pictures[0]
        with Image.open(io.BytesIO(picture)) as before, Image.open(io.BytesIO(again)) as after:
            assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("sampler", ["lcm", "euler-ancestral"])
def test_noise_between_the_steps_comes_from_the_recipes_generator(random_pocket: Path, sampler: str) -> None:
    pipeline = load_pipeline(BASE_MODELS["pocket-sdxl"])
    published = pipeline.scheduler

    def latents(seed: int, noise: int) -> torch.Tensor:
        """The start is the same for all: only what comes between the steps differs by seed."""
        torch.manual_seed(noise)
        pipeline.scheduler = scheduler_for(sampler, published)
        made: torch.Tensor = pipeline(
            "a cat", num_inference_steps=3, guidance_scale=1.0, height=64, width=64, output_type="latent",
            latents=torch.ones(1, 16, 8, 8), generator=torch.Generator("cpu").manual_seed(seed),
        ).images  # fmt: skip
        return made

    assert torch.equal(latents(1, noise=1), latents(1, noise=2))
    assert not torch.equal(latents(1, noise=1), latents(2, noise=1))


@pytest.mark.parametrize(("batch", "seeds"), [(1, [[7], [7], [7], [8], [8], [8]]), (2, [[8, 7], [8, 7], [8, 7]])])
def test_a_sampler_that_draws_noise_is_given_the_recipes_generators(
    random_pocket: Path, monkeypatch: pytest.MonkeyPatch, batch: int, seeds: list[list[int]]
) -> None:
    """Through the easel, with its own call of the pipeline: every step of LCM's gets a CPU generator for each row."""
    easel = Easel(BASE_MODELS["pocket-sdxl-lcm"], "cpu")
    given: list[list[torch.Generator]] = []
    scheduler = type(scheduler_for("lcm", easel.pipeline.scheduler))
    step: Callable[..., Any] = scheduler.step

    def watched(self: Any, *args: Any, generator: list[torch.Generator], **rest: Any) -> Any:
        given.append(generator)
        return step(self, *args, generator=generator, **rest)

    monkeypatch.setattr(scheduler, "step", watched)
    request = request_from(
        {"prompt": "a cat", "steps": 3, "seed": 7, "images": 2, "batch": batch, "width": 64, "height": 64},
        "pocket-sdxl-lcm",
    )
    easel.draw(request, easel.blend(Job(request)), lambda: False, lambda message: None)
    assert [[generator.initial_seed() for generator in rows] for rows in given] == seeds
    assert {generator.device.type for rows in given for generator in rows} == {"cpu"}


def test_no_sampler_of_sd3_draws_noise_between_the_steps(random_pocket: Path) -> None:
    """Its pipeline hands no generator on to the scheduler, so none may be needed."""
    published = load_pipeline(BASE_MODELS["pocket-sd3"]).scheduler
    samplers = {sampler for entry in BASE_MODELS.values() if "3" in entry.pipeline for sampler in entry.samplers}
    assert "flow-heun" in samplers
    assert not any(scheduler_for(sampler, published).config.get("stochastic_sampling") for sampler in samplers)
