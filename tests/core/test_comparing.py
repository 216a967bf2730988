"""Comparisons as they run: cells one by one, what fails, what a stop keeps, differences and the labelled picture."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.compare.difference import difference
from core.compare.run import Standing, compare_grid, compare_loras
from core.compare.sheet import CHUNK, contact_sheet
from core.engine import LocalEngine
from core.errors import BadRequest, Cancelled, LoomError, ModelUnavailable
from core.machine import Machine
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.errors import CatalogError
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.test_engine import Q, bundle

ONE, TWO = ({"ref": f"bundled:{name}", "weight": 0.5} for name in ("one", "two"))
BASE: dict[str, Any] = {"prompt": "a cat", "seed": 7, "steps": 2, "width": 64, "height": 64, "loras": [ONE, TWO]}
STEPS = {"field": "steps", "values": [1, 2]}
WEIGHT = {"field": "weight", "lora": 0, "values": [1, 2]}


# The difference -------------------------------------------------------------------------------------------------------


def png(colour: tuple[int, int, int], size: tuple[int, int] = (4, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("one", "other", "percent"),
    [((9, 9, 9), (9, 9, 9), 0), ((0, 0, 0), (255, 255, 255), 100), ((255, 0, 0), (0, 0, 0), 100 / 3**0.5)],
)
def test_the_difference_is_the_root_mean_square_in_percent(one: Any, other: Any, percent: float) -> None:
    assert difference(png(one), png(other)) == pytest.approx(percent)


def test_pictures_of_two_sizes_have_no_difference() -> None:
    assert difference(png((0, 0, 0)), png((0, 0, 0), (8, 4))) is None


# How it runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("one", "two", "three")):
        bundle(folder, name, {Q.format(block): (192, 192) for block in range(6)}, "pocket-sd3", seed)
    lcm = {"unet.conv_in": (64, 16, 3, 3)}
    bundle(folder, "pocket-sdxl-lcm", lcm, "pocket-sdxl", 5)
    return folder


@pytest.fixture
def studio(random_pocket: Path, loras: Path) -> Studio:
    return Studio(LocalEngine(Machine("cpu")), Catalog([BundledSource(loras)]), "pocket-sd3")


def end_of(standings: Iterator[Standing]) -> Standing:
    *_, last = standings
    assert last.ended
    return last


def cells_of(standing: Standing) -> dict[tuple[int, int], dict[str, Any]]:
    return {(cell["row"], cell["column"]): cell for cell in standing.table()["cells"]}


def test_a_strip_tells_what_each_lora_does(studio: Studio) -> None:
    end = end_of(compare_loras(studio, BASE, ANYONE, threading.Event()))
    cells = cells_of(end)
    assert [len(cells[at]["recipe"]["loras"]) for at in sorted(cells)] == [0, 1, 1, 2, 1, 1]
    assert {cell["recipe"]["seed"] for cell in cells.values()} == {7}
    assert cells[0, 0]["difference"]["from_bare"] == cells[1, 0]["difference"]["from_blend"] == 0
    assert cells[0, 1]["difference"]["from_bare"] > 0
    assert cells[1, 1]["difference"]["from_blend"] > 0  # what is lost without it
    bare, blend = (end.drawn[cell.key].pictures[0] for cell in end.plan.cells if cell.column == 0)
    assert cells[0, 0]["difference"]["from_blend"] == pytest.approx(difference(bare, blend))


def test_a_kept_total_leaves_the_others_as_strong_as_they_were(studio: Studio) -> None:
    raw = BASE | {"loras": [ONE | {"weight": 0.1}, TWO | {"weight": 0.3}], "total_strength": 8.0}
    without = end_of(compare_loras(studio, raw, ANYONE, threading.Event()))
    plain = BASE | {"loras": [TWO | {"weight": 2.0}], "total_strength": 6.0}
    *_, alone = studio.generate(plain, ANYONE, threading.Event())
    assert isinstance(alone, Generated)
    cell = next(cell for cell in without.plan.cells if cell.label == "all but one")
    assert difference(without.drawn[cell.key].pictures[0], alone.pictures[0]) == pytest.approx(0, abs=0.1)


def test_every_cell_is_drawn_over_the_same_picture(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "begun.png").write_bytes(png((200, 30, 30), (64, 64)))
    (tmp_path / "mask.png").write_bytes(png((255, 255, 255), (64, 64)))
    over = {"image": str(tmp_path / "begun.png"), "mask": str(tmp_path / "mask.png"), "strength": 0.5}
    for standings in (
        compare_loras(studio, BASE | over, ANYONE, threading.Event()),
        compare_grid(studio, BASE | over | {"columns": {"field": "seed", "values": [1, 2]}}, ANYONE, threading.Event()),
    ):
        recipes = [cell["recipe"] for cell in cells_of(end_of(standings)).values()]
        assert {recipe["init"]["strength"] for recipe in recipes} == {0.5}
        assert len({(recipe["init"]["sha256"], recipe["init"]["mask_sha256"]) for recipe in recipes}) == 1


def test_every_cells_recipe_makes_its_picture_again(studio: Studio) -> None:
    end = end_of(compare_grid(studio, BASE | {"columns": WEIGHT}, ANYONE, threading.Event()))
    cell = cells_of(end)[0, 2]
    *_, again = studio.generate({"recipe": cell["recipe"]}, ANYONE, threading.Event())
    assert isinstance(again, Generated)
    assert difference(list(end.drawn.values())[cell["picture"]].pictures[0], again.pictures[0]) == 0
    assert cell["recipe"]["loras"][0]["weight"] == 2


def test_cells_come_one_by_one(studio: Studio) -> None:
    counts = [s.done for s in compare_grid(studio, BASE | {"columns": STEPS}, ANYONE, threading.Event())]
    assert sorted(counts) == counts
    assert set(counts) == {0, 1, 2, 3, 4}


def test_a_lora_that_does_not_fit_one_model_fails_there_and_the_others_go_on(studio: Studio) -> None:
    models = {"field": "model", "values": ["pocket-sdxl-lcm", "pocket-sd3"]}
    raw = BASE | {"columns": models, "loras": [ONE]}
    cells = cells_of(end_of(compare_grid(studio, raw, ANYONE, threading.Event())))
    assert [cells[at]["state"] for at in sorted(cells)] == ["failed", "drawn", "drawn", "drawn"]
    assert "does not fit Pocket SDXL + LCM" in cells[0, 0]["why_not"]
    assert cells[0, 0]["recipe"] is cells[0, 0]["difference"]["from_bare"] is None
    assert cells[0, 1]["difference"]["from_bare"] > 0


def test_where_nothing_can_be_drawn_the_reason_is_raised(studio: Studio) -> None:
    for raw, error in (
        ({"columns": {"field": "model", "values": ["sdxl"]}}, ModelUnavailable),
        ({"columns": WEIGHT, "loras": [{"ref": "bundled:nobody"}], "baseline": False}, CatalogError),
    ):
        with pytest.raises((LoomError, CatalogError)) as caught:
            list(compare_grid(studio, BASE | raw, ANYONE, threading.Event()))
        assert isinstance(caught.value, error)


def test_nothing_is_drawn_where_one_value_is_wrong(studio: Studio) -> None:
    with pytest.raises(BadRequest, match="steps must be from"):
        compare_grid(studio, BASE | {"columns": {"field": "steps", "values": [2, 0]}}, ANYONE, threading.Event())
    with pytest.raises(BadRequest, match="columns is required"):
        compare_grid(studio, BASE, ANYONE, threading.Event())


def test_a_stop_keeps_what_is_drawn_and_the_labelled_picture_of_it(studio: Studio) -> None:
    stop = threading.Event()
    last = None
    for last in compare_grid(studio, BASE | {"columns": {"field": "steps", "values": [1, 2, 3]}}, ANYONE, stop):
        if last.done == 2:
            stop.set()
    assert last is not None
    assert (last.done, last.cancelled, last.ended) == (2, True, True)
    with Image.open(io.BytesIO(contact_sheet(last))) as sheet:
        states = [cell["state"] for cell in json.loads(sheet.info[CHUNK])["cells"]]
    assert states.count("drawn") == 2
    assert states.count("waiting") == 4


def test_a_stop_before_the_first_picture_is_cancelled(studio: Studio) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(compare_loras(studio, BASE, ANYONE, stop))


# The labelled picture -------------------------------------------------------------------------------------------------


def test_the_labelled_picture_shows_every_cell_and_carries_every_recipe(studio: Studio) -> None:
    raw = BASE | {"columns": WEIGHT, "rows": STEPS, "prompt": "é" * 3000}
    end = end_of(compare_grid(studio, raw, ANYONE, threading.Event()))
    with Image.open(io.BytesIO(contact_sheet(end))) as sheet:
        table = json.loads(sheet.info[CHUNK])
        colours = sheet.convert("RGB").getcolors(2**24) or []
    assert table == json.loads(json.dumps(end.table()))
    assert sheet.width > 3 * 192  # enlarged from 64
    assert sheet.height > 2 * 192
    assert table["columns"] == {"title": "weight of one", "labels": ["no LoRA", "1", "2"]}
    assert len(colours) > 100
