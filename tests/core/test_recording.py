"""What Studio.generate keeps: as much as the visitor consents to, before the pictures are given."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import BadRequest
from core.records.journal import Journal
from core.records.recording import recorded
from core.records.schema import Record
from core.request import Consent
from core.studio import Generated, Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import Visitor
from tests.core import recipes
from tests.ui.fakes import FakeEngine

ANN, BOB = Visitor("ann"), Visitor("bob")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def studio_with(journal: Journal, consent: Consent = "picture") -> Studio:
    return Studio(FakeEngine(), Catalog([BundledSource(Path("nowhere"))]), "pocket-sd3", journal, consent)


def draw(studio: Studio, visitor: Visitor = ANN, **fields: Any) -> Generated:
    raw = fields if "recipe" in fields else {"prompt": "a cat", "seed": 7, "steps": 1} | fields
    *_, generated = studio.generate(raw, visitor, threading.Event())
    assert isinstance(generated, Generated)
    return generated


def kept(journal: Journal) -> list[Record]:
    return [journal.record(record.id, "ann") for record in reversed(journal.page("ann").records)]


def test_every_picture_is_a_record_of_its_own_with_its_own_recipe(journal: Journal) -> None:
    generated = draw(studio_with(journal), images=2, width=256)
    assert str(generated.recorded) == "Kept here: pictures and recipes."
    for record, png, recipe in zip(kept(journal), generated.pictures, generated.recipes, strict=True):
        assert (record.image, json.loads(record.recipe)) == (png, recipe.as_json())
        assert (record.prompt, record.model, record.visitor) == ("a cat", "pocket-sd3", "ann")
        assert record.created_at.isoformat() == recipe.created_at
        assert record.thumbnail is not None
        with Image.open(io.BytesIO(record.thumbnail)) as small:
            assert (small.format, small.size) == ("WEBP", (256, 128))


def test_the_record_is_there_before_the_pictures_are(journal: Journal) -> None:
    for update in studio_with(journal).generate({"prompt": "a cat", "steps": 1}, ANN, threading.Event()):
        assert len(kept(journal)) == isinstance(update, Generated)


def test_without_pixels_there_is_no_thumbnail_either(journal: Journal) -> None:
    generated = draw(studio_with(journal), consent="recipe")
    (record,) = kept(journal)
    assert (record.image, record.thumbnail, record.pictured) == (None, None, False)
    assert json.loads(record.recipe) == generated.recipe.as_json()
    assert str(generated.recorded) == "Kept here: the recipe, without the picture."


def test_without_consent_nothing_is_kept(journal: Journal, tmp_path: Path) -> None:
    generated = draw(studio_with(journal), consent="none")
    assert str(generated.recorded) == "Nothing of it is kept here."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("default", "records"), [("none", 0), ("recipe", 1), ("picture", 1)])
def test_what_is_left_out_is_the_owners_default(journal: Journal, default: Consent, records: int) -> None:
    generated = draw(studio_with(journal, default))
    assert generated.recorded.consent == default
    assert len(kept(journal)) == records


def test_a_recipe_is_drawn_again_with_a_consent_of_its_own(journal: Journal) -> None:
    studio = studio_with(journal)
    recipe = draw(studio, consent="none").recipe.as_json()
    assert draw(studio, recipe=recipe, consent="recipe").recorded.consent == "recipe"
    assert [json.loads(record.recipe)["seed"] for record in kept(journal)] == [7]
    with pytest.raises(BadRequest, match="consent must be"):
        draw(studio, recipe=recipe, consent="maybe")


def too_large(db: sqlite3.Connection) -> object:
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100)
    return None


def of_no_name(_: sqlite3.Connection) -> object:
    raise sqlite3.OperationalError("a path and a secret")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (too_large, "Not recorded: the picture or its recipe is too large."),
        (of_no_name, "Not recorded: a fault of LoRA Loom, which its log describes."),
    ],
)
def test_whatever_keeps_a_picture_from_the_journal_does_not_cost_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[sqlite3.Connection], object], said: str
) -> None:
    write = journal._file.write
    monkeypatch.setattr(journal._file, "write", lambda work: write(lambda db: trouble(db) or work(db)))
    generated = draw(studio_with(journal))
    assert len(generated.pictures) == 1
    assert str(generated.recorded) == said


def test_a_picture_too_odd_for_a_thumbnail_is_given_all_the_same(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    kept_of_it = recorded(journal, [b"no PNG"], [recipes.recipe("pocket-sd3")], "picture", "ann")
    assert str(kept_of_it) == "Not recorded: a fault of LoRA Loom, which its log describes."
    assert "cannot identify image" in caplog.text
    assert kept(journal) == []


def test_a_run_that_is_cancelled_leaves_no_record(journal: Journal) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Exception, match="Cancelled"):
        list(studio_with(journal).generate({"prompt": "a cat"}, ANN, stop))
    assert kept(journal) == []


def test_a_visitor_sees_stars_and_deletes_their_own(journal: Journal) -> None:
    studio = studio_with(journal)
    draw(studio)
    draw(studio, BOB)
    (record,) = studio.history({}, ANN).records
    assert studio.star_record({"id": record.id}, ANN).starred
    assert len(studio.history({"starred": True}, ANN).records) == 1
    assert studio.delete_records({"ids": [record.id]}, BOB) == 0
    assert studio.delete_records({"ids": [record.id]}, ANN) == 1
    assert len(studio.history({}, BOB).records) == 1


@pytest.mark.parametrize(
    ("call", "raw", "sentence"),
    [
        ("history", {"limit": 0}, "limit must be a whole number from 1 to 100."),
        ("history", {"limit": True}, "limit must be a whole number from 1 to 100."),
        ("history", {"cursor": "-1"}, "cursor must be the value “next” of an earlier answer, or empty."),
        ("history", {"cursor": "9" * 19}, "cursor must be the value “next” of an earlier answer, or empty."),
        ("history", {"cursor": 7}, "cursor must be the value “next” of an earlier answer, or empty."),
        ("history", {"query": ["x"]}, "query must be a text of at most 200 letters."),
        ("history", {"query": "x" * 201}, "query must be a text of at most 200 letters."),
        ("history", {"starred": "yes"}, "starred must be true or false."),
        ("history", {"colour": 1}, "colour is not an input of this endpoint."),
        ("star_record", {}, "id must be the id of a record, as /history gives it."),
        ("star_record", {"id": "x"}, "id must be the id of a record, as /history gives it."),
        ("star_record", {"id": "0" * 32}, "id must be that of a record of your own: you have none of this id here."),
        ("delete_records", {}, "ids must be a list of 1 to 1000 ids of records, as /history gives them."),
        ("delete_records", {"ids": "x"}, "ids must be a list of 1 to 1000 ids of records, as /history gives them."),
        ("delete_records", {"ids": []}, "ids must be a list of 1 to 1000 ids of records, as /history gives them."),
    ],
)
def test_a_wrong_field_is_one_sentence(journal: Journal, call: str, raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as told:
        getattr(studio_with(journal), call)(raw, ANN)
    assert str(told.value) == sentence
