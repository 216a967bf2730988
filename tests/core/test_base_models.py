"""The table of models: what narrows a control says so in words."""

from __future__ import annotations

import re

import pytest

from core.base_models import BASE_MODELS, BaseModel
from core.errors import BadRequest
from core.parts import PARTS
from core.request import request_from
from core.samplers import SAMPLERS
from core.studio import Studio
from core.work import forward_tflop
from lora_catalog.catalog import Catalog
from lora_catalog.families.table import MODEL_OF
from lora_catalog.reference import LoraRef
from tests.ui.fakes import FakeEngine
from ui.loras import FAMILIES


@pytest.mark.parametrize("entry", BASE_MODELS.values(), ids=list(BASE_MODELS))
def test_what_a_model_narrows_or_leaves_unused_it_says_why(entry: BaseModel) -> None:
    assert ("negative_prompt" in entry.notes) == (not entry.takes_negative_prompt)
    assert ("guidance" in entry.notes) == (entry.guidance_range[1] < BaseModel.guidance_range[1])


@pytest.mark.parametrize("entry", BASE_MODELS.values(), ids=list(BASE_MODELS))
def test_a_models_defaults_lie_in_its_own_ranges(entry: BaseModel) -> None:
    assert entry.steps_range[0] <= entry.steps <= entry.steps_range[1]
    assert entry.guidance_range[0] <= entry.guidance <= entry.guidance_range[1]
    assert entry.side <= entry.largest_side


@pytest.mark.parametrize("entry", BASE_MODELS.listed(), ids=[entry.key for entry in BASE_MODELS.listed()])
def test_a_models_entry_names_only_what_there_is(entry: BaseModel) -> None:
    twins = [other.title for other in BASE_MODELS.listed() if other.key == entry.key]
    assert len(twins) == 1, f"{' and '.join(twins)} have one key, {entry.key}: one of them would never be drawn with"
    assert re.fullmatch(r"[a-z0-9.-]+", entry.key), "a key is of small letters, digits, points and hyphens"
    assert set(entry.samplers) <= SAMPLERS.keys()
    kin = {other.pipeline for other in BASE_MODELS.listed() if other.family == entry.family}
    assert kin == {entry.pipeline}, "all models of a family have one pipeline"
    assert entry.side % 16 == entry.largest_side % 16 == 0, "sizes are multiples of 16"
    assert entry.accelerator is None or LoraRef.parse(entry.accelerator)
    for table in (PARTS, MODEL_OF, FAMILIES):  # core/parts.py, lora_catalog/families/table.py, ui/loras.py
        assert entry.family in table
    assert forward_tflop(entry, entry.side**2) > 0
    if entry.folder is None:
        assert LoraRef.parse(entry.repo).source == "hub"
    else:
        assert (entry.folder / "model_index.json").is_file(), f"models/pocket has no folder {entry.repo}"


def test_the_list_of_models_carries_what_each_says_beside_a_control() -> None:
    studio = Studio(FakeEngine(), Catalog([]), "pocket-sd3")
    notes = {model["key"]: model["notes"] for model in studio.models()}
    assert notes["pocket-sd3"] == {}
    assert notes["sdxl-turbo"]["guidance"] == "SDXL Turbo was made for one step without guidance: it takes none."
    assert "each step is drawn twice" in notes["sdxl-lcm"]["guidance"]


def test_what_a_mode_does_not_use_is_refused_and_what_it_narrows_has_its_range_told() -> None:
    with pytest.raises(BadRequest, match="negative_prompt must be left empty"):
        request_from({"prompt": "a cat", "negative_prompt": "fog", "guidance": 2}, "pocket-sdxl-lcm")
    with pytest.raises(BadRequest, match=r"guidance must be 1 for sdxl-turbo, not 1\.5"):
        request_from({"prompt": "a cat", "guidance": 1.5}, "sdxl-turbo")


CONTRACT = {
    # key: steps (least, most), guidance (least, most), native side
    "sd3.5-large": (28, 40, 4.5, 4.5, 1024), "sd3.5-large-turbo": (4, 4, 1, 1, 1024),
    "sd3.5-medium": (28, 40, 4.5, 4.5, 1024), "sd3-medium": (28, 28, 7, 7, 1024), "sdxl": (25, 50, 5, 8, 1024),
    "sdxl-lcm": (4, 8, 1, 2, 1024), "sdxl-turbo": (1, 4, 1, 1, 512), "ssd-1b": (25, 50, 5, 9, 1024),
    "ssd-1b-lcm": (4, 8, 1, 2, 1024), "sd1.5": (25, 50, 7, 8, 512), "sd1.5-lcm": (4, 8, 1, 2, 512),
    "sd2.1": (25, 50, 7, 8, 768),
}  # fmt: skip


def test_every_model_of_the_contract_is_there_with_defaults_as_its_authors_give_them() -> None:
    real = {entry.key: entry for entry in BASE_MODELS.listed() if not entry.embedded}
    assert real.keys() >= CONTRACT.keys()  # more are welcome
    for key, (least, most, weak, strong, side) in CONTRACT.items():
        assert least <= real[key].steps <= most, key
        assert weak <= real[key].guidance <= strong, key
        assert real[key].side == side, key
        assert (real[key].accelerator is not None) == key.endswith("-lcm"), key
        assert real[key].gated == key.startswith("sd3"), key
