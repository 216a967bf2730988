"""What the page and the API do with a blend besides drawing it: the picture of its overlap, and saving it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect
from safetensors.torch import load_file

from lora_catalog.catalog import Catalog
from lora_catalog.hub.api import HubApi
from lora_catalog.index import CardIndex
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.sources.hub import HubSource
from lora_catalog.store import LoraStore
from tests.conftest import Serve, Served
from tests.core.test_engine import Q, bundle
from tests.hub import EmulatedHub, faults
from tests.lora_catalog.conftest import lora_bytes
from tests.lora_catalog.hub_shop import eventually
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine

LAYERS = {Q.format(block): (192, 192) for block in range(6)}
PAIR = [{"ref": "bundled:one", "weight": 1.0}, {"ref": "bundled:twin", "weight": 1.0}]


@pytest.fixture(scope="module")
def woven(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A page with two LoRAs that do the same, a third, and one of which half fits."""
    folder = tmp_path_factory.mktemp("woven")
    for name, seed in (("one", 1), ("twin", 1), ("third", 3)):
        bundle(folder, name, LAYERS, "pocket-sd3", seed)
    bundle(folder, "half", {Q.format(0): (192, 192), Q.format(1): (96, 192)}, "pocket-sd3", 5)
    return serve(FakeEngine(), folder)


@pytest.fixture(scope="module")
def client(woven: Served, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(woven.url, verbose=False, download_files=str(tmp_path_factory.mktemp("fetched")))


def pick(page: Page, *titles: str) -> None:
    for title in titles:
        page.locator("#blend .card", has_text=title).click()


def test_a_blend_is_inspected_by_refs(client: Client) -> None:
    seen = client.predict(loras=PAIR, api_name="/inspect_blend")
    assert seen["pairs"][0]["conflict"] == pytest.approx(1.0)
    assert [lora["suggested_weight"] for lora in seen["loras"]] == [0.5, 0.5]
    assert seen["loras"][0]["relative_norm"] > 0


def test_a_blend_is_saved_as_a_file(client: Client) -> None:
    file, about = client.predict(loras=PAIR, rank=4, title="Twice", api_name="/save_blend")
    assert Path(file).name == "twice.safetensors"
    assert len(load_file(file)) == 2 * about["layers"] == 12
    assert about["error"] < 0.01  # the same twice has the rank of one


def test_a_blend_without_loras_is_refused_by_name(client: Client) -> None:
    for endpoint in ("/inspect_blend", "/save_blend"):
        with pytest.raises(AppError, match="loras is required"):
            client.predict(api_name=endpoint)


def test_two_loras_are_compared_when_asked_and_again_after_a_change(open_page: Visit, woven: Served) -> None:
    page = open_page(woven.url)
    pick(page, "one")
    expect(page.locator("#overlap")).to_be_hidden()
    pick(page, "twin")
    page.get_by_role("button", name="How do they go together?").click()
    said = page.locator("#overlap .said")
    expect(said).to_have_text("These two pull the same way in 6 of 6 blocks.")
    expect(page.locator("#overlap rect.same")).to_have_count(6)
    expect(page.locator("#overlap li").first).to_contain_text("try 0.50")
    page.locator(".thread", has_text="twin").locator("input[type=number]").first.fill("-1")
    expect(said).to_have_text("These two pull against each other in 6 of 6 blocks.")
    expect(page.locator("#overlap rect.against")).to_have_count(6)
    page.get_by_role("button", name="Mute twin").click()
    expect(page.locator("#overlap")).to_be_hidden()


def test_three_loras_are_told_in_pairs_and_hidden_again(open_page: Visit, woven: Served) -> None:
    page = open_page(woven.url)
    pick(page, "one", "twin", "third")
    page.get_by_role("button", name="How do they go together?").click()
    expect(page.locator("#overlap .pairs li").first).to_have_text("one and twin: 1.00")
    expect(page.locator("#overlap .pairs li")).to_have_count(3)
    page.get_by_role("button", name="Hide how they go together").click()
    expect(page.locator("#overlap svg")).to_have_count(0)


def test_the_saved_blend_is_a_download_away(open_page: Visit, woven: Served, tmp_path: Path) -> None:
    page = open_page(woven.url)
    pick(page, "one", "third")
    page.get_by_role("button", name="Save this blend as one LoRA").click()
    page.locator("#save-title textarea, #save-title input").fill("Of two")
    page.locator("#save-button").click()
    expect(page.locator("#save-said")).to_contain_text("2 LoRAs in one: rank 8, 6 layers")
    with page.expect_download() as download:
        page.locator("#save-file a[download]").first.click()
    assert download.value.suggested_filename == "of-two.safetensors"
    download.value.save_as(tmp_path / "saved.safetensors")
    assert len(load_file(tmp_path / "saved.safetensors")) == 12
    expect(page.locator("#save-button")).to_be_enabled()


def test_nothing_to_save_is_said_on_the_page(open_page: Visit, woven: Served) -> None:
    page = open_page(woven.url)
    page.get_by_role("button", name="Save this blend as one LoRA").click()
    page.locator("#save-button").click()
    expect(page.locator("#save-said")).to_contain_text("loras is required")
    expect(page.locator("#save-button")).to_be_enabled()


@dataclass(frozen=True)
class Afar:
    """A page whose LoRAs lie on a slow Hub; `partial` holds the downloads under way."""

    served: Served
    hub: EmulatedHub
    partial: Path

    def add(self, name: str) -> str:
        """A LoRA of which only the header comes quickly: all of it would take half a minute."""
        self.hub.add_repo(name, {"lora.safetensors": lora_bytes({Q.format(0): (192, 192)}, 1024)}, tags=["lora"])
        self.hub.fail(f"/{name}/resolve/", faults.throttled(30_000), skip=1)
        return name

    def given_up(self) -> bool:
        return not list(self.partial.iterdir())


@pytest.fixture(scope="module")
def afar(serve: Serve, tmp_path_factory: pytest.TempPathFactory, loras: Path) -> Iterator[Afar]:
    home, hub = tmp_path_factory.mktemp("afar"), EmulatedHub()
    with hub.running():
        index = CardIndex(home / "catalog.sqlite")
        source = HubSource(HubApi(hub.endpoint), index, LoraStore(home / "store"))
        served = serve(FakeEngine(), Catalog([BundledSource(loras), source], hub.endpoint))
        yield Afar(served, hub, home / "store" / "partial")
        index.close()


WEAVE = "(ref) => window.loom.weave({ ref, title: ref, family: 'pocket-sd3', triggers: [], weight: 1, picture: null })"


def saving(page: Page, ref: str) -> None:
    page.evaluate(WEAVE, ref)
    page.get_by_role("button", name="Save this blend as one LoRA").click()
    page.locator("#save-button").click()
    expect(page.locator("#save-said")).to_contain_text("Fetching lora.safetensors · ")
    expect(page.locator("#save-said")).to_contain_text(" MB of ")


def test_saving_tells_of_a_download_and_a_cancel_ends_it(open_page: Visit, afar: Afar) -> None:
    page = open_page(afar.served.url)
    saving(page, afar.add("weaver/save"))
    expect(page.locator("#save-button")).to_be_hidden()
    page.locator("#save-cancel").click()
    expect(page.locator("#save-said")).to_have_text("Cancelled.")
    expect(page.locator("#save-button")).to_be_visible()
    expect(page.locator("#save-cancel")).to_be_hidden()
    assert eventually(afar.given_up)


def test_a_closed_tab_ends_what_it_waited_for(open_page: Visit, afar: Afar) -> None:
    page = open_page(afar.served.url)
    saving(page, afar.add("weaver/close"))
    page.close()
    assert eventually(afar.given_up, 20)


def test_a_look_at_a_blend_tells_of_a_download_and_can_be_given_up(open_page: Visit, afar: Afar) -> None:
    page = open_page(afar.served.url)
    pick(page, "Pixel")
    page.evaluate(WEAVE, afar.add("weaver/look"))
    page.get_by_role("button", name="How do they go together?").click()
    expect(page.locator("#overlap .said")).to_contain_text("Fetching lora.safetensors · ")
    page.get_by_role("button", name="Look no more how they go together").click()
    expect(page.get_by_role("button", name="How do they go together?")).to_be_visible()
    assert eventually(afar.given_up)


@pytest.mark.parametrize("endpoint", ["inspect_blend", "save_blend"])
def test_a_clients_cancel_ends_the_download(afar: Afar, endpoint: str) -> None:
    ref = afar.add(f"weaver/{endpoint}")
    job = Client(afar.served.url, verbose=False).submit(loras=[{"ref": ref}], api_name=f"/{endpoint}")
    next(iter(job))
    assert not afar.given_up()
    job.cancel()
    assert eventually(afar.given_up, 20)


def test_a_partial_lora_is_saved_where_the_page_allows_it(open_page: Visit, woven: Served) -> None:
    page = open_page(woven.url)
    pick(page, "half")
    page.get_by_role("button", name="Save this blend as one LoRA").click()
    page.locator("#save-button").click()
    expect(page.locator("#save-said")).to_contain_text("Only 1 of 2 layers of bundled:half fit this model")
    page.get_by_label("Allow partial LoRAs").check()
    page.locator("#save-button").click()
    expect(page.locator("#save-said")).to_contain_text("One LoRA with its weight in it: rank 4, 1 layers")


def test_a_client_is_told_what_of_a_partial_lora_was_saved(client: Client) -> None:
    half = [{"ref": "bundled:half"}]
    with pytest.raises(AppError, match="allow partial LoRAs"):
        client.predict(loras=half, api_name="/save_blend")
    _, about = client.predict(loras=half, allow_partial=True, api_name="/save_blend")
    (parent,) = about["parents"]
    assert (parent["receipt"]["applied"], parent["receipt"]["total"]) == (1, 2)
