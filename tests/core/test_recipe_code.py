"""Recipes as scripts: the one for diffusers is run, and draws what the app draws; no text of a recipe becomes code."""

from __future__ import annotations

import ast
import io
import math
import threading
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.base_models import BASE_MODELS, POCKET
from core.engine import LocalEngine
from core.loading import checked_revision
from core.machine import Machine
from core.recipe import Recipe, RecipeInit, read_recipe
from core.recipe_code import as_diffusers, as_python
from core.recipe_here import embedded_revision
from core.studio import Generated, Studio
from lora_catalog import reference
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.recipes import HUB, NEON, lora, recipe, without_receipts

SAME = 50.0  # dB: merged and unfused LoRAs round in other places


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(POCKET / "loras")]), "pocket-sd3")


def generated(studio: Studio, **raw: Any) -> Generated:
    last = list(studio.generate(raw, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return last


def psnr(one: bytes, other: Path) -> float:
    with Image.open(io.BytesIO(one)) as ours, Image.open(other) as theirs:
        difference = np.asarray(ours, np.float64) - np.asarray(theirs.convert("RGB"), np.float64)
    error = float((difference**2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


ASKED: dict[str, dict[str, Any]] = {
    "pocket-sdxl-lcm": {"loras": [{"ref": "bundled:pocket-sdxl-dots", "weight": 0.9}, {"ref": NEON, "weight": -0.2}]},
    "pocket-sd3": {
        "loras": [{"ref": "bundled:pocket-sd3-neon", "weight": 0.7}], "steps": 6, "negative_prompt": "a blue square",
        "total_strength": 0.8, "images": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("model", ASKED)
def test_the_diffusers_script_draws_the_same_pictures(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    ours = generated(studio, prompt="a red circle on a blue background", model=model, seed=5, **ASKED[model])
    (tmp_path / "models").symlink_to(POCKET.parent)
    monkeypatch.chdir(tmp_path)
    exec(compile(studio.recipe_code(ours.recipe, "http://127.0.0.1:7860")["diffusers"], "script", "exec"), {})
    for number, picture in enumerate(ours.pictures):
        assert psnr(picture, tmp_path / f"lora-loom-{5 + number}.png") > SAME
    plain = generated(studio, prompt="a red circle on a blue background", model=model, seed=5)
    assert psnr(plain.pictures[0], tmp_path / "lora-loom-5.png") < SAME - 15  # the LoRAs show


def test_an_embedded_models_revision_is_known_without_torch() -> None:
    for entry in BASE_MODELS.values():
        if entry.embedded:
            assert embedded_revision(entry) == checked_revision(entry)


def test_the_diffusers_script_pins_files_and_says_what_it_cannot_do() -> None:
    receipt: Any = {"applied": 9, "total": 9, "text_encoder": 3}
    loras = (
        lora(HUB, weight=0.5, text_encoder=0.25, start=0.0, end=0.5, receipt=receipt),
        lora("local:mine.safetensors", blocks={"in": 0.5}),
        lora("bundled:muted", muted=True),
    )
    script = as_diffusers(
        recipe("sdxl-lcm", loras=loras, plan=recipe().plan.model_copy(update={"device": "cuda", "dtype": "float16"}))
    )
    ast.parse(script)
    assert f'revision="{"c" * 40}"' in script
    assert f'("weaver/soft.light", weight_name="styles/soft light, v2.safetensors", revision="{"a" * 40}"' in script
    assert '{"unet": 0.5, "text_encoder": 0.25, "text_encoder_2": 0.25}' in script
    assert 'load_lora_weights("latent-consistency/lcm-lora-sdxl"' in script
    assert "muted" not in script
    comments = [line for line in script.splitlines() if line.startswith("#")]
    assert any("by block" in line for line in comments)
    assert any("0 to 0.5 of the steps" in line for line in comments)
    assert any("lay it into the folder" in line for line in comments)


def test_a_lora_of_a_source_of_ones_own_is_a_file_beside_the_diffusers_script(monkeypatch: pytest.MonkeyPatch) -> None:
    rules: dict[Any, Any] = {**reference._RULES, "shelf": lambda ref: ""}
    monkeypatch.setattr(reference, "_RULES", rules)
    script = as_diffusers(recipe("sdxl", loras=(lora("shelf:lamp"),)))
    assert 'load_lora_weights(".", weight_name="lamp.safetensors", adapter_name="lora_0")' in script
    assert "# shelf:lamp is a file of your own: lay it into the folder where this script runs." in script


@pytest.mark.parametrize("model", sorted(BASE_MODELS))
def test_every_model_has_scripts_that_name_what_diffusers_has(model: str) -> None:
    for script in (as_diffusers(recipe(model)), as_python(recipe(model), "http://127.0.0.1:7860")):
        tree = ast.parse(script)
    names = [node for node in ast.walk(ast.parse(as_diffusers(recipe(model)))) if isinstance(node, ast.ImportFrom)]
    assert all(hasattr(diffusers, name.name) for name in names[0].names)
    assert tree


def test_the_python_script_hands_the_whole_recipe_back_and_says_which_pictures_it_wants() -> None:
    init = RecipeInit(sha256="a" * 64, mask_sha256="b" * 64, strength=0.5)
    plan = recipe().plan.model_copy(update={"quantisation": "vae:tiled", "device": "cuda"})
    loras = (lora(NEON, weight=0.5, end=0.5), lora(HUB, text_encoder=0.25, muted=True))
    made = recipe("sdxl", loras=loras, init=init, plan=plan, total_strength=2.0, allow_partial=True)
    script = as_python(made, "http://127.0.0.1:7860")
    call = next(node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call) and node.keywords)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    assert list(given) == ["recipe", "image", "mask", "api_name"]
    assert read_recipe(ast.literal_eval(given["recipe"])) == without_receipts(made)
    for name, letter in (("image", "a"), ("mask", "b")):
        assert f'{name}=handle_file("{name}.png"),  # the file whose sha256 is {letter * 64}' in script


def test_the_diffusers_script_says_that_it_takes_no_picture_and_packs_nothing() -> None:
    init = RecipeInit(sha256="a" * 64, strength=0.5)
    plan = recipe().plan.model_copy(update={"quantisation": "text_encoder_3:nf4\nimport os"})
    script = as_diffusers(recipe("sd3-medium", init=init, plan=plan))
    comments = [line for line in script.splitlines() if line.startswith("#")]
    assert any("over a picture, which this script leaves out" in line for line in comments)
    assert any("text_encoder_3:nf4 import os, which this script leaves out" in line for line in comments)


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.just('"); import os; os.abort() #\n"""\\')


@given(HOSTILE, HOSTILE, HOSTILE)
@settings(deadline=None, max_examples=200)
def test_no_text_of_a_recipe_becomes_code(prompt: str, ref: str, version: str) -> None:
    made: Recipe = recipe(
        "pocket-sd3", prompt=prompt, negative_prompt=prompt, libraries={version: version},
        loras=(lora("local:x.safetensors", blocks={ref: 0.5}),),
    )  # fmt: skip
    for script in (as_python(made, "http://127.0.0.1:7860"), as_diffusers(made)):
        tree = ast.parse(script)
        calls = {
            node.func.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert "abort" not in calls
        if prompt:
            assert prompt in {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
