"""The second pass: what it keeps, how it is counted and recorded, and that each picture can be made again."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.engine import LocalEngine
from core.errors import BadRequest, Cancelled
from core.gpu import seconds_of
from core.machine import Machine
from core.messages import Job, LoraFile, Over, Preview, Progress, Raster
from core.recipe import Recipe, permalink, read_recipe, recipe_from
from core.recipe_files import picture_as, text_in_picture
from core.recipe_text import a1111_text, read_a1111
from core.request import request_from
from core.second_pass import start_of
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.visitor import ANYONE
from tests.core.conftest import write_lora

MODELS = ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"]
SMALL = {"prompt": "a cat", "steps": 4, "seed": 7, "width": 64, "height": 64, "model": "pocket-sd3"}
TWICE = {"upscale": 1.5, "upscale_strength": 0.5}


@pytest.fixture
def studio(random_pocket: Path) -> Studio:
    loras = Path(__file__).resolve().parents[2] / "models" / "pocket" / "loras"
    from lora_catalog.sources.bundled import BundledSource

    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(loras)]), "pocket-sd3")


def updates(studio: Studio, **fields: Any) -> list[Any]:
    raw = fields if "recipe" in fields else SMALL | fields
    return list(studio.generate(raw, ANYONE, threading.Event()))


def make(studio: Studio, **fields: Any) -> Generated:
    last = updates(studio, **fields)[-1]
    assert isinstance(last, Generated)
    return last


def pixels(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("model", MODELS)
def test_each_enlarged_picture_is_made_again_alone_from_its_own_recipe(studio: Studio, model: str) -> None:
    made = make(studio, model=model, images=2, **TWICE)
    assert (made.recipe.version, made.recipe.width, made.recipe.height) == (2, 64, 64)
    assert made.recipe.as_json()["upscale"] == {"factor": 1.5, "strength": 0.5}
    for recipe, picture in zip(made.recipes, made.pictures, strict=True):
        assert pixels(picture).shape == (96, 96, 3)
        again = make(studio, recipe=json.loads(recipe.as_text()))
        assert np.array_equal(pixels(again.pictures[0]), pixels(picture))


def test_the_second_pass_draws_over_the_first_picture(studio: Studio) -> None:
    first = Image.open(io.BytesIO(make(studio).pictures[0])).resize((96, 96), Image.Resampling.LANCZOS)
    weak, strong = (
        float(np.abs(pixels(make(studio, upscale=1.5, upscale_strength=s).pictures[0]) - np.asarray(first)).mean())
        for s in (0.25, 1.0)
    )
    assert 0 < weak < strong


def files(tmp_path: Path) -> dict[str, str]:
    rows = np.linspace(0, 255, 64, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], 90), axis=-1).astype(np.uint8)).save(
        tmp_path / "start.png"
    )
    page = Image.new("L", (64, 64), 0)
    page.paste(255, (16, 16, 40, 40))
    page.save(tmp_path / "mask.png")
    return {"image": str(tmp_path / "start.png"), "mask": str(tmp_path / "mask.png")}


@pytest.mark.parametrize("model", ["pocket-sd3", "pocket-sdxl"])
def test_outside_a_mask_the_picture_given_is_kept_enlarged(studio: Studio, tmp_path: Path, model: str) -> None:
    given = files(tmp_path)
    made = make(studio, model=model, **given, **TWICE)
    kept, mask = (Image.open(given[name]) for name in ("image", "mask"))
    large = np.asarray(kept.resize((96, 96), Image.Resampling.LANCZOS)).astype(int)
    outside = np.asarray(mask.resize((96, 96), Image.Resampling.BILINEAR)) == 0
    changed = (pixels(made.pictures[0]) != large).any(axis=-1)
    assert not changed[outside].any()
    assert changed[~outside].mean() > 0.8
    again = make(studio, recipe=made.recipe.as_json(), **given)
    assert np.array_equal(pixels(again.pictures[0]), pixels(made.pictures[0]))


def test_a_picture_drawn_over_is_enlarged_too(studio: Studio, tmp_path: Path) -> None:
    image = files(tmp_path)["image"]
    made = make(studio, image=image, strength=0.5, **TWICE)
    assert pixels(made.pictures[0]).shape == (96, 96, 3)
    told = [
        one for one in updates(studio, image=image, strength=0.5, **TWICE) if isinstance(one, Progress) and one.total
    ]
    assert [(one.stage, one.done, one.total) for one in told] == [
        ("Drawing", 1, 4), ("Drawing", 2, 4), ("Second pass", 3, 4), ("Second pass", 4, 4),
    ]  # fmt: skip


def test_progress_knows_the_steps_of_both_passes_from_the_start_and_previews_go_on(studio: Studio) -> None:
    came = updates(studio, images=2, steps=12, upscale=1.5, upscale_strength=0.5)
    told = [one for one in came if isinstance(one, Progress) and one.total]
    assert [one.done for one in told] == list(range(1, 37))
    assert {one.total for one in told} == {36}
    assert [one.stage for one in told] == ["Drawing"] * 12 + ["Second pass"] * 6 + ["Drawing"] * 12 + [
        "Second pass"
    ] * 6
    sides = [one.raster.width for one in came if isinstance(one, Preview)]
    assert set(sides) == {32, 48}  # four to each cell of the latents


def test_cancel_is_heard_within_the_second_pass(studio: Studio) -> None:
    stop, seen = threading.Event(), []

    def watched() -> None:
        for update in studio.generate(SMALL | TWICE | {"steps": 40}, ANYONE, stop):
            if isinstance(update, Progress) and update.stage == "Second pass":
                seen.append(update)
                stop.set()

    with pytest.raises(Cancelled):
        watched()
    assert 1 <= len(seen) <= 3


def test_a_loras_window_is_a_share_of_each_pass_steps(random_pocket: Path, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    sha = write_lora(path, {"transformer.transformer_blocks.0.attn.to_q": (192, 192)})
    easel = Easel(BASE_MODELS["pocket-sd3"], "cpu")
    request = request_from(SMALL | TWICE, "pocket-sd3")
    weight = easel.pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    plain, seen = weight.clone(), []
    course = easel.blend(Job(request, (LoraFile("local:x", sha, path, 1.0, 1.0, start=0.5),)))
    easel.pipeline.transformer.register_forward_pre_hook(lambda *_: seen.append(not torch_equal(weight, plain)))
    easel.draw(request, course, lambda: False, lambda message: None)
    assert seen == [False, False, True, True, False, True]


def torch_equal(one: Any, other: Any) -> bool:
    return bool((one == other).all())


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"upscale": 1}, "upscale", "upscale must be a number above 1, at most 4"),
        ({"upscale": 4.5}, "upscale", "upscale must be a number above 1, at most 4"),
        ({"upscale": "much"}, "upscale", "upscale must be a number above 1, at most 4"),
        (
            {"upscale": 4, "width": 128},
            "upscale",
            r"must be from above 1 to 2\.\d+ for 128 × 64.*at most 256 pixels a side",
        ),
        ({"upscale": 2, "upscale_strength": 0.1}, "upscale_strength", r"must be at least 0\.25 for 4 steps"),
        ({"upscale": 2, "upscale_strength": 2}, "upscale_strength", "must be a number from 0 to 1"),
        ({"upscale_strength": 0.5}, "upscale_strength", "must come together with upscale"),
    ],
)
def test_a_second_pass_that_cannot_be_is_refused_by_field_and_range(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        request_from(SMALL | fields, "pocket-sd3")
    assert refused.value.field == field


@pytest.mark.parametrize("key", BASE_MODELS)
def test_every_models_largest_second_pass_is_one_that_its_rule_allows(key: str) -> None:
    entry = BASE_MODELS[key]
    raw = {"prompt": "x", "model": key, "upscale": 4}
    with pytest.raises(BadRequest, match="upscale must be from above 1 to") as refused:
        request_from(raw | {"width": entry.largest_side}, key)
    most = float(str(refused.value).split(" to ")[1].split(" for ")[0])
    allowed = request_from(raw | {"upscale": most, "width": entry.largest_side, "height": 64}, key)
    assert allowed.result_size[0] == entry.largest_result
    assert allowed.upscale_strength == pytest.approx(max(0.35, 1 / entry.steps))
    assert request_from({"prompt": "x", "model": key}, key).upscale is None


def test_sides_are_rounded_to_the_nearest_multiple_of_16() -> None:
    def size(factor: float) -> tuple[int, int]:
        return request_from(SMALL | {"upscale": factor, "height": 80}, "pocket-sd3").result_size

    assert [size(factor) for factor in (1.01, 1.1, 1.125, 1.5)] == [(64, 80), (64, 96), (80, 96), (96, 128)]


def enlarged_recipe() -> Recipe:
    from tests.core.recipes import recipe

    return recipe("pocket-sd3", version=2, upscale={"factor": 1.5, "strength": 0.35})


def test_only_a_recipe_with_a_second_pass_is_version_2_and_each_version_has_its_own_fields(studio: Studio) -> None:
    from tests.core.recipes import recipe

    plain, larger = recipe("pocket-sd3").as_json(), enlarged_recipe().as_json()
    assert plain["version"] == 1
    assert "upscale" not in plain
    assert read_recipe(larger) == enlarged_recipe()
    for raw, words in (
        (larger | {"version": 1}, "recipe.upscale is not a field of version 1"),
        (plain | {"upscale": None}, "recipe.upscale is not a field of version 1"),
        (plain | {"version": 2}, "recipe.version must be 1 where there is no recipe.upscale"),
        (larger | {"version": 3}, "recipe.version must be 1 or 2"),
        (larger | {"wings": 2}, "recipe.wings is not a field of version 2"),
        (larger | {"upscale": {"factor": 1.5}}, "recipe.upscale.strength is required"),
        (
            larger | {"upscale": {"factor": 1.5, "strength": 1.0, "by": 1}},
            "recipe.upscale.by is not a field of version 2",
        ),
    ):
        with pytest.raises(BadRequest, match=words):
            recipe_from(raw)


def test_it_travels_by_link_picture_and_a1111_text(studio: Studio, tmp_path: Path) -> None:
    made = make(studio, upscale=1.5)
    want = {"factor": 1.5, "strength": 0.35}
    (tmp_path / "a.png").write_bytes(made.pictures[0])
    texts = [permalink(made.recipe), made.recipe.as_text(), a1111_text(made.recipe)]
    for ending in ("jpg", "webp"):
        (tmp_path / f"a.{ending}").write_bytes(picture_as(made.pictures[0], ending))
        texts.append(text_in_picture(tmp_path / f"a.{ending}"))
    for text in texts:
        found, told = studio.read_recipe({"text": text}, ANYONE)
        assert found.as_json()["upscale"] == want
        assert [one for one in told if "ires" in one.reason or "enoising" in one.reason] == []
    said = read_a1111(a1111_text(made.recipe))
    assert said is not None
    hires = {name: said.settings[name] for name in said.settings if name.startswith(("Hires", "Denoising"))}
    assert hires == {
        "Hires upscale": "1.5", "Hires upscaler": "Lanczos", "Denoising strength": "0.35", "Hires steps": "4",
    }  # fmt: skip


def test_of_another_programs_second_pass_what_is_other_here_is_said(studio: Studio) -> None:
    text = "a cat\nSteps: 20, Sampler: Euler, CFG scale: 3, Seed: 1, Size: 128x128, Model: pocket-sd3, {}"
    found, told = studio.read_recipe(
        {"text": text.format("Denoising strength: 0.5, Hires upscale: 2, Hires steps: 10, Hires upscaler: Latent")},
        ANYONE,
    )
    assert found.upscale is not None
    assert {one.field for one in told} >= {"Hires steps", "Hires upscaler"}
    left, told = studio.read_recipe({"text": text.format("Denoising strength: 0.5, Hires upscale: 3")}, ANYONE)
    assert (left.upscale, left.version) == (None, 1)
    assert any("upscale must be" in one.reason and "left out" in one.reason for one in told)


def test_the_diffusers_script_draws_the_second_pass_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real weights: random ones blow every rounding up."""
    studio = Studio(LocalEngine(Machine("cpu")), Catalog([]), "pocket-sd3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(Path(__file__).resolve().parents[2] / "models")
    for model, steps, words in (
        ("pocket-sd3", 6, {"prompt": "a [[red, blue]] circle", "images": 2}),
        ("pocket-sdxl", 7, {"prompt": "a red circle", "negative_prompt": "blue", "seed": 8}),
    ):
        ours = make(studio, model=model, steps=steps, upscale=1.5, **words)
        code = studio.recipe_code(ours.recipe, "http://127.0.0.1:7860")
        compile(code["python"], "script", "exec")
        assert '"upscale": {"factor": 1.5' in code["python"]
        exec(compile(code["diffusers"], "script", "exec"), {})
        theirs = np.asarray(Image.open(tmp_path / "lora-loom-8.png")).astype(float)
        error = float(((theirs - pixels(ours.pictures[-1])) ** 2).mean())
        assert error < 255**2 / 10**4  # more than 40 dB


def test_a_second_pass_asks_for_more_of_the_quota_and_a_batch_for_less() -> None:
    def seconds(**more: Any) -> int:
        return seconds_of(Job(request_from({"prompt": "x", "model": "sd3.5-large", **more}, "sd3.5-large")))

    assert seconds(upscale=2) > seconds(upscale=1.25) > seconds()
    assert seconds(images=4, batch=4) < seconds(images=4) + 1


def test_what_the_mask_keeps_comes_from_the_picture_given() -> None:
    def flat(colour: tuple[int, int, int]) -> Raster:
        return Raster(32, 32, bytes(colour) * 1024)

    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    start = start_of(flat((9, 9, 9)), Over(flat((200, 0, 0)), mask.tobytes()), 64, 64)
    seen = np.frombuffer(start.picture.data, np.uint8).reshape(64, 64, 3)
    assert (seen[:, :30] == 9).all()
    assert (seen[:, 34:] == (200, 0, 0)).all()
