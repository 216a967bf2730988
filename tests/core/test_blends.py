"""Looking at a blend and saving it, through the studio: from refs to numbers, and to a file that draws the same."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import core.blends
from core.engine import LocalEngine
from core.errors import BadRequest, LoraDoesNotFit
from core.machine import Machine
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.folder import FolderSource
from lora_catalog.visitor import ANYONE
from tests.core.test_engine import Q, bundle

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
    return studio.inspect_blend({"loras": list(loras), "model": None}, ANYONE)


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


def test_another_weight_needs_no_other_look_into_the_files(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = {"ref": "bundled:twin", "weight": 0.5}
    inspected(studio, ONE, twin)
    monkeypatch.setattr(core.blends, "parse_lora", None)
    assert inspected(studio, ONE, twin | {"weight": -0.5})["pairs"][0]["conflict"] == pytest.approx(-1.0)


def test_the_saved_file_draws_the_blends_picture(studio: Studio, tmp_path: Path) -> None:
    raw = {"loras": [ONE, TWO], "title": "Both at once", "precision": "float32"}
    saved = studio.save_blend(raw, ANYONE, tmp_path / "own")
    assert saved.path.name == "both-at-once.safetensors"
    assert (saved.about["exact"], saved.about["rank"], saved.about["layers"]) == (True, 8, 6)
    assert saved.about["error"] < 1e-6
    bare, blended, loaded = drawn(studio), drawn(studio, ONE, TWO), drawn(studio, {"ref": f"local:{saved.path.name}"})
    furthest = max(abs(a - b) for a, b in zip(blended, loaded, strict=True))
    assert furthest <= 1 < max(abs(a - b) for a, b in zip(blended, bare, strict=True))


def test_the_file_names_its_parents(studio: Studio, tmp_path: Path) -> None:
    saved = studio.save_blend({"loras": [ONE, TWO], "rank": 3}, ANYONE, tmp_path / "own")
    with safe_open(saved.path, "pt") as file:
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
    look = studio.inspect_lora(f"local:{saved.path.name}", None, ANYONE)
    assert (look.family, look.title, look.fits) == ("pocket-sd3", "one + two", "yes")


def test_total_strength_goes_into_the_file(studio: Studio, tmp_path: Path) -> None:
    saved = studio.save_blend({"loras": [ONE, TWO], "total_strength": 2.2}, ANYONE, tmp_path)
    assert [parent["weight"] for parent in saved.about["parents"]] == pytest.approx([1.4, -0.8])


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
        studio.save_blend(raw, ANYONE, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_lora_of_another_family_is_refused(studio: Studio) -> None:
    with pytest.raises(LoraDoesNotFit, match="does not fit"):
        studio.inspect_blend({"loras": [ONE], "model": "pocket-sdxl"}, ANYONE)


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
