"""Over a picture, on the page and over the API: chosen, painted on, drawn over, and what must not be opened refused."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from core.errors import BadRequest
from core.messages import Job
from core.recipe import RecipeInit
from tests.conftest import Served
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine
from ui.over_picture import Begun, OverPicture


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "start.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choose(page: Page, picture: Path) -> None:
    page.get_by_role("button", name="Over a picture").click()
    page.locator("#over-choose input[type=file], input#over-choose, #over input[type=file]").first.set_input_files(
        picture
    )
    expect(page.locator("#over-paint canvas")).to_be_visible()


def drawn(page: Page, engine: FakeEngine) -> Job:
    before = len(engine.jobs)
    page.locator("#stage .said").evaluate("node => { node.textContent = ''; }")  # what the last run said
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("One picture in")
    assert len(engine.jobs) == before + 1
    return engine.jobs[-1]


def stroke(page: Page) -> None:
    """Over the middle of the picture, from its left to its right third."""
    canvas = page.locator("#over-paint canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 2 / 3, y, steps=5)
    page.mouse.up()


def test_a_chosen_picture_is_drawn_over_with_the_strength_asked_for(
    server: Served, engine: FakeEngine, open_page: Visit, picture: Path
) -> None:
    page = open_page(server.url)
    choose(page, picture)
    page.locator("#strength input[type=number]").fill("0.35")
    page.locator("#strength input[type=number]").blur()
    job = drawn(page, engine)
    assert (job.request.image, job.request.mask, job.request.strength) == (sha256(picture), None, 0.35)
    assert job.over is not None
    assert job.over.mask is None
    assert (job.over.picture.width, job.over.picture.data[:3]) == (128, bytes((200, 30, 30)))
    expect(page.locator("#recipe")).to_contain_text("a picture, strength 0.35")


def test_what_is_painted_is_the_mask_and_clearing_takes_it_away(
    server: Served, engine: FakeEngine, open_page: Visit, picture: Path
) -> None:
    page = open_page(server.url)
    choose(page, picture)
    stroke(page)
    job = drawn(page, engine)
    assert job.over is not None
    assert job.over.mask is not None
    mask = np.frombuffer(job.over.mask, np.uint8).reshape(128, 128)
    assert mask[64, 64] == 255
    assert mask[:20].max() == mask[-20:].max() == 0
    page.get_by_role("button", name="Take all paint away").click()
    assert drawn(page, engine).request.mask is None
    page.locator("#over-remove").click()
    expect(page.locator("#over-paint canvas")).to_have_count(0)
    assert drawn(page, engine).request.image is None


def painted(page: Page) -> int:
    """Pixels with paint that the visitor sees."""
    data = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    return int(page.locator("#over-paint canvas").evaluate(f"{data}.filter((value, i) => i % 4 === 3 && value).length"))


def test_another_picture_and_the_same_one_again_come_without_paint(
    server: Served, engine: FakeEngine, open_page: Visit, picture: Path, tmp_path: Path
) -> None:
    page = open_page(server.url)
    choose(page, picture)
    Image.new("RGB", (200, 300), (30, 200, 30)).save(tmp_path / "other.png")
    for chosen in (picture, tmp_path / "other.png"):
        stroke(page)
        assert painted(page) > 0
        with page.expect_file_chooser() as choosing:
            page.locator("#over-choose").click()
        choosing.value.set_files(chosen)
        page.wait_for_function("""() => {
            const canvas = document.querySelector("#over-paint canvas");
            const data = canvas?.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return data?.every((value) => value === 0);
        }""")
        assert drawn(page, engine).request.mask is None


def test_a_finger_paints_too_and_does_not_scroll_the_page(
    server: Served, engine: FakeEngine, browser: Browser, picture: Path
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    choose(page, picture)
    canvas = page.locator("#over-paint canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    before, devtools = page.evaluate("scrollY"), context.new_cdp_session(page)
    for kind, y in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7), ("touchEnd", None)):
        points = [] if y is None else [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] * y}]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert painted(page) > 0
    assert page.evaluate("scrollY") == before
    assert drawn(page, engine).request.mask is not None
    context.close()


def test_a_finished_picture_is_taken_as_the_start_of_the_next(
    server: Served, engine: FakeEngine, open_page: Visit
) -> None:
    page = open_page(server.url)
    page.locator("#seed input").fill("41")
    drawn(page, engine)
    page.locator("#use-as-start").click()
    expect(page.locator("#over-paint canvas")).to_be_visible()
    job = drawn(page, engine)
    assert job.over is not None
    assert job.over.picture.data[:3] == hashlib.sha256(b"41").digest()[:3]
    page.locator("#use-everything").click()
    expect(page.locator("#over-said")).to_contain_text(f"sha256 is {str(job.request.image)[:12]}")


def test_a_file_that_is_no_picture_is_said_and_nothing_is_held(
    server: Served, engine: FakeEngine, open_page: Visit, tmp_path: Path
) -> None:
    (tmp_path / "fake.png").write_text("no picture")
    page = open_page(server.url)
    page.get_by_role("button", name="Over a picture").click()
    page.locator("#over input[type=file]").first.set_input_files(tmp_path / "fake.png")
    expect(page.locator("#over-said")).to_contain_text("image must be a whole PNG, JPEG or WebP picture")
    assert drawn(page, engine).request.image is None


def test_samplers_are_offered_where_there_is_a_choice(server: Served, engine: FakeEngine, open_page: Visit) -> None:
    page = open_page(server.url)
    page.locator("#sampler input").click()
    page.get_by_role("option", name=re.compile("Heun")).click()
    assert drawn(page, engine).request.sampler == "flow-heun"
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile("Pocket SDXL . LCM")).click()
    expect(page.locator("#sampler")).to_be_hidden()
    assert drawn(page, engine).request.sampler == "lcm"


def test_clients_draw_over_uploads_and_make_it_again_from_the_recipe(
    server: Served, engine: FakeEngine, picture: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (300, 200), 255).save(mask)
    client = Client(server.url, verbose=False)
    over: dict[str, Any] = {"image": handle_file(picture), "mask": handle_file(mask)}
    _, recipe = client.predict(prompt="a cat", strength=0.5, **over, api_name="/generate")
    assert recipe["init"] == {"sha256": sha256(picture), "mask_sha256": sha256(mask), "strength": 0.5}
    _, again = client.predict(recipe=recipe, **over, api_name="/generate")
    assert again["init"] == recipe["init"]
    with pytest.raises(Exception, match=f"its sha256 is {sha256(picture)}"):
        client.predict(recipe=recipe, api_name="/generate")


def test_a_comparison_is_drawn_over_an_upload_and_keeps_what_its_visitor_chose(
    server: Served, engine: FakeEngine, picture: Path
) -> None:
    client, jobs = Client(server.url, verbose=False), len(engine.jobs)
    _, table, _ = client.predict(
        prompt="a cat", image=handle_file(picture), strength=0.5, consent="none",
        columns={"field": "steps", "values": [10, 12]}, api_name="/compare_grid",
    )  # fmt: skip
    assert [job.request.image for job in engine.jobs[jobs:]] == [sha256(picture)] * 2
    assert table["recorded"] == "Nothing of them is kept here."


def test_a_path_of_the_server_is_never_opened(server: Served, engine: FakeEngine, picture: Path) -> None:
    client = Client(server.url, verbose=False)
    jobs = len(engine.jobs)
    for name in ("image", "mask"):
        with pytest.raises(Exception, match=f"{name} must be uploaded here first"):
            client.predict(prompt="a cat", **{name: {"path": str(picture)}}, api_name="/generate")
        with pytest.raises(Exception, match=f"{name} must be uploaded here first"):
            client.predict(prompt="a cat", **{name: {"path": str(picture)}}, api_name="/compare_loras")
    assert len(engine.jobs) == jobs


@pytest.fixture
def panel() -> OverPicture:
    with gr.Blocks(analytics_enabled=False):
        return OverPicture()


def png(size: tuple[int, int], colour: int) -> str:
    out = io.BytesIO()
    Image.new("L", size, colour).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.mark.parametrize("begun", [None, "/etc/passwd", {"path": "/etc/passwd"}, ["/etc/passwd", 1, 1]])
def test_only_a_picture_that_the_panel_took_in_itself_is_drawn_over(panel: OverPicture, begun: Any) -> None:
    assert panel.asked(begun, {"paint": png((8, 8), 255)}, 0.5) == {}


@pytest.mark.parametrize(
    "paint", ["data:image/png;base64,AAAA", "/etc/passwd", png((4000, 8), 255), png((8, 8), 255) + "?" * 600_000]
)
def test_paint_that_no_brush_of_ours_made_is_refused(panel: OverPicture, paint: str) -> None:
    with pytest.raises(BadRequest, match="paint it again"):
        panel.asked(Begun("x.png", 300, 200), {"paint": paint}, 0.5)


def test_paint_becomes_a_mask_of_the_pictures_size_and_the_same_bytes_each_time(panel: OverPicture) -> None:
    begun = Begun("x.png", 300, 200)
    first, second = (panel.asked(begun, {"paint": png((30, 20), 255)}, 0.5)["mask"] for _ in range(2))
    assert Image.open(first).size == (300, 200)
    assert Path(first).read_bytes() == Path(second).read_bytes()
    assert panel.asked(begun, {"paint": png((30, 20), 0)}, 0.5)["mask"] is None


def test_a_recipe_without_a_picture_takes_the_picture_away_and_one_with_it_names_it(panel: OverPicture) -> None:
    assert panel.recalled(None)[panel.file] is None
    told = panel.recalled(RecipeInit(sha256="<b>" + "0" * 61, strength=0.4))
    assert "&lt;b&gt;" in told[panel.said]
    assert told[panel.strength]["value"] == 0.4
    assert panel.file not in told
