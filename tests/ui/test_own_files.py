"""No input makes the server fetch an address, open a file that is none of an upload, or pass another host's file on."""

from __future__ import annotations

import http.server
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image

from tests.conftest import Served
from ui.own_files import path_of


@pytest.fixture
def other_host() -> Iterator[tuple[str, list[str]]]:
    """Another server, and what it was asked for."""
    asked: list[str] = []

    class Listening(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: `asked` tells."""

    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}", asked
    host.shutdown()
    host.server_close()


def answer(server: Served, endpoint: str, **fields: Any) -> str:
    """The end of what an endpoint says over plain HTTP."""
    place = httpx.post(f"{server.url}/gradio_api/call/v2/{endpoint}", json=fields)
    assert place.status_code == 200, place.text
    return httpx.get(f"{server.url}/gradio_api/call/{endpoint}/{place.json()['event_id']}", timeout=60).text


def file(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize("wrapped", ["alone", "among the LoRAs", "in the recipe", "as a stream"])
def test_an_address_given_as_a_file_is_refused_and_never_asked(
    server: Served, other_host: tuple[str, list[str]], wrapped: str
) -> None:
    address, asked = other_host
    ways: dict[str, dict[str, Any]] = {
        "alone": {"prompt": "x", "image": file(f"{address}/a.png")},
        "among the LoRAs": {"prompt": "x", "loras": [{"ref": "bundled:pixel", "blocks": file(f"{address}/a.png")}]},
        "in the recipe": {"recipe": {"init": file(f"{address}/a.png", url=f"{address}/b.png")}},
        "as a stream": {"prompt": "x", "image": file(f"{address}/a.png", is_stream=True)},
    }
    said = answer(server, "generate", **ways[wrapped])
    assert "event: error" in said
    assert "LoRA Loom fetches nothing from other addresses" in json.loads(said.rpartition("data: ")[2])["error"]
    assert asked == []


def test_the_address_of_a_drawn_picture_is_that_picture(server: Served) -> None:
    client = Client(server.url, verbose=False, download_files=False)
    (picture,), recipe = client.predict(prompt="a red circle", seed=3, api_name="/generate")
    again = answer(server, "read_recipe", image=file(picture["image"]["url"]))
    assert json.loads(again.rpartition("data: ")[2])[0] == recipe


def test_the_address_of_a_file_that_is_no_upload_opens_nothing(server: Served) -> None:
    said = answer(server, "read_recipe", image=file(f"{server.url}/gradio_api/file=/etc/passwd"))
    assert "must be uploaded here first" in said


@pytest.mark.parametrize("form", ["{}", " {}", "%20{}", "HTTP{rest}"])
def test_the_file_route_passes_no_other_hosts_file_on(
    server: Served, other_host: tuple[str, list[str]], form: str
) -> None:
    address, asked = other_host
    there = form.format(f"{address}/x.png", rest=f"{address}/x.png".removeprefix("http"))
    assert httpx.get(f"{server.url}/gradio_api/file={there}").status_code in (403, 404)
    assert asked == []


def test_only_addresses_of_files_have_a_path() -> None:
    assert path_of("http://host/gradio_api/file=/tmp/a%20b.png") == "/tmp/a b.png"
    assert path_of("http://host/root/gradio_api/file=/tmp/a.png?x=1") == "/tmp/a.png"
    for other in (
        "http://host/x.png",
        "ftp://host/x",
        "",
        "http://host/gradio_api/file=https://there/x",
        "http://[::1",
    ):
        assert path_of(other) is None


def test_a_picture_that_is_uploaded_is_still_taken(server: Served) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    path = httpx.post(f"{server.url}/gradio_api/upload", files={"files": ("a.png", out.getvalue())}).json()[0]
    assert "event: complete" in answer(server, "generate", prompt="x", image=file(path))


@pytest.mark.parametrize("path", ["gradio_api/dev/reload", "openapi.json"])
def test_what_gradio_serves_its_developers_is_not_served(server: Served, path: str) -> None:
    assert httpx.get(f"{server.url}/{path}", timeout=20).status_code == 404
