"""Drawing over a picture and inside a mask: what is kept, what is refused, and that it can be made again."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.engine import LocalEngine
from core.errors import BadRequest
from core.machine import Machine
from core.messages import Job, LoraFile, Over, Preview, Progress, Raster
from core.pictures import MOST_PIXELS, Canvas, with_pictures
from core.request import request_from
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.conftest import write_lora

MODELS = ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"]
Files = Callable[..., str]


@pytest.fixture
def studio(random_pocket: Path) -> Studio:
    loras = Path(__file__).resolve().parents[2] / "models" / "pocket" / "loras"
    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(loras)]), "pocket-sd3")


@pytest.fixture
def file_of(tmp_path: Path) -> Files:
    def saved(picture: Image.Image, name: str = "picture.png", **options: Any) -> str:
        path = tmp_path / name
        picture.save(path, **options)
        return str(path)

    return saved


@pytest.fixture
def start(file_of: Files) -> str:
    rows = np.linspace(0, 255, 64, dtype=np.uint8)
    return file_of(Image.fromarray(np.stack(np.broadcast_arrays(rows, rows[:, None], 90), axis=-1).astype(np.uint8)))


@pytest.fixture
def mask(file_of: Files) -> str:
    page = Image.new("L", (64, 64), 0)
    page.paste(255, (16, 16, 40, 40))
    return file_of(page, "mask.png")


def make(studio: Studio, **fields: Any) -> Generated:
    small = {"prompt": "a cat", "steps": 4, "seed": 7, "width": 64, "height": 64, "model": "pocket-sd3"}
    raw = fields if "recipe" in fields else small | fields
    last = list(studio.generate(raw, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return last


def pixels(png: bytes | str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png) if isinstance(png, bytes) else png).convert("RGB")).astype(int)


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("model", MODELS)
def test_a_picture_is_drawn_over_and_each_one_is_made_again_alone(studio: Studio, start: str, model: str) -> None:
    made = make(studio, model=model, image=start, strength=0.5, images=2)
    assert made.recipe.init is not None
    assert made.recipe.init.model_dump() == {"sha256": sha256(start), "mask_sha256": None, "strength": 0.5}
    plain = make(studio, model=model)
    assert not np.array_equal(pixels(made.pictures[0]), pixels(plain.pictures[0]))
    for recipe, picture in zip(made.recipes, made.pictures, strict=True):
        again = make(studio, recipe=recipe.as_json(), image=start)
        assert np.array_equal(pixels(again.pictures[0]), pixels(picture))


@pytest.mark.parametrize("model", MODELS)
def test_outside_a_mask_every_pixel_stays_and_inside_it_is_drawn_anew(
    studio: Studio, start: str, mask: str, model: str
) -> None:
    made = make(studio, model=model, image=start, mask=mask)
    changed = (pixels(made.pictures[0]) != pixels(start)).any(axis=-1)
    inside = pixels(mask)[..., 0] > 0
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.9
    again = make(studio, recipe=made.recipe.as_json(), image=start, mask=mask)
    assert np.array_equal(pixels(again.pictures[0]), pixels(made.pictures[0]))


def test_what_is_drawn_in_a_mask_knows_what_is_around_it(studio: Studio, file_of: Files, mask: str) -> None:
    whole = {"strength": 1.0}  # SD3 begins with noise alone then: only what is around the mask can be known
    on = {
        colour: pixels(make(studio, image=file_of(Image.new("RGB", (64, 64), colour)), mask=mask, **whole).pictures[0])
        for colour in ("black", "white")
    }
    assert abs(on["white"][20:36, 20:36] - on["black"][20:36, 20:36]).mean() > 1


def test_the_stronger_the_less_of_the_picture_stays(file_of: Files) -> None:
    """With the real weights: random ones know no picture to draw."""
    studio = Studio(LocalEngine(Machine("cpu")), Catalog([]), "pocket-sd3")
    blue = file_of(Image.new("RGB", (128, 128), (20, 40, 200)))
    asked = {"prompt": "a yellow house", "width": 128, "height": 128, "steps": 10, "image": blue}
    gaps = [
        float(np.abs(pixels(make(studio, **asked, strength=strength).pictures[0]) - pixels(blue)).mean())
        for strength in (0.2, 0.6, 1.0)
    ]
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[0] < gaps[2] / 2


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("steps", "strength", "run"), [(4, 0.5, 2), (7, 0.29, 2), (10, 0.1, 1), (10, 1.0, 10), (3, 0.7, 2)]
)
def test_the_steps_that_a_strength_leaves_are_those_that_run(
    studio: Studio, start: str, model: str, steps: int, strength: float, run: int
) -> None:
    raw = {"prompt": "a cat", "model": model, "seed": 1, "width": 64, "height": 64, "steps": steps}
    updates = list(studio.generate(raw | {"image": start, "strength": strength}, ANYONE, threading.Event()))
    told = [update for update in updates if isinstance(update, Progress) and update.total]
    assert [(one.done, one.total) for one in told] == [(number + 1, run) for number in range(run)]


@pytest.mark.parametrize("model", ["pocket-sd3", "pocket-sdxl"])
def test_no_step_is_lost_to_the_rounding_of_floats(studio: Studio, start: str, model: str) -> None:
    """49 · (1 / 49) is less than 1."""
    assert int(49 * (1 / 49)) == 0
    make(studio, model=model, steps=49, image=start, strength=1 / 49)


def test_a_loras_start_and_end_are_shares_of_the_steps_really_run(
    random_pocket: Path, start: str, tmp_path: Path
) -> None:
    """Of eight steps the last four run: a LoRA of their second half is not there before their third."""
    path = tmp_path / "lora.safetensors"
    layer = "transformer.transformer_blocks.0.attn.to_q"
    sha = write_lora(path, {layer: (192, 192)})
    easel = Easel(BASE_MODELS["pocket-sd3"], "cpu")
    raw = {"prompt": "a cat", "steps": 8, "seed": 7, "width": 64, "height": 64, "image": "0" * 64, "strength": 0.5}
    request = request_from(raw, "pocket-sd3")
    weight = easel.pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    plain, seen = weight.clone(), []
    course = easel.blend(Job(request, (LoraFile("local:x", sha, path, 1.0, 1.0, start=0.5),)))
    easel.pipeline.transformer.register_forward_pre_hook(lambda *_: seen.append(not torch.equal(weight, plain)))
    over = Over(Raster(64, 64, Image.open(start).tobytes()))
    easel.draw(request, course, lambda: False, lambda message: None, over)
    assert seen == [False, False, True, True]


def test_previews_come_while_a_picture_is_drawn_over(studio: Studio, start: str, mask: str) -> None:
    raw = {"prompt": "a cat", "steps": 12, "seed": 1, "width": 64, "height": 64, "image": start, "mask": mask}
    assert any(isinstance(update, Preview) for update in studio.generate(raw, ANYONE, threading.Event()))


def test_nothing_random_is_drawn_from_anywhere_but_the_seed(studio: Studio, start: str, mask: str) -> None:
    make(studio, image=start, mask=mask)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    make(studio, image=start, mask=mask)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_picture_of_another_shape_covers_the_size_and_is_cut_around_its_middle() -> None:
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    seen = np.frombuffer(Canvas(picture).fitted(64, 64).picture.data, np.uint8).reshape(64, 64, 3)
    assert (seen[:, 4:-4] == (0, 0, 255)).all()


def test_a_telephones_picture_is_turned_upright(file_of: Files) -> None:
    lying = Image.new("RGB", (80, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees
    _, canvas = with_pictures({"image": file_of(lying, "lying.jpg", exif=exif)})
    assert isinstance(canvas, Canvas)
    assert canvas.picture.size == (40, 80)


def test_a_picture_and_a_mask_of_16_bits_keep_their_greys(file_of: Files) -> None:
    rows = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 64, axis=0)
    given = {"image": file_of(Image.fromarray(rows)), "mask": file_of(Image.fromarray(rows), "mask.png")}
    _, canvas = with_pictures(given)
    assert isinstance(canvas, Canvas)
    assert canvas.mask is not None
    for seen in (canvas.picture.convert("L"), canvas.mask):
        assert np.abs(np.asarray(seen).astype(int) - rows // 257).max() <= 1


def bomb(tmp_path: Path) -> str:
    side = int(MOST_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    return str(tmp_path / "bomb.png")


def torn(tmp_path: Path) -> str:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(out, "PNG")
    (tmp_path / "torn.png").write_bytes(out.getvalue()[:-900])
    return str(tmp_path / "torn.png")


def no_picture(tmp_path: Path) -> str:
    (tmp_path / "text.png").write_text("no picture")
    return str(tmp_path / "text.png")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (bomb, "image must have at most 40 megapixels"),
        (torn, "image must be a whole PNG, JPEG or WebP picture"),
        (no_picture, "image must be a whole PNG, JPEG or WebP picture"),
        (lambda folder: str(folder / "gone.png"), "upload the picture again"),
        (lambda folder: 7, "image must be an uploaded picture"),
    ],
)
def test_what_cannot_be_drawn_over_is_refused_in_one_sentence(
    studio: Studio, tmp_path: Path, given: Callable[[Path], Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        make(studio, image=given(tmp_path))
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"strength": 0.1}, "strength", r"strength must be at least 0\.25 for 4 steps"),
        ({"strength": 0}, "strength", "strength must be at least"),
        ({"strength": 1.1}, "strength", "strength must be a number from 0 to 1"),
        ({"strength": "much"}, "strength", "strength must be a number from 0 to 1"),
        ({"image": None, "strength": 0.5}, "strength", "must come together with image"),
        ({"mask": "small"}, "mask", r"mask must have the size of image, 64 × 64, not 32 × 32 pixels"),
        ({"mask": "black"}, "mask", "black all over"),
        ({"image": None, "mask": "small"}, "mask", "must come together with image"),
    ],
)
def test_what_makes_no_sense_with_a_picture_is_said_before_anything_is_drawn(
    studio: Studio, start: str, file_of: Files, fields: dict[str, Any], field: str, words: str
) -> None:
    masks = {"small": Image.new("L", (32, 32), 255), "black": Image.new("L", (64, 64))}
    if fields.get("mask"):
        fields = fields | {"mask": file_of(masks[fields["mask"]], "mask.png")}
    with pytest.raises(BadRequest, match=words) as refused:
        next(iter(studio.generate({"prompt": "a cat", "steps": 4, "image": start} | fields, ANYONE, threading.Event())))
    assert refused.value.field == field


@pytest.mark.parametrize("key", BASE_MODELS)
def test_a_strength_left_out_leaves_every_model_a_step(key: str) -> None:
    for mask in (None, "1" * 64):
        request = request_from({"prompt": "a cat", "model": key, "image": "0" * 64, "mask": mask}, key)
        assert 1 <= request.steps_run <= request.steps


def test_a_recipe_wants_the_very_picture_along_and_names_it(studio: Studio, start: str, mask: str) -> None:
    recipe = make(studio, image=start, mask=mask).recipe.as_json()
    for without, wanted in (({}, start), ({"image": mask}, start), ({"image": start}, mask)):
        with pytest.raises(BadRequest, match=f"its sha256 is {sha256(wanted)}"):
            make(studio, recipe=recipe, **without)
    plain = make(studio).recipe.as_json()
    with pytest.raises(BadRequest, match="image must be left out"):
        make(studio, recipe=plain, image=start)
    _, differences = studio.read_recipe({"text": make(studio, image=start).recipe.as_text()}, ANYONE)
    assert [one.field for one in differences] == ["init"]
    assert sha256(start) in differences[0].reason


@pytest.mark.parametrize("model", MODELS)
def test_where_a_prompt_is_cut_is_said_to_the_word(studio: Studio, model: str) -> None:
    prompts = ["a blue house" + " and a red circle" * times for times in range(4, 12)]
    made, prompt = next((g, p) for p in prompts if (g := make(studio, model=model, prompt=p)).notes)
    said = re.fullmatch(r"The prompt is longer than Pocket .+ reads: it was cut before “(.+)”\.", made.notes[0])
    assert said is not None
    assert prompt.endswith(said[1])
    kept = prompt.removesuffix(said[1]).strip()
    heard, less = (make(studio, model=model, prompt=text) for text in (kept, kept.rpartition(" ")[0]))
    assert heard.notes == less.notes == ()
    assert np.array_equal(pixels(heard.pictures[0]), pixels(made.pictures[0]))
    assert not np.array_equal(pixels(less.pictures[0]), pixels(made.pictures[0]))


def test_a_long_negative_prompt_is_told_of_where_it_counts(studio: Studio) -> None:
    long = "a red circle and " * 12
    assert "The negative prompt is longer" in make(studio, negative_prompt=long).notes[0]
    assert make(studio, negative_prompt=long, guidance=1).notes == ()


def test_the_scripts_of_a_recipe_say_which_picture_they_need(studio: Studio, start: str, mask: str) -> None:
    code = studio.recipe_code(make(studio, image=start, mask=mask).recipe, "http://127.0.0.1:7860")
    compile(code["python"], "script", "exec")
    for name, path in (("image", start), ("mask", mask)):
        assert f'{name}=handle_file("{name}.png"),  # the file whose sha256 is {sha256(path)}' in code["python"]
    assert '"strength": 0.9' in code["python"]
    assert "drawn over a picture, which this script leaves out" in code["diffusers"]
