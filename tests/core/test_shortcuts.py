"""Lossy caches: asked for by name, recorded, the same each time, and gone without a trace after every run."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.errors import BadRequest, Cancelled
from core.loading import denoiser_of
from core.messages import Job, LoraFile, Progress
from core.recipe import read_recipe
from core.request import request_from
from core.shortcuts import shortcuts
from core.studio import Studio
from lora_catalog.visitor import ANYONE
from tests.core.conftest import write_lora
from tests.core.test_second_pass import SMALL, make, pixels, studio

__all__ = ["studio"]

MODELS = ["pocket-sd3", "pocket-sdxl"]


@pytest.mark.parametrize("model", MODELS)
def test_a_lossy_picture_is_another_one_recorded_and_made_again(studio: Studio, model: str) -> None:
    asked = {"model": model, "steps": 6, "upscale": 1.5, "images": 2}
    plain, lossy = make(studio, **asked), make(studio, **asked, lossy=["pab"])
    assert (plain.recipe.lossy, lossy.recipe.lossy) == ((), ("pab",))
    assert not np.array_equal(pixels(plain.pictures[0]), pixels(lossy.pictures[0]))
    for recipe, picture in zip(lossy.recipes, lossy.pictures, strict=True):
        again = make(studio, recipe=json.loads(recipe.as_text()))
        assert np.array_equal(pixels(again.pictures[0]), pixels(picture))
    assert studio.read_recipe({"text": lossy.recipe.as_text()}, ANYONE)[1] == []
    assert "shortcuts, which this script leaves out: pab" in studio.recipe_code(lossy.recipe, "http://a")["diffusers"]


def traces(denoiser: torch.nn.Module) -> list[tuple[str, list[str], int]]:
    return [(name, sorted(vars(module)), len(module._forward_pre_hooks)) for name, module in denoiser.named_modules()]


@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_it_stays_even_where_the_run_is_cancelled(random_pocket: Path, tmp_path: Path, model: str) -> None:
    easel = Easel(BASE_MODELS[model], "cpu")
    denoiser = denoiser_of(easel.pipeline)
    before, names = traces(denoiser), [name for name, _ in denoiser.named_parameters()]

    def drawn(stopped: Any = lambda: False, *files: LoraFile, **fields: Any) -> bytes:
        request = request_from(SMALL | {"model": model, "steps": 8} | fields, model)
        return easel.draw(request, easel.blend(Job(request, files)), stopped, lambda message: None)[0].raster.data

    plain = drawn()
    counted = iter(range(99))
    with pytest.raises(Cancelled):
        drawn(lambda: next(counted) > 4, lossy=["pab"])
    assert traces(denoiser) == before
    assert [name for name, _ in denoiser.named_parameters()] == names
    assert drawn() == plain
    layer = next(name for name, m in denoiser.named_modules() if name.endswith("to_q"))
    weight = denoiser.get_submodule(layer).weight
    prefix = "transformer" if hasattr(easel.pipeline, "transformer") else "unet"
    sha = write_lora(tmp_path / "x.safetensors", {f"{prefix}.{layer}": tuple(weight.shape)})  # type: ignore[arg-type]
    lora = LoraFile("local:x", sha, tmp_path / "x.safetensors", 1.0, 1.0)
    blended = drawn(lambda: False, lora)
    drawn(lambda: False, lora, lossy=["pab"])
    assert drawn(lambda: False, lora) == blended != plain
    assert drawn() == plain


def test_half_the_attentions_between_are_spared(random_pocket: Path) -> None:
    easel = Easel(BASE_MODELS["pocket-sd3"], "cpu")
    attention, asked = easel.pipeline.transformer.transformer_blocks[0].attn, []
    attention.to_q.register_forward_pre_hook(lambda *_: asked.append(1))
    for lossy in ([], ["pab"]):
        request = request_from(SMALL | {"steps": 20, "lossy": lossy}, "pocket-sd3")
        easel.draw(request, easel.blend(Job(request)), lambda: False, lambda message: None)
        asked.append(0)
    plain, spared = asked.index(0), len(asked) - asked.index(0) - 2
    assert plain == 20
    assert 10 <= spared <= 15


def test_a_fault_within_takes_it_off_as_well(random_pocket: Path) -> None:
    denoiser = denoiser_of(Easel(BASE_MODELS["pocket-sd3"], "cpu").pipeline)
    before = traces(denoiser)
    with pytest.raises(RuntimeError, match="out of memory"), shortcuts(denoiser, ["pab"]):
        raise RuntimeError("out of memory")
    assert traces(denoiser) == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lossy": ["teacache"]}, r"lossy must name shortcuts that there are \(pab\): “teacache” is none"),
        ({"lossy": ["pab", "pab"]}, "pab stands there twice"),
        ({"lossy": "pab"}, "lossy must be a list"),
        ({"lossy": [1]}, "must be text"),
        (
            {"lossy": ["pab"], "model": "pocket-sdxl-lcm"},
            "must leave pab out for pocket-sdxl-lcm, which draws in so few",
        ),
        ({"lossy": ["pab"], "model": "sd3.5-large-turbo"}, "must leave pab out for sd3.5-large-turbo"),
    ],
)
def test_what_is_no_shortcut_of_a_model_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        request_from(SMALL | fields, "pocket-sd3")
    assert refused.value.field.startswith("lossy")


def test_a_recipe_with_a_shortcut_that_is_not_known_is_read_but_not_made(studio: Studio) -> None:
    raw = make(studio).recipe.as_json() | {"lossy": ["pab", "teacache"]}
    with pytest.raises(BadRequest, match=r"recipe\.lossy must be .*teacache"):
        read_recipe(raw)
    _, told = studio.read_recipe({"text": json.dumps(raw)}, ANYONE)
    assert [one.field for one in told] == ["lossy"]


def test_progress_is_counted_as_without(studio: Studio) -> None:
    came = studio.generate(SMALL | {"lossy": ["pab"]}, ANYONE, threading.Event())
    assert [one.done for one in came if isinstance(one, Progress) and one.total] == [1, 2, 3, 4]
