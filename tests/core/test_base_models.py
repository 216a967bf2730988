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
    with pytest.raises(BadRequest, match="guidance must be from 1 to 1 for sdxl-turbo"):
        request_from({"prompt": "a cat", "guidance": 1.5}, "sdxl-turbo")
