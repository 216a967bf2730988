"""Comparing, by the API and on the Compare tab: what is drawn, streamed, cancelled, recalled and saved."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect

from core.compare.plan import plan_of_grid, plan_of_loras
from core.compare.run import compare_grid, compare_loras
from core.compare.sheet import CHUNK
from core.errors import BadRequest
from tests.conftest import Served
from tests.core.test_compare import BASE, GROUND, REFUSED
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine
from ui.compare import asked, axis_in, in_page_words

PAIR = [{"ref": "bundled:pixel", "weight": 0.5}, {"ref": "bundled:sketch"}]
STEPS = {"field": "steps", "values": [2, 3]}


def recipes_on(sheet: str | Path) -> list[dict[str, Any]]:
    """The recipes that a labelled picture carries."""
    with Image.open(sheet) as picture:
        return [cell["recipe"] for cell in json.loads(picture.info[CHUNK])["cells"] if cell["recipe"]]


# The API --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(server.url, verbose=False, download_files=str(tmp_path_factory.mktemp("fetched")))


def test_a_clients_strip_has_pictures_a_table_and_one_labelled_picture(client: Client) -> None:
    pictures, table, sheet = client.predict(prompt="a house", loras=PAIR, steps=2, api_name="/compare_loras")
    assert [item["caption"] for item in pictures] == ["no LoRA", "only Pixel", "only Sketch", "the whole blend"]
    assert [cell["picture"] for cell in table["cells"]] == [0, 1, 2, 3, 2, 1]
    assert all(cell["recipe"]["seed"] == table["seed"] for cell in table["cells"])
    assert table["cells"][4]["difference"] == {"from_bare": 0, "from_blend": 0}  # this engine draws by the seed alone
    assert len(recipes_on(sheet)) == 6
    with Image.open(pictures[1]["image"]) as picture:
        assert json.loads(picture.info["lora-loom"])["loras"][0]["ref"] == "bundled:pixel"


def test_a_clients_grid_has_columns_rows_and_a_baseline(client: Client, engine: FakeEngine) -> None:
    before = len(engine.jobs)
    seeds = {"field": "seed", "values": [1, 2]}
    _, table, _ = client.predict(prompt="a house", loras=PAIR, columns=STEPS, rows=seeds, api_name="/compare_grid")
    assert table["columns"] == {"title": "steps", "labels": ["2", "3"]}
    assert table["rows"]["labels"] == ["1", "no LoRA, 1", "2", "no LoRA, 2"]
    drawn = [(job.request.seed, job.request.steps, len(job.loras)) for job in engine.jobs[before:]]
    assert drawn == [(seed, steps, loras) for seed in (1, 2) for loras in (2, 0) for steps in (2, 3)]


def test_a_grid_streams_and_its_labelled_picture_comes_last(client: Client) -> None:
    *early, last = client.submit(prompt="a house", columns=STEPS, api_name="/compare_grid")
    assert [sheet for _, _, sheet in early] == [None] * len(early)
    assert [len(pictures) for pictures, _, _ in early if pictures] == [1, 2]
    assert [cell["state"] for cell in early[0][1]["cells"]] == ["waiting"] * 2
    assert recipes_on(last[2])[1]["steps"] == 3


def test_a_clients_cancel_stops_a_comparison(client: Client, engine: FakeEngine) -> None:
    engine.pause = 0.05
    job = client.submit(prompt="a house", columns={"field": "steps", "values": [90, 100]}, api_name="/compare_grid")
    next(iter(job))
    job.cancel()
    assert engine.cancelled.wait(20)


WRONG = [
    ("/compare_loras", {"prompt": "a house"}, "loras is required"),
    ("/compare_loras", {"loras": PAIR}, "prompt is required"),
    ("/compare_grid", {"prompt": "a house"}, "columns is required"),
    ("/compare_grid", {"prompt": "a house", "columns": {"field": "steps", "values": [2, 0]}}, "columns .steps.: steps"),
    ("/compare_grid", {"prompt": "a house", "columns": STEPS, "baseline": "x"}, "baseline must be true or false"),
    ("/compare_grid", {"prompt": "a house", "columns": {"field": "model", "values": ["sdxl"]}}, "SDXL 1.0 needs a GPU"),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "fields", "said"), WRONG, ids=[said for _, _, said in WRONG])
def test_a_wrong_comparison_is_one_sentence_and_draws_nothing(
    client: Client, engine: FakeEngine, endpoint: str, fields: dict[str, Any], said: str
) -> None:
    before = len(engine.jobs)
    with pytest.raises(AppError, match=said):
        client.predict(**fields, api_name=endpoint)
    assert len(engine.jobs) == before


# What the page sends --------------------------------------------------------------------------------------------------

WRITTEN = [
    ({"field": "weight", "lora": "bundled:pixel", "written": ["-1", "0.5", "2"]}, [-1, 0.5, 2]),
    ({"field": "steps", "written": ["10", "many"]}, [10, "many"]),
    ({"field": "prompt", "written": ["1", "dark blue"]}, ["1", "dark blue"]),
    ({"field": "lora", "chosen": ["bundled:pixel"], "written": ["ann/cats"]}, ["bundled:pixel", "ann/cats"]),
    ({"field": "model", "chosen": ["pocket-sd3"], "written": []}, ["pocket-sd3"]),
    ({"field": "seed", "chosen": 5, "written": [None, []]}, [None, []]),
]


@pytest.mark.parametrize(("said", "values"), WRITTEN)
def test_values_are_read_as_they_are_written(said: dict[str, Any], values: list[Any]) -> None:
    axis = axis_in(said)
    assert (axis["values"], axis["lora"]) == (values, said.get("lora"))
    assert [type(value) for value in axis["values"]] == [type(value) for value in values]


def test_what_stands_at_a_models_default_follows_the_model_and_what_was_changed_does_not() -> None:
    models = {"kind": "grid", "columns": {"field": "model", "chosen": ["pocket-sdxl-lcm"]}, "rows": None}
    form = {
        "prompt": "x",
        "model": "pocket-sd3",
        "steps": 20,
        "guidance": 2.0,
        "width": 128,
        "height": 192,
        "images": 4,
    }
    raw, compare = asked(models, form)
    assert compare is compare_grid
    assert [raw[name] for name in ("steps", "guidance", "width", "height", "images")] == [None, 2.0, None, 192, None]
    assert asked({"kind": "grid", "columns": {"field": "seed", "written": ["1"]}}, form)[0]["steps"] == 20


@pytest.mark.parametrize("sent", [None, 5, [], {"kind": []}, {"kind": "grid", "columns": 5, "rows": {"chosen": 5}}])
def test_odd_values_are_left_for_the_schema(sent: Any) -> None:
    raw, compare = asked(sent, {"prompt": "x"})
    assert raw["prompt"] == "x"
    assert compare in (compare_grid, compare_loras)


SAID = {
    "columns.values must be a list": "Across needs 1 to 16 values",
    "columns (weight of one)": "Across (weight of one): weight of LoRA 1 must be a number from -5 to 5.",
    "columns.find, or else": "Across replaces its first words by each: they must be a part of the prompt",
    "columns (steps) and rows": "Across (steps) and Down (model): guidance must be",
    "rows must vary": "Down must vary something else than Across: steps already.",
    "columns and rows must make": "Across and Down must make at most 64 pictures",
}


@pytest.mark.parametrize(("columns", "rows", "base", "said"), REFUSED, ids=[case[3][:50] for case in REFUSED])
def test_the_page_says_what_is_wrong_in_its_own_words(
    columns: object, rows: object, base: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        plan_of_grid(BASE | base, columns, rows, None, GROUND)
    sentence = str(in_page_words(caught.value))
    assert not re.search(r"\b(columns|rows)\b|\bloras\b", sentence)
    for api, page in SAID.items():
        assert page in sentence or not said.startswith(api)


def test_a_strip_without_loras_sends_to_create() -> None:
    with pytest.raises(BadRequest) as caught:
        plan_of_loras(BASE | {"loras": []}, GROUND)
    assert str(in_page_words(caught.value)).startswith("Pick LoRAs on Create first")


# The tab --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(open_page: Visit, server: Served, engine: FakeEngine) -> Visit:
    return partial(open_page, server.url)


def ready(page: Page, *titles: str, prompt: str = "a red house", steps: int = 2) -> Page:
    """The Compare tab, with that much asked for on Create."""
    page.locator("#prompt textarea").fill(prompt)
    for title in titles:
        page.locator("#blend .card", has_text=title).click()
    page.locator("#steps input[type=number]").fill(str(steps))
    page.locator("#steps input[type=number]").blur()
    page.get_by_role("tab", name="Compare").click()
    return page


def grid(page: Page, field: str, values: str | None = None, side: str = "Across") -> None:
    page.get_by_role("radio", name="A grid").check()
    page.get_by_label(f"{side}: what varies").select_option(field)
    if values is not None:
        page.get_by_label(f"{side}: values").fill(values)


def compare(page: Page) -> None:
    page.locator("#compare-button").click()
    expect(page.locator("#compare-sheet")).to_be_visible()
    expect(page.locator("#compare-button")).to_be_visible()


def cells(page: Page) -> Any:
    return page.locator(".compare-found .cell")


def test_each_loras_part_is_shown_and_saved_as_one_picture(visit: Visit, tmp_path: Path) -> None:
    page = ready(visit(), "Pixel", "Sketch")
    expect(page.locator(".taken")).to_contain_text("a red house · Pocket SD3 · Pixel × 0.8, Sketch × 1")
    compare(page)
    expect(cells(page)).to_have_count(6)
    expect(page.locator(".compare-found thead")).to_have_text("nonePixelSketch")
    expect(cells(page).nth(3)).to_contain_text("the whole blend0.0% from bare")
    expect(cells(page).nth(0)).to_have_text("no LoRA0.0% from the blend")  # and not from itself
    expect(page.locator("#compare-said")).to_contain_text("4 of 4 pictures")
    with page.expect_download() as download:
        page.locator("#compare-sheet").click()
    assert download.value.suggested_filename.startswith("lora-loom-loras-")
    download.value.save_as(tmp_path / "sheet.png")
    assert [len(recipe["loras"]) for recipe in recipes_on(tmp_path / "sheet.png")] == [0, 1, 1, 2, 1, 1]


def test_a_clicked_picture_brings_its_recipe_to_create(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    grid(page, "weight", "0.3, 1.2")
    grid(page, "steps", "4, 6", "Down")
    compare(page)
    page.get_by_role("button", name="Use again: weight of Pixel 0.3 · steps 6").press("Enter")
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator("#steps input[type=number]")).to_have_value("6")
    expect(page.locator(".thread input[type=number]").first).to_have_value("0.3")
    assert int(page.locator("#seed input").input_value()) >= 0


def test_a_clicked_baseline_clears_the_blend(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    compare(page)
    page.get_by_role("button", name="Use again: no LoRA").first.click()
    expect(page.locator("#prompt textarea")).to_be_visible()
    expect(page.locator(".thread")).to_have_count(0)


def test_cells_stream_in_and_a_cancel_keeps_those_that_are_there(visit: Visit, engine: FakeEngine) -> None:
    page = ready(visit())
    grid(page, "steps", "1, 100")
    engine.pause = 0.1
    page.locator("#compare-button").click()
    expect(cells(page)).to_have_count(1)
    expect(page.locator("#compare-said")).to_contain_text("Picture 2 of 2 · step")
    expect(page.locator(".compare-found .waiting")).to_have_count(1)
    page.locator("#compare-cancel").click()
    expect(page.locator("#compare-said")).to_contain_text("1 of 2 pictures are kept")
    assert engine.cancelled.is_set()
    expect(page.locator("#compare-sheet")).to_be_visible()
    expect(cells(page)).to_have_count(1)
    expect(page.locator(".compare-found .undrawn")).to_have_text("Not drawn")
    expect(page.locator(".compare-found .waiting")).to_have_count(0)


def test_a_cancel_before_the_first_picture_leaves_no_table(visit: Visit, engine: FakeEngine) -> None:
    page = ready(visit(), steps=100)
    grid(page, "seed", "1, 2")
    engine.pause = 0.1
    page.locator("#compare-button").click()
    expect(page.locator(".compare-found .waiting")).to_have_count(2)
    page.locator("#compare-cancel").click()
    expect(page.locator("#compare-said")).to_contain_text("Cancelled.")
    expect(page.locator(".compare-found")).to_be_hidden()


def test_what_breaks_at_the_first_picture_leaves_no_table(visit: Visit) -> None:
    page = ready(visit(), prompt="a bug, please")
    grid(page, "seed", "1, 2")
    page.locator("#compare-button").click()
    expect(page.locator("#compare-said [role=alert]")).to_contain_text("Something broke on our side")
    expect(page.locator(".compare-found")).to_be_hidden()


def test_what_breaks_later_is_said_in_its_place_and_keeps_what_is_drawn(visit: Visit) -> None:
    page = ready(visit(), prompt="a house")
    grid(page, "prompt", "a house; a bug, please")
    page.locator("#compare-button").click()
    expect(page.locator(".compare-found .failed")).to_contain_text("Something broke on our side")
    expect(cells(page)).to_have_count(1)


READ = [
    ("weight", "0.5, 1,-1.5", "Read as 0.5 · 1 · -1.5"),
    ("weight", "0,5; 1", "Read as 0.5 · 1"),
    ("weight", "0,5, 1", "Read as 0 · 5 · 1; with ; between values a comma is a decimal one"),
    ("seed", "1,2", "Read as 1 · 2"),
    ("prompt", "a house, round; a cat", "Read as a house, round · a cat"),
    ("prompt", "", ""),
]


def test_values_are_shown_as_they_are_read(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    for field, text, read in READ:
        grid(page, field, text)
        expect(page.locator(".axis .read")).to_have_text(read)


def test_what_is_shown_as_read_is_what_is_drawn(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    grid(page, "weight", "0,5; 1")
    compare(page)
    expect(page.locator(".compare-found thead")).to_have_text("no LoRA0.51")


def test_the_pictures_are_drawn_as_create_says(visit: Visit, engine: FakeEngine, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "begun.png")
    page = visit()
    page.locator("#sampler input").click()
    page.get_by_role("option", name="Heun").click()
    page.locator("#over").get_by_role("button").first.click()
    page.locator("#over-choose + input, #over-choose input, #over input[type=file]").first.set_input_files(
        tmp_path / "begun.png"
    )
    expect(page.locator("#strength")).to_be_visible()
    before = len(engine.jobs)
    grid(ready(page, steps=4), "seed", "1, 2")
    expect(page.locator(".taken")).to_contain_text("over its picture")
    compare(page)
    asked_for = [(job.request.sampler, job.over is not None) for job in engine.jobs[before:]]
    assert asked_for == [("flow-heun", True)] * 2


def test_a_table_is_small_however_large_its_pictures_are(visit: Visit) -> None:
    page = ready(visit())
    grid(page, "seed", "1, 2")
    compare(page)
    expect(cells(page)).to_have_count(2)
    looks = page.locator(".compare-found img").evaluate_all("all => all.map((one) => one.getAttribute('src'))")
    assert [look.startswith("data:") for look in looks] == [False, False]
    page.wait_for_function("[...document.querySelectorAll('.compare-found img')].every((one) => one.naturalWidth > 0)")


def test_a_closed_page_stops_its_comparison(visit: Visit, engine: FakeEngine) -> None:
    page = ready(visit(), steps=100)
    grid(page, "seed", "1, 2, 3")
    engine.pause = 0.1
    page.locator("#compare-button").click()
    expect(page.locator("#compare-said")).to_contain_text("step")
    page.close()
    assert engine.cancelled.wait(20)


def test_a_lora_that_does_not_fit_one_model_says_so_in_its_place(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    grid(page, "model")
    page.get_by_role("button", name="Pocket SD3", exact=True).click()
    page.get_by_role("button", name="Pocket SDXL", exact=True).click()
    compare(page)
    expect(page.locator(".compare-found .failed")).to_contain_text("bundled:pixel does not fit Pocket SDXL")
    expect(cells(page)).to_have_count(3)


def test_loras_can_take_each_others_place(visit: Visit) -> None:
    page = ready(visit(), "Pixel")
    grid(page, "lora")
    for title in ("Neon", "None"):
        page.locator(".offered").get_by_role("button", name=title, exact=True).click()
    compare(page)
    expect(page.locator(".compare-found thead")).to_have_text("no LoRANeonnone")
    expect(page.locator(".compare-found caption")).to_have_text("in place of Pixel")


def test_what_cannot_be_compared_is_said(visit: Visit) -> None:
    page = ready(visit())
    for values, sentence in (("2, many", "steps must be a whole number"), ("", "Across needs 1 to 16 values")):
        grid(page, "steps", values)
        page.locator("#compare-button").click()
        expect(page.locator("#compare-said [role=alert]")).to_contain_text(sentence)
        expect(page.locator("#compare-button")).to_be_visible()
    expect(page.locator(".compare-found")).to_be_hidden()


def test_nothing_that_is_written_runs(visit: Visit) -> None:
    hostile = '<img src="/no" onerror="alert(1)">'
    page = ready(visit(), prompt=f"a {hostile} house")
    grid(page, "prompt", f"house, {hostile}")
    compare(page)
    expect(page.locator(".compare-found thead")).to_contain_text(hostile)
    expect(page.locator(".taken i")).to_contain_text(hostile)


def test_a_phone_scrolls_the_table_and_not_the_page(visit: Visit) -> None:
    page = ready(visit(width=390, height=844))
    grid(page, "seed", "1, 2, 3, 4")
    compare(page)
    expect(cells(page)).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(
        "(node => node.scrollWidth > node.clientWidth)(document.querySelector('.compare-found .frame'))"
    )
