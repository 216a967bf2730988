"""From a picture or a text to a recipe that can be asked for here, and what of it cannot be the same, by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.memory import PLANS
from core.recipe import Plan, Recipe, permalink, read_recipe
from core.recipe_files import CHUNK, picture_as, png_with_recipe
from core.recipe_here import Here
from core.recipe_text import a1111_text
from core.studio import Studio
from lora_catalog.catalog import Catalog
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.sources.base import Source
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.folder import FolderSource
from lora_catalog.sources.hub import HubSource
from lora_catalog.store import LoraStore
from lora_catalog.visitor import ANYONE
from tests.core.recipes import lora, recipe, without_receipts
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import SD3_ATTENTION, SDXL_ATTENTION, lora_bytes, write_bundled
from tests.ui.fakes import FakeEngine

SD3 = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
SDXL = {SDXL_ATTENTION.format(layer="attn2.to_k"): (320, 64)}


@pytest.fixture
def studio(hub: EmulatedHub, tmp_path: Path) -> Iterator[Studio]:
    write_bundled(tmp_path / "bundled", "neon", SD3, title="Neon")
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "mine.safetensors").write_bytes(lora_bytes(SD3, 2))
    index = CardIndex(tmp_path / "catalog.sqlite")
    source = HubSource(HubApi(hub.endpoint, lambda seconds: None), index, LoraStore(tmp_path / "store"))
    sources: list[Source] = [
        BundledSource(tmp_path / "bundled"),
        FolderSource(tmp_path / "loras", public=False),
        source,
    ]
    yield Studio(FakeEngine(), Catalog(sources, hub.endpoint), "pocket-sd3")
    index.close()


def read(studio: Studio, made: Recipe | dict[str, Any]) -> tuple[Recipe, dict[str, str]]:
    raw = made.as_json() if isinstance(made, Recipe) else made
    found, reasons = studio.read_recipe({"text": json.dumps(raw)}, ANYONE)
    assert len({reason.field for reason in reasons}) == len(reasons)
    assert all(reason.reason.endswith(".") and "\n" not in reason.reason for reason in reasons)
    return found, {reason.field: reason.reason for reason in reasons}


def mine(tmp_path: Path, **fields: Any) -> Recipe:
    sha256 = hashlib.sha256((tmp_path / "loras" / "mine.safetensors").read_bytes()).hexdigest()
    return recipe("pocket-sd3", loras=(lora("local:mine.safetensors", sha256=sha256),), **fields)


def test_what_can_be_made_again_has_no_reasons(studio: Studio, tmp_path: Path) -> None:
    made = mine(tmp_path)
    assert read(studio, made) == (made, {})


def test_every_form_of_one_recipe_says_the_same(studio: Studio, tmp_path: Path) -> None:
    made = mine(tmp_path)
    png = png_with_recipe(8, 8, bytes(192), made)
    (tmp_path / "picture").write_bytes(png)
    (tmp_path / "photo").write_bytes(picture_as(png, "webp"))
    link = permalink(made)
    for raw in (
        {"image": str(tmp_path / "picture")}, {"image": str(tmp_path / "photo"), "text": None},
        {"text": json.dumps(made.as_json(), indent=2)},
    ):  # fmt: skip
        assert studio.read_recipe(raw, ANYONE) == (made, [])
    for text in (link, f" https://weaver-loom.hf.space{link}\n"):
        assert studio.read_recipe({"text": text}, ANYONE) == (without_receipts(made), [])
    again, _ = studio.read_recipe({"text": a1111_text(made)}, ANYONE)
    assert [one.ref for one in again.loras] == ["local:mine.safetensors"]
    assert read_recipe(again.as_json()) == again


def test_a_changed_and_a_missing_file_are_named(studio: Studio) -> None:
    loras = (lora("local:mine.safetensors"), lora("local:gone.safetensors"), lora("bundled:gone"))
    found, told = read(studio, recipe("pocket-sd3", loras=loras))
    assert len(found.loras) == 3
    assert "sha256 differ" in told["loras[0]"]
    assert "“local:gone.safetensors”" in told["loras[1]"]
    assert "not on this machine" in told["loras[2]"]


def test_a_lora_of_the_hub_is_looked_at_and_not_fetched(hub: EmulatedHub, studio: Studio) -> None:
    sha = hub.add_repo("weaver/neon", {"lora.safetensors": lora_bytes(SD3, 64)}, tags=["lora"])
    other = hub.add_repo("weaver/other", {"lora.safetensors": lora_bytes(SDXL, 4)}, tags=["lora"])
    pinned = f"weaver/neon@{sha}:lora.safetensors"
    loras = [pinned, "weaver/neon", f"weaver/other@{other}:lora.safetensors", "weaver/nobody"]
    _, told = read(studio, recipe("pocket-sd3", loras=tuple(lora(ref) for ref in loras)))
    assert "loras[0]" not in told
    assert "not pinned" in told["loras[1]"]
    assert "not pinned" not in told["loras[2]"]  # pinned, but made for another family
    assert "no repo" in told["loras[3]"]
    assert all("range" in asked.headers for asked in hub.asked("/resolve/", "GET"))


def test_a_hub_that_does_not_answer_is_asked_once(hub: EmulatedHub, studio: Studio) -> None:
    hub.fail("/api/models/", faults.status(500), times=1_000)
    refs = tuple(lora(f"weaver/neon{number}@{'a' * 40}:lora.safetensors") for number in range(4))
    _, told = read(studio, recipe("pocket-sd3", loras=refs))
    assert all("the Hub does not answer" in told[f"loras[{number}]"] for number in range(4))
    assert {asked.path.split("/")[4] for asked in hub.asked("/api/models/weaver")} == {"neon0"}


def test_what_differs_between_machines_is_named(studio: Studio) -> None:
    plan = {"device": "cuda", "dtype": "bfloat16", "quantisation": "nf4", "batch": 9}
    changed = {"plan": plan, "lossy": ["tiny-vae"], "init": {"sha256": "0" * 64, "mask_sha256": None, "strength": 0.5}}
    raw = recipe("pocket-sd3", libraries={"torch": "1.0"}).as_json() | changed
    raw["model"] |= {"revision": "0" * 64, "accelerator": "weaver/fast"}
    found, told = read(studio, raw)
    assert found.as_json() == raw
    assert set(told) == {
        "model.revision", "model.accelerator", "init", "lossy", "plan.batch", "plan.device", "plan.dtype",
        "plan.quantisation", "libraries.torch",
    }  # fmt: skip
    assert "“cuda”" in told["plan.device"]
    assert "“1.0”" in told["libraries.torch"]


def test_a_model_that_does_not_run_here_says_why(studio: Studio) -> None:
    found, told = read(studio, recipe("sdxl", plan=recipe().plan))
    assert found.model.key == "sdxl"
    assert "needs a GPU" in told["model.key"]


def test_a_model_that_is_not_known_gives_way_to_the_default_one(studio: Studio) -> None:
    raw = recipe("sdxl").as_json()
    raw["model"] |= {"key": "weaver/fine-tune", "repo": "weaver/fine-tune"}
    found, told = read(studio, raw)
    assert (found.model.key, found.width, found.seed, found.created_at) == ("pocket-sd3", 128, 7, raw["created_at"])
    assert "“weaver/fine-tune”" in told["model.key"]
    assert "1024" in told["width"]


@pytest.mark.parametrize("torn", ['{"version": 1, "app": ', "/?recipe=eyJ%", "chatter"])
def test_a_picture_with_a_torn_recipe_is_refused_as_a_picture(studio: Studio, tmp_path: Path, torn: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(CHUNK, torn)
    Image.new("RGB", (8, 8)).save(tmp_path / "torn.png", pnginfo=chunks)
    with pytest.raises(BadRequest, match=r"^image carries a recipe that cannot be read") as refused:
        studio.read_recipe({"image": str(tmp_path / "torn.png")}, ANYONE)
    assert refused.value.field == "image"


def on_a_gpu(key: str, **fields: Any) -> dict[str, str]:
    """What differs on a machine that runs every model."""
    plan = Plan(device="cuda", dtype=BASE_MODELS[key].dtype, quantisation=fields.pop("quantisation", None))
    found = Here(Catalog([]), "cuda", lambda model: None).differences(recipe(key, plan=plan, **fields), ANYONE)
    return {reason.field: reason.reason for reason in found}


def test_a_model_of_the_hub_may_have_moved_on_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BASE_MODELS, "_all", BASE_MODELS._all)  # put back behind it
    assert "newest one" in on_a_gpu("sd1.5")["model.revision"]
    pinned = BASE_MODELS["sd1.5"]
    BASE_MODELS.learn(dataclasses.replace(pinned, key="weaver/tuned@c", revision="c" * 40))
    BASE_MODELS.learn(dataclasses.replace(pinned, key="weaver/tuned@d", revision="d" * 40))
    assert on_a_gpu("weaver/tuned@c") == {}
    assert "“dddddddddddd”" in on_a_gpu("weaver/tuned@d")["model.revision"]


def test_the_page_may_lay_a_model_out_in_another_way() -> None:
    packed = PLANS["t5-nf4"].changes(BASE_MODELS["sd3-medium"])
    told = on_a_gpu("sd3-medium", quantisation=packed)["plan.quantisation"]
    assert packed in told
    assert "may give other pixels" in told


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "Either image or text"),
    "both": ({"image": "/tmp/x", "text": "x"}, "Either image or text"),
    "a number": ({"text": 5}, "must be text"),
    "a list for a picture": ({"image": ["x"]}, "uploaded"),
    "chatter": ({"text": "a red circle, please"}, "must be a recipe"),
    "empty": ({"text": ""}, "must be a recipe"),
    "a list": ({"text": "[1, 2]"}, "must be a recipe"),
    "an empty object": ({"text": "{}"}, "recipe.version must be 1"),
    "cut JSON": ({"text": '{"version": 1, "app": '}, "its whole JSON"),
    "the future": ({"text": '{"version": 2}'}, "recipe.version must be 1"),
    "a megabyte": ({"text": "?recipe=" + "A" * 2**20}, "at most"),
    "a torn link": ({"text": "/?recipe=eyJ%"}, "torn"),
    "a link to no recipe": ({"text": "/?recipe=aGVsbG8"}, "not valid JSON"),
    "absurd values": ({"text": json.dumps(recipe("pocket-sd3").as_json() | {"steps": 999_999})}, "steps must be from"),
    "deep": ({"text": "[" * 100_000}, "must be a recipe"),
    "deeper": ({"text": '{"a":' * 50_000}, "must be a recipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_recipe_is_refused_in_one_sentence(studio: Studio, name: str) -> None:
    raw, said = REFUSED[name]
    with pytest.raises(BadRequest) as refused:
        studio.read_recipe(raw, ANYONE)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
