"""Records as the API gives them, and what the page says of what it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

from core.records.journal import Journal
from tests.conftest import Serve, Served
from tests.ui.conftest import WORDS, Visit
from tests.ui.fakes import FakeEngine
from tests.ui.test_api import INPUTS


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    journal = Journal(tmp_path_factory.mktemp("records") / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture(scope="module")
def studio(serve: Serve, loras: Path, journal: Journal) -> Served:
    return serve(FakeEngine(), loras, WORDS, journal=journal)


@pytest.fixture
def client(studio: Served) -> Client:
    return Client(studio.url, verbose=False)


def history(client: Client, **look: Any) -> list[dict[str, Any]]:
    return list(client.predict(api_name="/history", **look)["records"])


def test_a_program_finds_its_records_by_words_pages_stars_and_deletes_them(client: Client) -> None:
    for prompt in ("a red circle", "a blue house", "a red house"):
        client.predict(prompt=prompt, visitor="paul", api_name="/generate")
    assert [each["recipe"]["prompt"] for each in history(client, visitor="paul", query="RED")] == [
        "a red house",
        "a red circle",
    ]
    first = client.predict(visitor="paul", limit=2, api_name="/history")
    (oldest,) = history(client, visitor="paul", limit=2, cursor=first["next"])
    assert oldest["recipe"]["prompt"] == "a red circle"
    star = client.predict(id=oldest["id"], visitor="paul", api_name="/star_record")
    assert star == {"id": oldest["id"], "starred": True}
    assert [each["id"] for each in history(client, visitor="paul", starred=True)] == [oldest["id"]]
    gone = client.predict(ids=[oldest["id"], "0" * 32], visitor="paul", api_name="/delete_records")
    assert gone == {"deleted": 1}
    assert len(history(client, visitor="paul")) == 2


def test_nobody_sees_another_visitors_records_nor_those_of_no_visitor(client: Client, studio: Served) -> None:
    client.predict(prompt="of quentin", visitor="quentin", api_name="/generate")
    client.predict(prompt="of this session", api_name="/generate")
    assert history(client, visitor="quinn") == []
    assert [each["recipe"]["prompt"] for each in history(client)] == ["of this session"]
    assert history(Client(studio.url, verbose=False)) == []


def test_over_plain_http_a_caller_without_an_id_owns_nothing(studio: Served) -> None:
    where = f"{studio.url}/gradio_api/call"
    body: dict[str, Any] = {"data": ["a cat of nobody", *[None] * (len(INPUTS) - 1)]}
    event = httpx.post(f"{where}/generate", json=body).json()["event_id"]
    assert "a cat of nobody" in httpx.get(f"{where}/generate/{event}", timeout=60).text
    event = httpx.post(f"{where}/history", json={"data": [None] * 6}).json()["event_id"]
    assert 'data: [{"records": [], "next": null}]' in httpx.get(f"{where}/history/{event}", timeout=60).text


@pytest.mark.parametrize(
    ("endpoint", "fields", "words"),
    [
        ("/history", {"cursor": "x"}, "cursor must be"),
        ("/history", {"limit": 0}, "limit must be a whole number from 1 to 100"),
        ("/star_record", {"id": "x"}, "id must be"),
        ("/delete_records", {"ids": ["x"]}, "ids must be"),
    ],
)
def test_a_wrong_value_is_one_sentence(client: Client, endpoint: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        client.predict(api_name=endpoint, **fields)


@pytest.mark.parametrize(
    ("choice", "said", "pictures"),
    [
        ("Nothing", "Nothing of it is kept here.", []),
        ("Recipe only", "Kept here: the recipe, without the picture.", [False]),
        (None, "Kept here: picture and recipe.", [True]),
    ],
)
def test_the_page_keeps_what_the_visitor_chose_and_says_so(
    studio: Served, open_page: Visit, client: Client, choice: str | None, said: str, pictures: list[bool]
) -> None:
    page = open_page(studio.url)
    if choice is None:
        expect(page.locator("#consent input:checked")).to_have_value("picture")
    else:
        page.locator("#consent").get_by_text(choice, exact=True).click()
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text(said)
    visitor = page.evaluate("() => window.loom.visitor()")
    assert [each["picture"] for each in history(client, visitor=visitor)] == pictures


def test_a_choice_to_keep_less_outlives_a_reload(studio: Served, open_page: Visit) -> None:
    page = open_page(studio.url)
    page.locator("#consent").get_by_text("Nothing", exact=True).click()
    expect(page.locator("#consent input:checked")).to_have_value("none")
    page.reload()
    expect(page.locator("#consent input:checked")).to_have_value("none")


def test_the_page_says_why_a_picture_is_not_recorded(
    serve: Serve, loras: Path, open_page: Visit, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    broken = serve(FakeEngine(), loras, WORDS, journal=Journal(tmp_path / "file" / "journal.sqlite"))
    page = open_page(broken.url)
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("Not recorded: its folder cannot be made.")
    gallery, _ = Client(broken.url, verbose=False).predict(prompt="a cat", seed=3, api_name="/generate")
    assert gallery[0]["caption"] == "seed 3 · Not recorded: its folder cannot be made."
    expect(page.locator("#gallery img").first).to_be_visible()
