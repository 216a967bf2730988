"""The History tab in a real Chromium: what a visitor finds again, stars, deletes, compares, recalls and saves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from core.recipe import Recipe, RecipeLora
from core.recipe_files import png_with_recipe, text_in_picture
from core.records.journal import Journal
from core.records.recording import recorded
from core.records.schema import Record
from tests.conftest import Serve, Served
from tests.core.recipes import lora, recipe
from tests.ui.conftest import WORDS, Visit
from tests.ui.fakes import FakeEngine
from ui.record_files import RecordFiles

HOSTILE = "<img src=x onerror=alert(1)>{{constructor}}</script><script>alert(3)</script>"
AT_ONCE = 60  # cards of a page


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    journal = Journal(tmp_path_factory.mktemp("history") / "journal.sqlite")
    yield journal
    journal.close()


@pytest.fixture(scope="module")
def studio(serve: Serve, loras: Path, journal: Journal) -> Served:
    return serve(FakeEngine(), loras, WORDS, journal=journal)


@pytest.fixture
def visit(open_page: Visit, studio: Served) -> Visit:
    return partial(open_page, studio.url)


def draw(page: Page, prompt: str) -> None:
    page.get_by_role("tab", name="Create").click()
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#generate").click()
    expect(page.locator("#recipe")).to_contain_text(prompt)
    expect(page.locator("#generate")).to_be_visible()


def turn_to_history(page: Page) -> Page:
    page.wait_for_function("window.loom?.visitor")  # the page's own script runs last
    page.get_by_role("tab", name="History").click()
    expect(page.locator(".kept, .history .empty p").first).to_be_visible()
    return page


def prompts(page: Page) -> Locator:
    return page.locator(".kept .prompt")


def open_card(page: Page, prompt: str) -> Locator:
    page.locator(".kept .open", has_text=prompt).first.click()
    expect(page.locator(".viewer .recipe")).to_contain_text(prompt)
    return page.locator(".viewer")


def choose(page: Page, *prompts: str) -> None:
    for prompt in prompts:
        card = page.locator(".kept", has_text=prompt)
        card.hover()
        card.get_by_role("checkbox").check()


def a_record(visitor: str, said: Recipe, created_at: datetime) -> Record:
    """Without pixels."""
    text = said.as_json()
    return Record(
        uuid.uuid4().hex, created_at, visitor, said.prompt, said.model.key, json.dumps(text["loras"]), json.dumps(text)
    )


def visitor_of(page: Page) -> str:
    page.wait_for_function("window.loom?.visitor")
    return str(page.evaluate("window.loom.visitor()"))


def keep(journal: Journal, page: Page, prompt: str, seed: int, *loras: RecipeLora) -> None:
    """A picture as drawing it would have left it."""
    said = recipe("pocket-sd3", prompt=prompt, seed=seed, width=128, height=128, loras=loras)
    picture = png_with_recipe(128, 128, bytes(3 * 128 * 128), said)
    assert str(recorded(journal, [picture], [said], "picture", visitor_of(page))).startswith("Kept")


@pytest.fixture
def two_kept(visit: Visit, journal: Journal) -> Page:
    """The tab of a visitor who drew a red circle with Pixel, then a blue house without."""
    page = visit()
    keep(journal, page, "a red circle", 7, lora("bundled:pixel", weight=0.8))
    keep(journal, page, "a blue house", 8)
    return turn_to_history(page)


def test_who_has_drawn_nothing_is_told_what_to_do(visit: Visit) -> None:
    page = turn_to_history(visit())
    expect(page.locator(".history .empty")).to_contain_text("Nothing here yet")
    expect(page.locator(".history .seek")).to_be_hidden()
    page.get_by_role("button", name="Go to Create").click()
    expect(page.locator("#prompt")).to_be_visible()


def test_what_is_drawn_is_there_newest_first_whenever_the_tab_is_opened(visit: Visit) -> None:
    page = visit()
    draw(page, "a red circle")
    draw(page, "a blue house")
    turn_to_history(page)
    expect(prompts(page)).to_have_text(["a blue house", "a red circle"])
    expect(page.locator(".kept img[src^='data:image/webp']")).to_have_count(2)
    expect(page.locator(".kept .when").first).to_have_text("Pocket SD3just now")
    expect(page.locator(".dataset")).to_contain_text("saved here")
    draw(page, "a yellow house")
    turn_to_history(page)
    expect(prompts(page)).to_have_text(["a yellow house", "a blue house", "a red circle"])


def test_pictures_are_found_by_a_word_and_by_a_lora(two_kept: Page) -> None:
    page = two_kept
    page.get_by_role("searchbox", name="Search the prompts").fill("hous")
    expect(prompts(page)).to_have_text(["a blue house"])
    page.get_by_role("searchbox", name="Search the prompts").fill("")
    page.get_by_role("combobox", name="With the LoRA").fill("pixel")
    expect(prompts(page)).to_have_text(["a red circle"])
    page.get_by_role("combobox", name="With the LoRA").fill("sketch")
    expect(page.locator(".history .empty")).to_contain_text("Nothing matches")
    page.get_by_role("button", name="Show everything").click()
    expect(prompts(page)).to_have_count(2)


def test_a_star_stays_and_can_be_asked_for(two_kept: Page) -> None:
    page = two_kept
    page.locator(".kept", has_text="a red circle").hover()
    page.locator(".kept", has_text="a red circle").get_by_role("button", name="Star", exact=True).click()
    expect(page.get_by_role("button", name="Take the star away")).to_have_attribute("aria-pressed", "true")
    page.reload()
    turn_to_history(page)
    page.get_by_label("Starred only").check()
    expect(prompts(page)).to_have_text(["a red circle"])


def test_delete_asks_once_and_what_is_deleted_stays_gone(two_kept: Page) -> None:
    page = two_kept
    choose(page, "a red circle")
    page.get_by_role("button", name="Delete those chosen").click()
    expect(page.locator(".tray")).to_contain_text("Delete 1 for good?")
    page.get_by_role("button", name="Keep").click()
    expect(prompts(page)).to_have_count(2)
    page.get_by_role("button", name="Delete those chosen").click()
    page.locator(".tray .primary").click()
    expect(prompts(page)).to_have_text(["a blue house"])
    page.reload()
    expect(prompts(turn_to_history(page))).to_have_text(["a blue house"])
    open_card(page, "a blue house")
    page.get_by_role("button", name="Delete this picture").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator(".history .empty")).to_contain_text("Nothing here yet")


def test_everything_of_a_recipe_comes_back_and_loras_it_did_not_use_go(two_kept: Page) -> None:
    page = two_kept
    page.get_by_role("tab", name="Create").click()
    page.locator("#blend .card", has_text="Sketch").click()
    turn_to_history(page)
    open_card(page, "a red circle").get_by_role("button", name="Fill the form with all").click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value("a red circle")
    expect(page.locator("#blend .thread .title")).to_have_text(["Pixel"])
    expect(page.locator("#seed input")).to_have_value("7")
    page.locator("#generate").click(trial=True)  # nothing lies over it


def test_a_record_that_is_gone_by_now_is_said_and_the_form_stays(two_kept: Page, journal: Journal) -> None:
    page = two_kept
    viewer = open_card(page, "a red circle")
    journal.delete([each.id for each in journal.page(visitor_of(page)).records], visitor_of(page))
    viewer.get_by_role("button", name="Fill the form with all").click()
    expect(viewer.locator(".said")).to_contain_text("you have none of this id")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Create").click()
    expect(page.locator("#prompt textarea")).to_have_value(WORDS.examples[0])


@pytest.mark.parametrize(
    ("button", "prompt", "seed"),
    [("Take over the seed alone", WORDS.examples[0], "7"), ("Fill the form with everything but", "a red circle", "-1")],
)
def test_the_seed_alone_comes_back_or_all_but_the_seed(two_kept: Page, button: str, prompt: str, seed: str) -> None:
    page = two_kept
    open_card(page, "a red circle").get_by_role("button", name=button).click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    expect(page.locator("#seed input")).to_have_value(seed)


def test_nobody_sees_the_pictures_of_another_browser(two_kept: Page, visit: Visit) -> None:
    expect(prompts(two_kept)).to_have_count(2)
    expect(turn_to_history(visit()).locator(".history .empty")).to_contain_text("Nothing here yet")


def test_two_pictures_lie_over_each_other_behind_a_slider_with_what_sets_them_apart(two_kept: Page) -> None:
    page = two_kept
    choose(page, "a red circle")
    expect(page.get_by_role("button", name="Compare two pictures")).to_be_disabled()
    choose(page, "a blue house")
    page.get_by_role("button", name="Compare two pictures").click()
    expect(page.locator(".over img")).to_have_count(2)
    expect(page.locator(".over .right")).to_have_css("clip-path", "inset(0px 0px 0px 50%)")
    page.get_by_role("slider", name="How much of each").press("End")
    expect(page.locator(".over .right")).to_have_css("clip-path", "inset(0px 0px 0px 100%)")
    told = page.locator(".differences tr").all_inner_texts()
    assert told[1:] == ["Prompt\ta red circle\ta blue house", "Seed\t7\t8", "pixel\t× 0.8\t–"]
    page.keyboard.press("Escape")
    expect(page.locator(".comparer")).to_be_hidden()


@pytest.mark.parametrize(("button", "kind"), [("PNG", "PNG"), ("JPEG", "JPEG"), ("WebP", "WEBP")])
def test_a_saved_picture_has_its_recipe_in_it(two_kept: Page, tmp_path: Path, button: str, kind: str) -> None:
    viewer = open_card(two_kept, "a red circle")
    with two_kept.expect_download() as download:
        viewer.get_by_role("button", name=f"Save as {button}").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with Image.open(saved) as picture:
        assert picture.format == kind
    said = json.loads(text_in_picture(saved))
    assert (said["prompt"], said["seed"], said["loras"][0]["ref"]) == ("a red circle", 7, "bundled:pixel")


def test_the_large_picture_is_the_one_that_was_drawn(two_kept: Page) -> None:
    open_card(two_kept, "a red circle")
    expect(two_kept.locator(".viewer .frame img:not(.early)")).to_have_js_property("naturalWidth", 128)


def test_a_record_without_pixels_is_a_quiet_card_that_can_be_recalled(visit: Visit, journal: Journal) -> None:
    page = visit()
    journal.keep([a_record(visitor_of(page), recipe("pocket-sd3", prompt="a grey cat", seed=5), datetime.now(UTC))])
    expect(turn_to_history(page).locator(".kept .bare")).to_have_text("a grey cat")
    expect(prompts(page)).to_have_text(["Recipe only, seed 5"])
    viewer = open_card(page, "a grey cat")
    expect(viewer).to_contain_text("Only the recipe of this picture was kept")
    expect(viewer.get_by_role("button", name="Save as PNG")).to_be_hidden()
    viewer.get_by_role("button", name="Fill the form with all").click()
    expect(page.locator("#prompt textarea")).to_have_value("a grey cat")


def test_a_prompt_is_text_wherever_it_is_shown(visit: Visit) -> None:
    page = visit()
    draw(page, HOSTILE)
    expect(prompts(turn_to_history(page))).to_have_text([HOSTILE])
    expect(open_card(page, HOSTILE)).to_contain_text(HOSTILE)


def test_arrows_walk_over_the_cards_enter_opens_and_escape_leads_back(two_kept: Page) -> None:
    page = two_kept
    page.locator(".kept .open").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".kept .open").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".viewer .recipe")).to_contain_text("a red circle")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".viewer .recipe")).to_contain_text("a blue house")
    page.keyboard.press("Escape")
    expect(page.locator(".kept .open").first).to_be_focused()


def test_fifty_thousand_records_open_at_once_and_scroll_without_filling_the_page(
    visit: Visit, journal: Journal
) -> None:
    page, now, said = visit(), datetime.now(UTC), recipe("pocket-sd3")
    one = a_record(visitor_of(page), said, now)
    journal.keep([replace(one, id=uuid.uuid4().hex, prompt=f"number {n}") for n in range(50_000)])
    turn_to_history(page)
    expect(page.locator(".kept .bare").first).to_have_text("number 49999")
    page.locator(".kept .open").first.focus()
    for sheet in range(12):
        page.locator(".sheet").nth(sheet).evaluate("sheet => sheet.scrollIntoView({ block: 'end' })")
        wanted = f"number {49_999 - AT_ONCE * (sheet + 1)}"
        expect(page.locator(".kept .bare", has_text=wanted)).to_have_count(1)
    assert page.locator(".sheet").count() > 10
    assert page.locator(".kept").count() <= 6 * AT_ONCE
    expect(page.locator(".kept .open").first).to_be_focused()
    page.locator(".sheet").nth(1).evaluate("sheet => sheet.scrollIntoView()")
    expect(page.locator(".kept .bare", has_text=f"number {49_999 - AT_ONCE}")).to_be_visible()
    page.get_by_role("searchbox", name="Search the prompts").fill("number 777")
    expect(page.locator(".kept .bare").last).to_have_text("number 777")


@pytest.fixture
def asked(studio: Served) -> Callable[..., dict[str, Any]]:
    """The tab's server functions, as anyone on the net may call them."""
    config = httpx.get(f"{studio.url}/config").json()
    (tab,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == "history"]

    def answered(name: str, what: Any) -> dict[str, Any]:
        body = {"session_hash": "of-nobody", "component_id": tab, "fn_name": name, "data": what}
        return dict(httpx.post(f"{studio.url}/gradio_api/component_server", json=body).raise_for_status().json())

    return answered


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("picture", {"id": "0" * 32}, "you have none of this id"),
        ("picture", {"id": ["../../etc/passwd"]}, "you have none of this id"),
        ("picture", None, "you have none of this id"),
        ("save", {"id": "0" * 32, "ending": {}}, "ending must be one of"),
        ("compare", {"ids": ["0" * 32]}, "those of two records"),
        ("compare", {"ids": [{}, None]}, "you have none of this id"),
        ("star", {"id": 7}, "id must be"),
        ("erase", {"ids": "all"}, "ids must be"),
        ("records", {"query": {"$ne": ""}}, "query must be"),
        ("records", {"cursor": "' OR 1"}, "cursor must be"),
        ("records", {"visitor": "two words"}, "visitor must be"),
    ],
)
def test_whatever_is_sent_is_answered_with_one_sentence(
    asked: Callable[..., dict[str, Any]], name: str, what: Any, said: str
) -> None:
    (error,) = asked(name, what).values()
    assert said in error
    assert error.count("\n") == 0


def test_the_files_of_a_deleted_picture_are_served_no_more(
    two_kept: Page, studio: Served, asked: Callable[..., dict[str, Any]]
) -> None:
    own = visitor_of(two_kept)
    (house, circle) = [{"visitor": own, "id": each["id"]} for each in asked("records", {"visitor": own})["records"]]

    def shown(record: dict[str, str]) -> list[str]:
        opened, saved = asked("picture", record), asked("save", record | {"ending": "jpg"})
        return [f"{studio.url}/{answer['address'].removeprefix('./')}" for answer in (opened, saved)]

    def served(addresses: list[str]) -> list[bool]:
        return [httpx.get(address).is_success for address in addresses]

    gone, stay = shown(circle), shown(house)
    asked("erase", {"visitor": "mallory", "ids": [house["id"], circle["id"]]})
    assert served(gone + stay) == [True] * 4
    assert asked("erase", {"visitor": own, "ids": [circle["id"]]}) == {"deleted": 1}
    assert served(gone + stay) == [False, False, True, True]


def test_of_many_records_the_files_shown_longest_ago_go(tmp_path: Path) -> None:
    files, of = [tmp_path / name for name in "abc"], RecordFiles(most=2)
    for file in files:
        file.touch()
        of.add("ann", file.name, file)
    assert [file.exists() for file in files] == [False, True, True]


def test_a_record_of_another_visitor_is_nobodys(two_kept: Page, asked: Callable[..., dict[str, Any]]) -> None:
    own = visitor_of(two_kept)
    (mine, _) = asked("records", {"visitor": own})["records"]
    assert asked("thumbnails", {"visitor": own, "ids": [mine["id"]]})["thumbnails"][mine["id"]]
    assert asked("thumbnails", {"visitor": "mallory", "ids": [mine["id"]]}) == {"thumbnails": {mine["id"]: None}}
    for name, more in (("picture", {}), ("save", {"ending": "png"}), ("star", {})):
        assert "you have none" in asked(name, {"visitor": "mallory", "id": mine["id"]} | more)["error"]
    assert asked("erase", {"visitor": "mallory", "ids": [mine["id"]]}) == {"deleted": 0}
