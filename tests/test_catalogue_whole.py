"""A fresh start beside an emulated Hub: search, preflight, add, mute, remove and draw, over the API and in Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from core.base_models import POCKET
from tests.conftest import UNFOLDED
from tests.hub import EmulatedHub
from tests.own_process import started

ROOT = Path(__file__).parent.parent
NEON = POCKET / "loras" / "pocket-sd3-neon"
ANN = "hf_of_ann"
PROMPT: dict[str, Any] = {"prompt": "a red circle on a blue background", "seed": 7, "steps": 8}


@pytest.fixture(scope="module")
def shelves() -> Iterator[EmulatedHub]:
    """A Hub with a LoRA for pocket-sd3, once open to all and once private."""
    hub = EmulatedHub()
    files = {
        "neon.safetensors": (NEON / "pocket-sd3-neon.safetensors").read_bytes(),
        "images/neon.png": (NEON / "preview.png").read_bytes(),
    }
    card = {
        "base_model": "lora-loom/pocket-sd3", "license": "mit", "instance_prompt": "neon lights",
        "widget": [{"text": "a cat", "output": {"url": "images/neon.png"}}],
    }  # fmt: skip
    with hub.running():
        hub.add_repo("weaver/glow", files, card, ["lora"], downloads=1234, likes=5)
        hub.add_repo("weaver/secret", files, card, ["lora"], private=True, readers=[ANN])
        yield hub


@pytest.fixture(scope="module")
def address(shelves: EmulatedHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py` with an empty data folder."""
    with started(tmp_path_factory.mktemp("fresh") / "data", environ={"HF_ENDPOINT": shelves.endpoint}) as app:
        yield app.url


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def draw(client: Client, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    (item,), recipe = client.predict(api_name="/generate", **PROMPT | fields)
    return Image.open(item["image"]).convert("RGB").tobytes(), recipe


def test_a_program_searches_looks_and_draws_with_a_lora_of_the_hub(client: Client) -> None:
    (card,) = client.predict(query="glow", family="pocket-sd3", api_name="/search_loras")["cards"]
    assert (card["ref"], card["licence"], card["downloads"]) == ("weaver/glow", "mit", 1234)
    preflight = client.predict(ref=card["ref"], model="pocket-sd3", api_name="/inspect_lora")
    assert (preflight["fits"], preflight["triggers"]) == ("yes", ["neon lights"])
    bare, _ = draw(client)
    woven, recipe = draw(client, loras=[{"ref": card["ref"]}])
    assert woven != bare
    assert recipe["loras"][0]["ref"] == preflight["ref"]
    assert recipe["loras"][0]["receipt"]["applied"] == preflight["layers"]
    muted, _ = draw(client, loras=[{"ref": card["ref"], "muted": True}])
    assert muted == bare


PIXELS = """async () => {
  const image = document.querySelector("#gallery img");
  await image.decode();
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""


def drawn(page: Page) -> str:
    """The pixels of the next picture; it may be there before anybody sees that it is drawn."""
    page.locator("#stage .said").evaluate("said => (said.textContent = '')")
    page.locator("#generate").click()
    expect(page.locator("#stage .said")).to_contain_text("carries its recipe", timeout=60_000)
    expect(page.locator("#generate")).to_be_visible()
    return str(page.evaluate(PIXELS))


def test_a_visitor_finds_adds_mutes_and_removes_a_lora_of_the_hub_and_draws_with_it(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.add_init_script(UNFOLDED)
    page.goto(address)
    page.locator("#prompt textarea").fill(PROMPT["prompt"])
    page.locator("#seed input").fill("7")
    page.locator("#steps input[type=number]").fill("8")
    page.locator("#steps input[type=number]").blur()
    bare = drawn(page)
    page.get_by_role("button", name="Find more LoRAs").click()
    page.get_by_role("searchbox").fill("glow")
    card = page.locator('.lora[aria-label="glow"]')
    card.get_by_role("button", name="Details").click()
    expect(page.locator(".panel")).to_contain_text("It fits Pocket SD3.")
    page.get_by_role("button", name="Add glow to the blend").click()
    page.get_by_role("button", name="Back to Create").click()
    woven = drawn(page)
    assert woven != bare
    expect(page.locator("#recipe")).to_contain_text("59 of 59 layers")
    page.get_by_role("button", name="Mute glow").click()
    assert drawn(page) == bare
    page.get_by_role("button", name="Unmute glow").click()
    assert drawn(page) == woven
    page.get_by_role("button", name="Remove glow").click()
    assert drawn(page) == bare
    context.close()


def test_a_file_of_ones_own_is_kept_and_drawn_with_as_the_same_one_of_the_hub(client: Client) -> None:
    own = client.predict(file=handle_file(NEON / "pocket-sd3-neon.safetensors"), api_name="/upload_lora")
    assert (own["ref"], own["fits"]) == ("local:pocket-sd3-neon.safetensors", "yes")
    assert draw(client, loras=[{"ref": own["ref"]}])[0] == draw(client, loras=[{"ref": "weaver/glow"}])[0]
    cards = client.predict(query="pocket-sd3-neon", api_name="/search_loras")["cards"]
    assert own["ref"] in [card["ref"] for card in cards]


def test_a_private_lora_is_there_for_whoever_brings_a_token_that_may_read_it(address: str, client: Client) -> None:
    ann = Client(address, token=ANN, verbose=False)
    assert ann.predict(ref="weaver/secret", api_name="/inspect_lora")["private"]
    draw(ann, loras=[{"ref": "weaver/secret"}])
    with pytest.raises(AppError, match="The Hub shows no repo “weaver/secret”"):
        draw(client, loras=[{"ref": "weaver/secret"}])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "ref is required"),
        ({"ref": 7}, "a ref is a text"),
        ({"ref": "../../etc/passwd"}, "is not a LoRA ref"),
        ({"ref": "/etc"}, "is not a LoRA ref"),
        ({"ref": "models/pocket"}, "The Hub shows no repo"),
        ({"ref": "file:///etc/passwd"}, "only addresses that begin with"),
        ({"ref": "https://evil.example/weaver/glow"}, "only addresses that begin with"),
        ({"ref": "weaver/glow:../x.safetensors"}, "no . and no .."),
        ({"ref": "weaver/glow:glow.bin"}, "ends in .safetensors"),
        ({"ref": "weaver/glow\x00"}, "is not a LoRA ref"),
        ({"ref": "local:../../x.safetensors"}, "without its folder"),
        ({"ref": "weaver/glow", "model": "sd9"}, "model must be one of"),
        ({"ref": "weaver/glow", "model": []}, "model must be one of"),
    ],
)
def test_bad_refs_are_refused_in_one_sentence(client: Client, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError) as told:
        client.predict(api_name="/inspect_lora", **fields)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert str(ROOT) not in str(told.value)


@pytest.mark.parametrize("visitor", [7, ["ann"], "ann bob", "a" * 300, "\ud800"], ids=repr)
@pytest.mark.parametrize("endpoint", ["/search_loras", "/inspect_lora", "/generate"])
def test_an_odd_visitor_is_refused_by_name(address: str, endpoint: str, visitor: object) -> None:
    names = {"/search_loras": 8, "/inspect_lora": 3, "/generate": 23}
    place = {"/search_loras": 7, "/inspect_lora": 2, "/generate": 17}[endpoint]
    data: list[object] = [None] * names[endpoint]
    data[0], data[place] = "bundled:pocket-sd3-neon", visitor
    where = f"{address}/gradio_api/call{endpoint}"
    event = httpx.post(where, content=json.dumps({"data": data}), headers={"Content-Type": "application/json"}).json()
    answer = httpx.get(f"{where}/{event['event_id']}").text
    assert "visitor must be a text" in answer


def test_another_sites_name_for_this_machine_is_not_answered(address: str) -> None:
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 421
    assert httpx.get(address.replace("127.0.0.1", "localhost")).status_code == 200


def test_an_upload_that_is_no_safetensors_file_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(AppError, match=r"“evil\.safetensors” is not a readable safetensors file"):
        client.predict(file=handle_file(tmp_path / "evil.safetensors"), api_name="/upload_lora")


def test_a_path_of_the_server_is_no_upload(client: Client, address: str) -> None:
    file = {"path": str(NEON / "pocket-sd3-neon.safetensors"), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file, None, None]}
    event = httpx.post(f"{address}/gradio_api/call/upload_lora", json=body).json()["event_id"]
    answer = httpx.get(f"{address}/gradio_api/call/upload_lora/{event}").text
    assert "event: error" in answer
    assert "must be uploaded here first" in answer
