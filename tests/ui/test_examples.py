"""The example blends: five for each model that has LoRAs to give, as their authors weigh them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from core.base_models import BASE_MODELS, POCKET, BaseModel
from lora_catalog.catalog import Catalog
from lora_catalog.curated import curated_cards
from lora_catalog.sources.bundled import BundledSource
from ui.examples import FOLDER, examples, examples_for

CARDS = {card.ref: card for card in (*curated_cards(), *Catalog([BundledSource(POCKET / "loras")]).bundled())}
WITHOUT = {"ssd-1b", "ssd-1b-lcm", "sd2.1"}  # our list of well-known LoRAs has no style for them


@pytest.mark.parametrize("entry", BASE_MODELS.listed(), ids=lambda entry: entry.key)
def test_a_model_has_five_that_its_request_takes(entry: BaseModel) -> None:
    found = examples_for(entry)
    assert len(found) == (0 if entry.key in WITHOUT else 5)
    for example in found:
        request = example.request(entry)
        assert request.seed >= 0
        assert request.loras
        assert {CARDS[lora.ref].family for lora in request.loras} == {entry.family}
        if not entry.embedded:
            assert [lora.weight for lora in request.loras] == [CARDS[lora.ref].weight for lora in request.loras]
        said = request.prompt.lower()
        for lora in request.loras:
            assert all(word.lower() in said for word in CARDS[lora.ref].triggers[:1]) or entry.embedded


def test_each_of_a_pocket_model_has_a_small_picture_and_no_picture_is_left_over() -> None:
    of_pocket = {example.name for example in examples() if example.asked["loras"][0]["ref"].startswith("bundled:")}
    pictures = {path.stem: path.read_bytes() for path in FOLDER.glob("*.webp")}
    assert set(pictures) == of_pocket
    assert len(of_pocket) == 15
    for picture in pictures.values():
        assert len(picture) < 4000
        assert Image.open(io.BytesIO(picture)).size == (128, 128)
