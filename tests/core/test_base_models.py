"""The table of models: what narrows a control says so in words."""

from __future__ import annotations

import pytest

from core.base_models import BASE_MODELS, BaseModel
from core.errors import BadRequest
from core.request import request_from
from core.studio import Studio
from lora_catalog.catalog import Catalog
from tests.ui.fakes import FakeEngine


@pytest.mark.parametrize("entry", BASE_MODELS.values(), ids=list(BASE_MODELS))
def test_what_a_model_narrows_or_leaves_unused_it_says_why(entry: BaseModel) -> None:
    assert ("negative_prompt" in entry.notes) == (not entry.takes_negative_prompt)
    assert ("guidance" in entry.notes) == (entry.guidance_range[1] < BaseModel.guidance_range[1])


@pytest.mark.parametrize("entry", BASE_MODELS.values(), ids=list(BASE_MODELS))
def test_a_models_defaults_lie_in_its_own_ranges(entry: BaseModel) -> None:
    assert entry.steps_range[0] <= entry.steps <= entry.steps_range[1]
    assert entry.guidance_range[0] <= entry.guidance <= entry.guidance_range[1]
    assert entry.side <= entry.largest_side


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
    assert real.keys() == CONTRACT.keys()
    for key, (least, most, weak, strong, side) in CONTRACT.items():
        assert least <= real[key].steps <= most, key
        assert weak <= real[key].guidance <= strong, key
        assert real[key].side == side, key
        assert (real[key].accelerator is not None) == key.endswith("-lcm"), key
        assert real[key].gated == key.startswith("sd3"), key
