"""The LoRAs that the project really ships: each is whole, and is what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from tests.lora_catalog.conftest import drained

FOLDER = Path(__file__).parents[2] / "models" / "pocket" / "loras"


@pytest.mark.parametrize("name", sorted(home.name for home in FOLDER.glob("*/")))
def test_a_bundled_lora_is_whole_and_fits_the_family_on_its_card(name: str) -> None:
    catalog = Catalog([BundledSource(FOLDER)])
    fetched = drained(catalog.fetch(f"bundled:{name}"))
    preflight = catalog.inspect(fetched.ref, fetched.card.family)
    assert (preflight.fits, preflight.why_not) == ("yes", None)
