"""From a request's refs to files: pinned, checked by their headers before any download, told, cancellable, kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from core.errors import BadRequest, Cancelled, LoraDoesNotFit, LoraFileBroken, LoraRefused
from core.messages import LoraFile, Progress
from core.recipe_text import a1111_text
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.errors import BadRef
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.hub import HubSource
from lora_catalog.store import LoraStore
from lora_catalog.visitor import ANYONE
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import SD3_ATTENTION, SDXL_ATTENTION, lora_bytes
from tests.ui.fakes import FakeEngine

SD3 = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
SDXL = {SDXL_ATTENTION.format(layer="attn2.to_k"): (320, 64)}


@pytest.fixture
def studio(hub: EmulatedHub, tmp_path: Path) -> Iterator[Studio]:
    index = CardIndex(tmp_path / "catalog.sqlite")
    source = HubSource(HubApi(hub.endpoint, lambda seconds: None), index, LoraStore(tmp_path / "store"))
    yield Studio(FakeEngine(), Catalog([BundledSource(tmp_path / "none"), source], hub.endpoint), "pocket-sd3")
    index.close()


def add(hub: EmulatedHub, name: str, layers: dict[str, tuple[int, int]], rank: int = 4) -> str:
    return hub.add_repo(name, {"lora.safetensors": lora_bytes(layers, rank)}, tags=["lora"])


def run(studio: Studio, *refs: str, stop: threading.Event | None = None, **fields: Any) -> list[Any]:
    raw = {"prompt": "a cat", "seed": 1, "loras": [{"ref": ref} for ref in refs]} | fields
    return list(studio.generate(raw, ANYONE, stop or threading.Event()))


def test_a_hub_lora_is_drawn_with_and_stands_pinned_in_the_recipe(hub: EmulatedHub, studio: Studio) -> None:
    sha = add(hub, "weaver/neon", SD3)
    generated = run(studio, "weaver/neon")[-1]
    assert isinstance(generated, Generated)
    (lora,) = generated.recipe.loras
    assert lora.ref == f"weaver/neon@{sha}:lora.safetensors"
    assert studio.engine.jobs[-1].loras[0].sha256 == lora.sha256  # type: ignore[attr-defined]
    hub.commit("weaver/neon", {"lora.safetensors": lora_bytes(SD3, rank=8)})
    again = run(studio, prompt=None, seed=None, loras=None, recipe=generated.recipe.as_json())[-1]
    assert again.recipe.loras == generated.recipe.loras


def test_a_tag_in_the_prompt_names_a_hub_lora(hub: EmulatedHub, studio: Studio) -> None:
    sha = add(hub, "weaver/neon", SD3)
    recipe = run(studio, prompt="a cat <lora:weaver/neon:0.5>")[-1].recipe
    assert (recipe.prompt, recipe.loras[0].weight) == ("a cat", 0.5)
    assert recipe.loras[0].ref == f"weaver/neon@{sha}:lora.safetensors"


def test_one_that_does_not_fit_is_refused_before_any_is_downloaded(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/neon", SD3)
    add(hub, "weaver/other", SDXL)
    with pytest.raises(
        LoraDoesNotFit, match=r"weaver/other does not fit Pocket SD3: .*pocket-sdxl.*; choose a LoRA for"
    ):
        run(studio, "weaver/neon", "weaver/other")
    assert all("range" in asked.headers for asked in hub.asked("/resolve/"))
    assert studio.engine.jobs == []  # type: ignore[attr-defined]


def test_a_torn_pair_is_called_broken_in_one_sentence_not_made_for_another_model(
    hub: EmulatedHub, studio: Studio
) -> None:
    half = {f"{SD3_ATTENTION.format(block=0, layer='to_q')}.lora_A.weight": torch.zeros(4, 192)}
    hub.add_repo("weaver/half", {"lora.safetensors": save(half)}, tags=["lora"])
    with pytest.raises(LoraFileBroken, match=r"^weaver/half cannot be used as a LoRA: .* lacks its up part\.$"):
        run(studio, "weaver/half")


def test_a_download_is_told_in_bytes(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/big", SD3, rank=1024)
    hub.fail("/resolve/", faults.throttled(10_000_000, piece=1 << 18), skip=1)
    told = [update for update in run(studio, "weaver/big") if isinstance(update, Progress)]
    size = len(lora_bytes(SD3, 1024))
    fetching = [update for update in told if update.stage == "Fetching lora.safetensors"]
    assert fetching
    assert all(update.total == size and update.done <= size for update in fetching)


def test_a_cancel_ends_a_download(hub: EmulatedHub, studio: Studio, tmp_path: Path) -> None:
    add(hub, "weaver/big", SD3, rank=1024)
    hub.fail("/resolve/", faults.throttled(200_000), skip=1)
    stop = threading.Event()
    updates = studio.generate({"prompt": "a cat", "loras": [{"ref": "weaver/big"}]}, ANYONE, stop)
    assert next(updates).stage.startswith("Fetching")  # type: ignore[union-attr]
    stop.set()
    with pytest.raises(Cancelled):
        list(updates)
    assert list((tmp_path / "store").glob("*.safetensors")) == []


def test_two_refs_of_one_file_are_one_too_many(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/neon", SD3)
    with pytest.raises(BadRequest, match="two refs mean the same file"):
        run(studio, "weaver/neon", "weaver/neon:lora.safetensors")


def test_a_file_that_differs_from_the_recipes_is_refused(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/neon", SD3)
    recipe = run(studio, "weaver/neon")[-1].recipe.as_json()
    recipe["loras"][0]["sha256"] = "0" * 64
    with pytest.raises(LoraRefused, match="has changed since this recipe was made"):
        run(studio, prompt=None, seed=None, loras=None, recipe=recipe)


def test_a_foreign_address_is_refused_by_the_catalogue(hub: EmulatedHub, studio: Studio) -> None:
    for address in ("https://evil.example/a/b", "file:///etc/passwd", f"{hub.elsewhere}/weaver/neon"):
        with pytest.raises(BadRef):
            run(studio, address)
    assert hub.requests == []


def asked(studio: Studio, loras: list[dict[str, Any]], **fields: Any) -> list[LoraFile]:
    """What the engine was asked for."""
    run(studio, loras=loras, **fields)
    return list(studio.engine.jobs[-1].loras)  # type: ignore[attr-defined]


def test_controls_reach_the_engine_and_words_are_read_only_from_the_start(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/neon", SD3)
    neon = {"ref": "weaver/neon", "weight": 0.5, "text_encoder": 0.25, "end": 0.5, "blocks": {"0-3": 0}}
    (early,) = asked(studio, [neon])
    assert (early.weight, early.text_encoder, early.start, early.end) == (0.5, 0.25, 0.0, 0.5)
    assert early.blocks == {"0-3": 0.0}
    (late,) = asked(studio, [neon | {"start": 0.1}])
    assert (late.weight, late.text_encoder, late.start) == (0.5, 0.0, 0.1)
    (whole,) = asked(studio, [{"ref": "weaver/neon", "weight": 0.5}])
    assert (whole.text_encoder, whole.start, whole.end, whole.blocks) == (0.5, 0.0, 1.0, {})


def test_total_strength_scales_all_that_is_heard_and_the_recipe_keeps_what_was_asked(
    hub: EmulatedHub, studio: Studio
) -> None:
    for number, name in enumerate(("one", "two", "mute")):
        add(hub, f"weaver/{name}", SD3, rank=number + 1)
    rows: list[dict[str, Any]] = [
        {"ref": "weaver/one", "weight": 3, "text_encoder": 1},
        {"ref": "weaver/two", "weight": -1},
        {"ref": "weaver/mute", "weight": 5, "muted": True},
    ]
    files = asked(studio, rows, total_strength=2)
    assert [(file.weight, file.text_encoder) for file in files] == [(1.5, 0.5), (-0.5, -0.5), (0, 0)]
    recipe = run(studio, loras=rows, total_strength=2)[-1].recipe
    assert (recipe.total_strength, [lora.weight for lora in recipe.loras]) == (2.0, [3.0, -1.0, 5.0])
    assert "<lora:lora:1.5:te=0.5:unet=1.5> <lora:lora:-0.5>" in a1111_text(recipe)
    again = run(studio, prompt=None, seed=None, loras=None, recipe=recipe.as_json())[-1]
    assert again.recipe.model_copy(update={"created_at": ""}) == recipe.model_copy(update={"created_at": ""})
    assert [file.weight for file in studio.engine.jobs[-1].loras] == [1.5, -0.5, 0]  # type: ignore[attr-defined]
    assert [file.weight for file in asked(studio, rows)] == [3.0, -1.0, 0.0]


def test_nothing_is_scaled_where_nothing_counts(hub: EmulatedHub, studio: Studio) -> None:
    add(hub, "weaver/neon", SD3)
    (silent,) = asked(studio, [{"ref": "weaver/neon", "weight": 0}], total_strength=2)
    assert silent.weight == 0


def test_sd_nexts_address_of_a_hub_lora_is_read(hub: EmulatedHub, studio: Studio) -> None:
    sha = add(hub, "weaver/neon", SD3)
    recipe = run(studio, prompt="a cat <lora:/huggingface.co/weaver/neon:0.8>")[-1].recipe
    assert (recipe.loras[0].ref, recipe.loras[0].weight) == (f"weaver/neon@{sha}:lora.safetensors", 0.8)
