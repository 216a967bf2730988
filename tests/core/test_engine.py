"""The engine and the studio on small random models: seeds, blends, cancel, recovery."""

from __future__ import annotations

import io
import json
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import SD3Transformer2DModel
from PIL import Image

from core.engine import LocalEngine
from core.errors import BadRequest, LoomError, LoraDoesNotFit, ModelFileBroken, ModelUnavailable, OutOfMemory
from core.machine import Machine
from core.messages import Preview, Progress
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.conftest import write_lora

Q = "transformer.transformer_blocks.{}.attn.to_q"


def bundle(folder: Path, name: str, layers: Mapping[str, tuple[int, ...]], family: str, seed: int) -> None:
    home = folder / name
    home.mkdir(parents=True)
    sha = write_lora(home / f"{name}.safetensors", layers, seed=seed)
    card = {
        "title": name, "family": family, "triggers": [], "licence": "apache-2.0", "weight": 1.0, "description": "",
        "base": family, "author": "tests", "sha256": sha,
    }  # fmt: skip
    (home / "card.json").write_text(json.dumps(card))


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    sd3 = {Q.format(block): (192, 192) for block in range(6)}
    bundle(folder, "one", sd3, "pocket-sd3", 1)
    bundle(folder, "two", sd3, "pocket-sd3", 2)
    bundle(folder, "lies", {"unet.conv_in": (64, 16, 3, 3)}, "pocket-sd3", 3)
    sdxl = {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (64, 320)}
    bundle(folder, "other", sdxl, "pocket-sdxl", 4)
    bundle(folder, "pocket-sdxl-lcm", {"unet.conv_in": (64, 16, 3, 3)}, "pocket-sdxl", 5)
    return folder


@pytest.fixture
def studio(random_pocket: Path, loras: Path) -> Studio:
    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(loras)]), "pocket-sd3")


def make(studio: Studio, **fields: Any) -> Generated:
    small = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64}
    raw = fields if "recipe" in fields else small | fields
    last = list(studio.generate(raw, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return last


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


@pytest.mark.parametrize("key", ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"])
def test_the_same_seed_gives_the_same_pixels_and_another_gives_others(studio: Studio, key: str) -> None:
    first, again, other = (make(studio, model=key, seed=seed).pictures[0] for seed in (7, 7, 8))
    assert pixels(first) == pixels(again) != pixels(other)


def test_each_picture_of_a_batch_is_made_again_alone_from_its_own_recipe(studio: Studio) -> None:
    batch = make(studio, images=3, loras=[{"ref": "bundled:one", "weight": 0.8}])
    assert batch.recipe.images == 3
    for index, picture in enumerate(batch.pictures):
        own = json.loads(Image.open(io.BytesIO(picture)).text["lora-loom"])  # type: ignore[attr-defined]
        assert (own["seed"], own["images"]) == (7 + index, 1)
        assert pixels(make(studio, recipe=own).pictures[0]) == pixels(picture)


def test_a_lora_changes_the_picture_and_its_receipt_counts_its_layers(studio: Studio) -> None:
    plain, with_lora = make(studio), make(studio, loras=[{"ref": "bundled:one"}])
    assert pixels(plain.pictures[0]) != pixels(with_lora.pictures[0])
    receipt = with_lora.recipe.loras[0].receipt
    assert receipt is not None
    assert (receipt.applied, receipt.total) == (6, 6)
    assert len(with_lora.recipe.loras[0].sha256) == 64


@pytest.mark.parametrize("nothing", [{"weight": 0}, {"muted": True}])
def test_weight_zero_and_mute_equal_none_to_the_bit(studio: Studio, nothing: dict[str, Any]) -> None:
    assert pixels(make(studio, loras=[{"ref": "bundled:one"} | nothing]).pictures[0]) == pixels(
        make(studio).pictures[0]
    )


def test_the_order_of_loras_never_changes_a_pixel(studio: Studio) -> None:
    rows = [{"ref": "bundled:one", "weight": 0.4}, {"ref": "bundled:two", "weight": -0.9}]
    assert pixels(make(studio, loras=rows).pictures[0]) == pixels(make(studio, loras=rows[::-1]).pictures[0])


def test_every_control_of_a_lora_stands_in_the_recipe_which_makes_the_picture_again(studio: Studio) -> None:
    rows = [
        {"ref": "bundled:one", "weight": 1.5, "start": 0.25, "blocks": {"0-2": 0.5, "4": 0}},
        {"ref": "bundled:two", "weight": -1, "end": 0.5, "text_encoder": 0.3},
    ]
    made = make(studio, loras=rows, steps=4, total_strength=1.2, images=2)
    asked = [
        lora.model_dump(exclude_unset=True, include=set(row)) for lora, row in zip(made.recipe.loras, rows, strict=True)
    ]
    assert (asked, made.recipe.total_strength) == (rows, 1.2)
    again = make(studio, recipe=made.recipe.as_json())
    assert list(map(pixels, again.pictures)) == list(map(pixels, made.pictures))
    for without in ({"start": 0}, {"blocks": None}, {"weight": 1}):
        other = make(studio, loras=[rows[0] | without, rows[1]], steps=4, total_strength=1.2)
        assert pixels(other.pictures[0]) != pixels(made.pictures[0])
    assert pixels(make(studio, loras=rows, steps=4).pictures[0]) != pixels(made.pictures[0])


def test_a_blend_of_one_request_is_gone_from_the_next(studio: Studio) -> None:
    before = make(studio)
    make(studio, loras=[{"ref": "bundled:one", "weight": 3}])
    make(studio, model="pocket-sdxl-lcm")
    assert pixels(make(studio).pictures[0]) == pixels(before.pictures[0])


def test_the_accelerator_of_a_speed_mode_stands_in_the_model_never_among_the_loras(studio: Studio) -> None:
    recipe = make(studio, model="pocket-sdxl-lcm").recipe
    assert recipe.model.accelerator == "bundled:pocket-sdxl-lcm"
    assert recipe.loras == ()
    assert pixels(make(studio, model="pocket-sdxl", steps=2).pictures[0]) != b""


def test_a_lora_of_another_family_is_refused_and_the_next_picture_is_as_before(studio: Studio) -> None:
    before = make(studio)
    for ref in ("bundled:other", "bundled:lies"):  # the second has a card that says otherwise
        with pytest.raises(LoraDoesNotFit, match="made for pocket-sdxl"):
            make(studio, loras=[{"ref": "bundled:one"}, {"ref": ref}])
    assert pixels(make(studio).pictures[0]) == pixels(before.pictures[0])


def test_an_unknown_lora_is_named(studio: Studio) -> None:
    with pytest.raises(CatalogError, match="bundled:nowhere"):
        make(studio, loras=[{"ref": "bundled:nowhere"}])


class StopAtTheThirdLook:
    """A stop flag that is raised while the engine draws, whoever else is busy."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks >= 3


def test_cancel_stops_at_the_next_step_and_the_next_request_works(studio: Studio) -> None:
    stop = StopAtTheThirdLook()
    with pytest.raises(LoomError, match="Cancelled"):
        list(studio.generate({"prompt": "a cat", "steps": 50}, ANYONE, stop))
    assert stop.looks == 3
    make(studio)


def test_closing_the_stream_frees_the_engine(studio: Studio) -> None:
    stream = studio.generate({"prompt": "a cat", "steps": 100}, ANYONE, threading.Event())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    make(studio)


def test_two_requests_at_once_never_share_a_blend(studio: Studio) -> None:
    def drawn(weight: int) -> bytes:
        return pixels(make(studio, loras=[{"ref": "bundled:one", "weight": weight}]).pictures[0])

    alone = {weight: drawn(weight) for weight in (1, 2)}
    together: dict[int, bytes] = {}

    def draw(weight: int) -> None:
        together[weight] = drawn(weight)

    threads = [threading.Thread(target=draw, args=(weight,)) for weight in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_previews_and_numbered_progress_come_before_the_picture(studio: Studio) -> None:
    updates = list(studio.generate({"prompt": "a cat", "steps": 8, "images": 2}, ANYONE, threading.Event()))
    progress = [u for u in updates if isinstance(u, Progress) and u.total]
    assert [u.done for u in progress] == list(range(1, 17))
    assert any(isinstance(u, Preview) for u in updates)


def test_a_torn_or_missing_model_file_is_named_with_the_way_back(
    studio: Studio, random_pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "pocket"
    shutil.copytree(random_pocket, copy)
    for module in ("core.base_models", "core.loading"):
        monkeypatch.setattr(f"{module}.POCKET", copy)
    file = copy / "pocket-sd3" / "vae" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(ModelFileBroken, match=r"models/pocket/pocket-sd3/vae/\S+ is torn .*git checkout"):
        make(studio)
    file.unlink()
    with pytest.raises(ModelFileBroken, match="is missing"):
        make(studio)
    file.write_bytes(content)
    make(studio)


def test_a_recipe_for_other_weights_is_refused_in_words(studio: Studio) -> None:
    raw = make(studio).recipe.as_json()
    raw["model"]["revision"] = "0" * 64
    with pytest.raises(ModelUnavailable, match="other weights of Pocket SD3"):
        make(studio, recipe=raw)


def test_a_recipe_decides_alone(studio: Studio) -> None:
    with pytest.raises(BadRequest, match="steps must be left out"):
        make(studio, recipe=make(studio).recipe.as_json(), steps=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version must be 1"),
        ({"version": True}, "version must be 1"),
        ({"seed": -1}, "recipe.seed must be"),
        ({"plan": {"dtype": "float32", "device": "cpu", "batch": 9}}, "recipe.plan.batch must be 1, not “9”"),
        ({"init": {"sha256": "x"}}, "recipe.init.strength is required"),
        ({"wings": 1}, "recipe.wings is not a field"),
        ({"steps": "x"}, "recipe.steps"),
    ],
)
def test_unknown_versions_and_fields_of_a_recipe_are_refused_by_name(
    studio: Studio, change: dict[str, Any], words: str
) -> None:
    raw = make(studio).recipe.as_json() | change
    with pytest.raises(BadRequest, match=words):
        make(studio, recipe=raw)


@pytest.mark.parametrize("change", [{"repo": "somebody/else"}, {"accelerator": "bundled:one"}])
def test_a_recipe_that_names_another_base_is_refused(studio: Studio, change: dict[str, Any]) -> None:
    raw = make(studio).recipe.as_json()
    raw["model"] |= change
    with pytest.raises(BadRequest, match=rf"recipe\.model\.{next(iter(change))} must be null"):
        make(studio, recipe=raw)


def test_the_accelerator_cannot_be_added_twice(studio: Studio) -> None:
    with pytest.raises(BadRequest, match="has it already"):
        make(studio, model="pocket-sdxl-lcm", loras=[{"ref": "bundled:pocket-sdxl-lcm"}])


def test_a_real_model_on_a_machine_without_a_gpu_says_what_it_needs(studio: Studio) -> None:
    with pytest.raises(ModelUnavailable, match=r"needs a GPU with about 30\.3 GB, or 1\.8 GB and more time"):
        make(studio, model="sd3.5-large", width=1024, height=1024)


def test_a_random_seed_stands_in_the_recipe_and_makes_the_picture_again(studio: Studio) -> None:
    surprise = make(studio, seed=-1)
    assert surprise.recipe.seed >= 0
    assert pixels(make(studio, recipe=surprise.recipe.as_json()).pictures[0]) == pixels(surprise.pictures[0])


NO_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


def run_out(monkeypatch: pytest.MonkeyPatch, error: Exception, at: Iterator[int]) -> None:
    """The denoiser's forwards, counted from 0 over all models, fail where `at` says."""
    forward, failing, seen = SD3Transformer2DModel.forward, set(at), iter(range(1000))

    def failed(*given: Any, **named: Any) -> Any:
        if next(seen) in failing:
            raise type(error)(*error.args)  # a new one: the traceback of one that is kept holds all that was loaded
        return forward(*given, **named)

    monkeypatch.setattr(SD3Transformer2DModel, "forward", failed)


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_where_memory_runs_out_all_is_let_go_and_the_next_plan_draws_the_picture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    plain = make(studio, steps=3)
    first = weakref.ref(studio.engine._easel.pipeline.transformer)  # type: ignore[attr-defined]
    run_out(monkeypatch, NO_MEMORY[kind], iter([1]))
    raw = {"prompt": "a cat", "steps": 3, "seed": 7, "width": 64, "height": 64, "loras": [{"ref": "bundled:one"}]}
    updates = list(studio.generate(raw, ANYONE, threading.Event()))
    said = [update.stage for update in updates if isinstance(update, Progress)]
    assert said.count("Out of memory: once more with everything on the device, pictures decoded in tiles") == 1
    assert first() is None
    made = updates[-1]
    assert isinstance(made, Generated)
    assert made.recipe.plan.quantisation == "vae:tiled"
    assert pixels(made.pictures[0]) == pixels(make(studio, steps=3, loras=[{"ref": "bundled:one"}]).pictures[0])
    assert pixels(make(studio, steps=3).pictures[0]) == pixels(plain.pictures[0])


def test_where_memory_runs_out_twice_it_is_said_and_the_next_request_works(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out(monkeypatch, NO_MEMORY["cuda"], iter([0, 1]))
    with pytest.raises(OutOfMemory, match="with the plan tiled too: ask for a smaller picture"):
        make(studio)
    assert studio.engine._easel is None  # type: ignore[attr-defined]
    assert make(studio).recipe.plan.quantisation is None


def test_an_error_that_only_sounds_like_it_is_no_lack_of_memory(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_out(monkeypatch, RuntimeError("shapes cannot be multiplied"), iter([0]))
    with pytest.raises(LoomError, match="Something broke on our side"):
        make(studio)
    assert make(studio).recipe.plan.quantisation is None


def test_a_recipe_is_made_again_with_what_its_plan_says_of_pixels(random_pocket: Path, loras: Path) -> None:
    def studio_with(plan: str | None) -> Studio:
        return Studio(LocalEngine(Machine("cpu", plan=plan)), Catalog([BundledSource(loras)]), "pocket-sd3")

    tiled = make(studio_with("tiled"), width=128, height=128)
    assert tiled.recipe.plan.quantisation == "vae:tiled"
    usual = studio_with(None)
    assert pixels(make(usual, width=128, height=128).pictures[0]) != pixels(tiled.pictures[0])
    again = make(usual, recipe=tiled.recipe.as_json())
    assert pixels(again.pictures[0]) == pixels(tiled.pictures[0])
    assert make(usual).recipe.plan.quantisation is None


@pytest.mark.parametrize("model", ["pocket-sd3", "pocket-sdxl"])
def test_what_a_prompt_has_too_many_of_is_told_to_its_visitor_and_never_logged(
    studio: Studio, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.add_handler(caplog.handler)  # their loggers hand nothing on
    try:
        generated = make(studio, model=model, prompt="a red circle " * 40 + "secretword", steps=1)
    finally:
        for library in libraries:
            library.remove_handler(caplog.handler)
    assert generated.notes
    assert "secretword" not in caplog.text
