"""Looking at a blend and saving it, through the studio: from refs to numbers, and to a file that draws the same."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import core.blends
from core.blends import SavedBlend
from core.engine import LocalEngine
from core.errors import BadRequest, Cancelled, LoraDoesNotFit, LoraRefused
from core.lora.save import OneLora, one_lora
from core.machine import Machine
from core.messages import Progress
from core.recipe import RecipeReceipt
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.folder import FolderSource
from lora_catalog.visitor import ANYONE
from tests.core.conftest import write_lora
from tests.core.test_engine import Q, bundle

Answer = TypeVar("Answer")
TO_K = Q.replace("to_q", "to_k")
SD3 = {Q.format(block): (192, 192) for block in range(6)}
ONE, TWO = {"ref": "bundled:one", "weight": 0.7}, {"ref": "bundled:two", "weight": -0.4}


@pytest.fixture
def studio(random_pocket: Path, tmp_path: Path) -> Studio:
    loras = tmp_path / "bundled"
    bundle(loras, "one", SD3, "pocket-sd3", 1)
    bundle(loras, "two", SD3, "pocket-sd3", 2)
    bundle(loras, "twin", SD3, "pocket-sd3", 1)
    catalog = Catalog([BundledSource(loras), FolderSource(tmp_path / "own", public=False)])
    return Studio(LocalEngine(Machine("cpu")), catalog, "pocket-sd3")


def inspected(studio: Studio, *loras: dict[str, Any]) -> dict[str, Any]:
    return ended(studio.inspect_blend({"loras": list(loras), "model": None}, ANYONE, threading.Event()))


def saved(studio: Studio, raw: dict[str, Any], folder: Path) -> SavedBlend:
    return ended(studio.save_blend(raw, ANYONE, folder, threading.Event()))


def partial(tmp_path: Path, layers: int) -> dict[str, str]:
    """So many layers of one's own file fit, and two do not: their rows are too few."""
    (tmp_path / "own").mkdir(exist_ok=True)
    shapes: dict[str, tuple[int, ...]] = {TO_K.format(block): (192, 192) for block in range(layers)}
    write_lora(tmp_path / "own" / "partial.safetensors", shapes | {Q.format(block): (96, 192) for block in range(2)})
    return {"ref": "local:partial.safetensors"}


def ended(work: Generator[Progress, None, Answer]) -> Answer:
    """What it gives at its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


def drawn(studio: Studio, *loras: dict[str, Any]) -> bytes:
    raw = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64, "loras": list(loras)}
    last = list(studio.generate(raw, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    return Image.open(io.BytesIO(last.pictures[0])).tobytes()


def test_a_blend_is_told_by_pair_by_block_and_against_the_model(studio: Studio, random_pocket: Path) -> None:
    seen = inspected(studio, ONE, {"ref": "bundled:twin", "weight": 0.5})
    (pair,) = seen["pairs"]
    assert (pair["a"], pair["b"], pair["conflict"]) == ("bundled:one", "bundled:twin", pytest.approx(1.0))
    assert [entry["block"] for entry in seen["blocks"]] == list("012345")
    assert seen["said"] == "These two pull the same way in 6 of 6 blocks."
    assert [lora["suggested_weight"] for lora in seen["loras"]] == [0.5, 0.5]
    tensors: dict[str, torch.Tensor] = {}
    for file in (random_pocket / "pocket-sd3" / "transformer").glob("*.safetensors"):
        tensors |= load_file(file)
    base = sum(float(tensors[f"{layer.removeprefix('transformer.')}.weight"].square().sum()) for layer in SD3) ** 0.5
    first = seen["loras"][0]
    assert first["relative_norm"] == pytest.approx(first["norm"] / base, rel=1e-4)


def test_strangers_keep_out_of_each_others_way(studio: Studio) -> None:
    assert inspected(studio, ONE, TWO)["said"] == "These two keep out of each other's way in all 6 blocks."


def test_a_lora_of_which_too_little_fits_is_looked_at_only_where_partial_ones_are_allowed(
    studio: Studio, tmp_path: Path
) -> None:
    raw = {"loras": [ONE, partial(tmp_path, 6)], "model": None}
    with pytest.raises(LoraDoesNotFit, match=r"Only 6 of 8 layers of local:partial.* allow partial LoRAs"):
        ended(studio.inspect_blend(raw, ANYONE, threading.Event()))
    seen = ended(studio.inspect_blend(raw | {"allow_partial": True}, ANYONE, threading.Event()))
    assert [lora["receipt"] for lora in seen["loras"]] == [
        {"applied": 6, "total": 6, "text_encoder": 0},
        {"applied": 6, "total": 8, "text_encoder": 0},
    ]
    with pytest.raises(LoraDoesNotFit):
        ended(studio.inspect_blend(raw, ANYONE, threading.Event()))


def test_only_loras_that_meet_at_a_step_are_compared(studio: Studio) -> None:
    first, second = ONE | {"end": 0.5}, {"ref": "bundled:twin", "start": 0.5}
    apart = inspected(studio, first, second)
    assert (apart["pairs"], apart["blocks"]) == ([], [])
    assert apart["said"] == "Nothing to compare: no two of these LoRAs count at the same step."
    assert all(lora["norm"] > 0 for lora in apart["loras"])
    seen = inspected(studio, first, second, TWO | {"end": 0.2})
    assert [(pair["a"], pair["b"]) for pair in seen["pairs"]] == [("bundled:one", "bundled:two")]
    assert seen["said"] == "The two that meet at some step keep out of each other's way in all 6 blocks."


def test_one_skewed_lora_does_not_spoil_the_look(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    down, up = torch.full((4, 192), 1e25), torch.full((192, 4), 1e-26)
    tensors = {f"{Q.format(0)}.lora_A.weight": down, f"{Q.format(0)}.lora_B.weight": up}
    save_file(tensors, tmp_path / "own" / "skewed.safetensors")
    seen = inspected(studio, ONE, {"ref": "local:skewed.safetensors"})
    assert seen["loras"][1]["norm"] == pytest.approx(0.4 * 192, rel=1e-3)
    assert all(lora["suggested_weight"] is not None for lora in seen["loras"])
    assert seen["said"].startswith("These two")


def test_what_cannot_be_measured_is_refused_by_its_name(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    huge = {f"{Q.format(0)}.lora_{end}.weight": torch.full((192, 192), 1e38) for end in "AB"}
    tensors = huge | {f"{Q.format(0)}.alpha": torch.tensor(1e-70, dtype=torch.float64)}
    save_file(tensors, tmp_path / "own" / "huge.safetensors")
    with pytest.raises(LoraRefused, match=r"local:huge.* cannot be measured: leave it out"):
        inspected(studio, ONE, {"ref": "local:huge.safetensors"})


def test_a_rank_that_cuts_nothing_is_exact(studio: Studio, tmp_path: Path) -> None:
    abouts = [saved(studio, {"loras": [ONE, TWO], "rank": rank}, tmp_path).about for rank in (8, 7)]
    assert [about["exact"] for about in abouts] == [True, False]


def test_another_weight_needs_no_other_look_into_the_files(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = {"ref": "bundled:twin", "weight": 0.5}
    inspected(studio, ONE, twin)
    monkeypatch.setattr(core.blends, "parse_lora", None)
    assert inspected(studio, ONE, twin | {"weight": -0.5})["pairs"][0]["conflict"] == pytest.approx(-1.0)


def test_the_saved_file_draws_the_blends_picture(studio: Studio, tmp_path: Path) -> None:
    raw = {"loras": [ONE, TWO], "title": "Both at once", "precision": "float32"}
    one = saved(studio, raw, tmp_path / "own")
    assert one.path.name == "both-at-once.safetensors"
    assert (one.about["exact"], one.about["rank"], one.about["layers"]) == (True, 8, 6)
    assert one.about["error"] < 1e-6
    bare, blended, loaded = drawn(studio), drawn(studio, ONE, TWO), drawn(studio, {"ref": f"local:{one.path.name}"})
    furthest = max(abs(a - b) for a, b in zip(blended, loaded, strict=True))
    assert furthest <= 1 < max(abs(a - b) for a, b in zip(blended, bare, strict=True))


def test_the_file_names_its_parents(studio: Studio, tmp_path: Path) -> None:
    one = saved(studio, {"loras": [ONE, TWO], "rank": 3}, tmp_path / "own")
    with safe_open(one.path, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "one + two"
    assert metadata["modelspec.license"] == "apache-2.0"
    told = json.loads(metadata["lora_loom.blend"])
    assert [(parent["ref"], parent["weight"]) for parent in told["parents"]] == [
        ("bundled:one", 0.7),
        ("bundled:two", -0.4),
    ]
    assert all(len(parent["sha256"]) == 64 for parent in told["parents"])
    assert (told["rank"], told["exact"]) == (3, False)
    assert 0.1 < told["error"] <= told["worst"]["error"] < 1
    look = studio.inspect_lora(f"local:{one.path.name}", None, ANYONE)
    assert (look.family, look.title, look.fits) == ("pocket-sd3", "one + two", "yes")


def test_total_strength_goes_into_the_file(studio: Studio, tmp_path: Path) -> None:
    one = saved(studio, {"loras": [ONE, TWO], "total_strength": 2.2}, tmp_path)
    assert [parent["weight"] for parent in one.about["parents"]] == pytest.approx([1.4, -0.8])


REFUSED = [
    ({}, "loras is required"),
    ({"loras": [ONE], "rank": 0}, "rank must be a whole number from 1 to 1024"),
    ({"loras": [ONE], "rank": "8"}, "rank must be"),
    ({"loras": [ONE], "title": "x" * 101}, "title must be"),
    ({"loras": [ONE], "title": "two\nlines"}, "title must be"),
    ({"loras": [ONE], "precision": "int8"}, "precision must be float16 or float32"),
    ({"loras": [ONE | {"end": 0.5}]}, "holds for every step"),
    ({"loras": [ONE | {"weight": 6}]}, "weight must be"),
]


@pytest.mark.parametrize(("raw", "said"), REFUSED, ids=[json.dumps(raw)[:40] for raw, _ in REFUSED])
def test_what_cannot_be_saved_is_refused_in_a_sentence(
    studio: Studio, raw: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match=said):
        saved(studio, raw, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_lora_of_another_family_is_refused(studio: Studio) -> None:
    with pytest.raises(LoraDoesNotFit, match="does not fit"):
        ended(studio.inspect_blend({"loras": [ONE], "model": "pocket-sdxl"}, ANYONE, threading.Event()))


def test_a_dora_is_measured_by_the_files_of_the_model(studio: Studio, tmp_path: Path) -> None:
    layer = Q.format(0)
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(2, 192), f"{layer}.lora_B.weight": torch.randn(192, 2),
        f"{layer}.lora_magnitude_vector": torch.ones(192),
    }  # fmt: skip
    (tmp_path / "own").mkdir()
    save_file(tensors, tmp_path / "own" / "dora.safetensors")
    (lora,) = inspected(studio, {"ref": "local:dora.safetensors"})["loras"]
    assert lora["norm"] > 0


def test_a_lora_of_which_too_little_fits_is_saved_only_where_partial_ones_are_allowed(
    studio: Studio, tmp_path: Path
) -> None:
    one = partial(tmp_path, 6)
    with pytest.raises(LoraDoesNotFit, match=r"Only 6 of 8 layers of local:partial.* allow partial LoRAs"):
        saved(studio, {"loras": [ONE, one]}, tmp_path / "made")
    whole, part = saved(studio, {"loras": [ONE, one], "allow_partial": True}, tmp_path / "made").about["parents"]
    assert (whole["receipt"]["applied"], whole["receipt"]["total"], whole["receipt"]["skipped"]) == (6, 6, ())
    assert (part["receipt"]["applied"], part["receipt"]["total"], part["layers"]) == (6, 8, 6)
    assert [name for name, _ in part["receipt"]["skipped"]] == [Q.format(0), Q.format(1)]


def test_what_drawing_tells_of_a_lora_the_saved_blend_tells_too(studio: Studio, tmp_path: Path) -> None:
    raw = {"loras": [ONE, partial(tmp_path, 6)], "allow_partial": True}
    asked = raw | {"prompt": "a cat", "steps": 1, "width": 64, "height": 64}
    last = list(studio.generate(asked, ANYONE, threading.Event()))[-1]
    assert isinstance(last, Generated)
    parents = saved(studio, raw, tmp_path / "made").about["parents"]
    assert [RecipeReceipt(**parent["receipt"]) for parent in parents] == [lora.receipt for lora in last.recipe.loras]


def test_a_stop_ends_saving_and_looking_before_they_compute(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.blends, "parse_lora", None)
    stop = threading.Event()
    works: list[Generator[Progress, None, Any]] = [
        studio.save_blend({"loras": [ONE]}, ANYONE, tmp_path / "made", stop),
        studio.inspect_blend({"loras": [ONE], "model": None}, ANYONE, stop),
    ]
    told = [next(work).stage for work in works]
    assert told == ["Weaving them into one", "Looking at their layers"]
    stop.set()
    for work in works:
        with pytest.raises(Cancelled):
            ended(work)
    assert not (tmp_path / "made").exists()


def test_one_blend_waits_for_another_says_so_and_can_be_stopped(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(*blend: Any) -> OneLora:
        begun.set()
        assert go_on.wait(30)
        return one_lora(*blend)

    monkeypatch.setattr(core.blends, "one_lora", slow)
    first = threading.Thread(target=saved, args=(studio, {"loras": [ONE], "title": "first"}, tmp_path))
    first.start()
    assert begun.wait(30)
    stop = threading.Event()
    second = studio.inspect_blend({"loras": [ONE, TWO], "model": None}, ANYONE, stop)
    told = [next(second).stage, next(second).stage]
    stop.set()
    with pytest.raises(Cancelled):
        ended(second)
    go_on.set()
    first.join(30)
    assert told[1] == "Waiting for the blend before yours"
    assert (tmp_path / "first.safetensors").exists()
    assert inspected(studio, ONE, TWO)["pairs"], "whoever was stopped must not hold the turn"
