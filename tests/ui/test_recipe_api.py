"""Recipes over the API: pictures and texts read back, scripts that run, links that fit, and what is refused."""

from __future__ import annotations

import io
import json
import runpy
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from core.errors import BadRequest
from core.recipe import Recipe, permalink, read_recipe
from core.recipe_files import picture_as
from tests.conftest import Served
from tests.core.recipes import without_receipts
from tests.ui.fakes import FakeEngine

ASKED: dict[str, Any] = {
    "prompt": "a red circle “in” the\nmiddle", "seed": 7, "steps": 4, "width": 64,
    "loras": [{"ref": "bundled:pixel", "weight": 0.5, "end": 0.5}, {"ref": "bundled:neon", "muted": True}],
}  # fmt: skip


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return Client(server.url, verbose=False)


@pytest.fixture(scope="module")
def drawn(client: Client) -> tuple[Path, dict[str, Any]]:
    """A picture and its recipe."""
    pictures, recipe = client.predict(**ASKED, api_name="/generate")
    return Path(pictures[0]["image"]), recipe


def fields(reasons: list[dict[str, str]]) -> list[str]:
    return [reason["field"] for reason in reasons]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_that_was_saved_is_read_back(
    client: Client, drawn: tuple[Path, dict[str, Any]], tmp_path: Path, ending: Any
) -> None:
    picture, recipe = drawn
    file = tmp_path / f"kept.{ending}"
    file.write_bytes(picture.read_bytes() if ending == "png" else picture_as(picture.read_bytes(), ending))
    read, reasons = client.predict(image=handle_file(file), api_name="/read_recipe")
    assert read == recipe
    assert fields(reasons) == ["model.revision"]  # this engine's own, which no model that ships has


def test_a_link_and_json_are_read_back(client: Client, drawn: tuple[Path, dict[str, Any]]) -> None:
    made = read_recipe(drawn[1])
    link = permalink(made)
    assert client.predict(text=json.dumps(drawn[1]), api_name="/read_recipe")[0] == drawn[1]
    for text in (link, f"https://weaver-loom.hf.space{link}"):
        assert client.predict(text=text, api_name="/read_recipe")[0] == without_receipts(made).as_json()


def test_a1111s_text_is_read_and_what_is_not_here_is_named(client: Client) -> None:
    text = "a cat <lora:pixel:0.5> <lora:nobody:1>\nSteps: 5, Sampler: Euler a, Seed: 3, Model: dreamer"
    read, reasons = client.predict(text=text, api_name="/read_recipe")
    assert (read["prompt"], read["steps"], read["seed"]) == ("a cat", 5, 3)
    assert [lora["ref"] for lora in read["loras"]] == ["bundled:pixel"]
    assert {"model.key", "loras", "sampler", "app"} == set(fields(reasons))
    again = client.predict(recipe=read, api_name="/generate")[1]
    assert again["seed"] == 3


def test_the_python_script_makes_the_same_picture_on_a_page(
    client: Client,
    drawn: tuple[Path, dict[str, Any]],
    server: Served,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = client.predict(recipe=drawn[1], api_name="/recipe_code")
    assert server.url in code["python"]
    (tmp_path / "again.py").write_text(code["python"], encoding="utf-8")
    made = runpy.run_path(str(tmp_path / "again.py"))
    assert made["recipe"] | {"created_at": None} == drawn[1] | {"created_at": None}
    with Image.open(capsys.readouterr().out.splitlines()[-1]) as again, Image.open(drawn[0]) as first:
        assert again.tobytes() == first.tobytes()


def test_scripts_name_the_address_they_are_asked_for(client: Client, drawn: tuple[Path, dict[str, Any]]) -> None:
    code = client.predict(recipe=drawn[1], address="https://weaver-loom.hf.space", api_name="/recipe_code")
    assert 'Client("https://weaver-loom.hf.space")' in code["python"]
    assert "StableDiffusion3Pipeline" in code["diffusers"]
    with pytest.raises(AppError, match="address must be"):
        client.predict(recipe=drawn[1], address="javascript:alert(1)", api_name="/recipe_code")
    with pytest.raises(AppError, match=r"recipe.colour"):
        client.predict(recipe=drawn[1] | {"colour": 1}, api_name="/recipe_code")


def refusal(server: Served, *data: Any) -> str:
    """The sentence that /read_recipe answers over plain HTTP."""
    called = httpx.post(f"{server.url}/gradio_api/call/read_recipe", json={"data": data})
    assert called.status_code == 200, called.text
    events = httpx.get(f"{server.url}/gradio_api/call/read_recipe/{called.json()['event_id']}", timeout=60).text
    assert "event: error" in events, events
    answer = json.loads(events.rpartition("data: ")[2])
    sentence = answer if isinstance(answer, str) else answer["error"]
    assert isinstance(sentence, str)
    for leak in ("Traceback", "site-packages", str(Path(__file__).parents[2]), "/tmp/", "pydantic"):
        assert leak not in sentence
    return sentence


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", __file__])
def test_a_path_outside_the_uploads_is_refused_unread(server: Served, path: str) -> None:
    for file in ({"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}):
        assert "uploaded" in refusal(server, file, None, None)


REFUSED = {
    "nothing": (None, "Either image or text"),
    "a number": (5, "text must be text"),
    "a list": (["x"], "text must be text"),
    "chatter": ("a red circle", "must be a recipe"),
    "the future": ('{"version": 99}', "version must be 1"),
    "deep": ('{"version": 1, "init": ' + "[" * 50_000, "must be a recipe"),
    "long": ("?recipe=" + "A" * 500_000, "at most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_without_a_recipe_gets_one_sentence(server: Served, name: str) -> None:
    text, said = REFUSED[name]
    assert said in refusal(server, None, text, None)


def uploads(tmp_path: Path) -> dict[str, bytes]:
    bare, forged = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(bare, "PNG")
    Image.new("1", (10_000, 10_000)).save(forged, "PNG")
    return {"no recipe": bare.getvalue(), "PNG, JPEG or WebP": b"<svg/>", "carries no recipe": forged.getvalue()}


def test_an_upload_without_a_recipe_gets_one_sentence(client: Client, tmp_path: Path) -> None:
    for said, data in uploads(tmp_path).items():
        (tmp_path / "file.png").write_bytes(data)
        with pytest.raises(AppError, match=said):
            client.predict(image=handle_file(tmp_path / "file.png"), api_name="/read_recipe")


def test_a_megabyte_of_text_is_refused_unread(server: Served) -> None:
    answer = httpx.post(f"{server.url}/gradio_api/call/read_recipe", json={"data": [None, "x" * 2**21, None]})
    assert answer.status_code == 413


def longest() -> Recipe:
    """Sixteen LoRAs of the Hub, all controls used, and a prompt as long as one may be."""
    sha = "0123456789abcdef" * 4
    lora = {
        "sha256": sha, "weight": 0.85, "start": 0.1, "end": 0.9, "blocks": {"0-5": 0.5, "12": 1.25},
        "text_encoder": 0.65, "receipt": {"applied": 264, "total": 264, "skipped": [], "text_encoder": 96},
    }  # fmt: skip
    refs = [f"some-weaver/a-style-lora-{n:02}@{sha[:40]}:pytorch_lora_weights.safetensors" for n in range(16)]
    model = {"key": "pocket-sd3", "repo": None, "revision": sha, "accelerator": None}
    return read_recipe(
        {
            "version": 1, "app": "LoRA Loom 0.1.0", "model": model, "prompt": "a red circle and " * 235, "steps": 20,
            "guidance": 3.0, "sampler": "flow-euler", "width": 128, "height": 128, "seed": 2**32 - 1, "images": 1,
            "loras": [lora | {"ref": ref} for ref in refs], "plan": {"dtype": "float32", "device": "cpu"},
            "libraries": {"torch": "2.13.0", "diffusers": "0.42.1", "transformers": "5.23.0"}, "created_at": "",
        }
    )  # fmt: skip


def test_the_longest_usual_link_opens_the_page_and_one_of_a_megabyte_leaves_it_as_it_was(
    server: Served, engine: FakeEngine
) -> None:
    link = permalink(longest())
    assert 10_000 < len(link) < 32_000
    assert httpx.get(server.url + link).status_code == 200
    connection = HTTPConnection(server.url.removeprefix("http://"))
    with suppress(ConnectionError):  # the server hangs up once it has read 64 kB of such a line
        connection.request("GET", f"/?recipe={'A' * 2**20}")
        assert connection.getresponse().status == 400
    connection.close()
    assert httpx.get(server.url).status_code == 200


@pytest.mark.parametrize("way", ["/?recipe=", "/gradio_api/info?x=", "/"])
def test_an_address_that_is_too_long_gets_one_sentence(
    server: Served, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"))
    for letters in (60_100, 65_000, 66_000, 120_000):  # what httpx and h11 take at most lies between these
        connection.request("GET", way + "A" * letters)
        answer = connection.getresponse()
        said = answer.read().decode()
        if answer.status == 400:  # the server hung up in the middle of the line
            connection.close()
            continue
        assert (answer.status, answer.headers["content-type"]) == (414, "text/plain; charset=utf-8")
        assert said.startswith("This address is too long")
    connection.close()
    assert "Traceback" not in caplog.text


def test_reading_draws_nothing(client: Client, drawn: tuple[Path, dict[str, Any]], engine: FakeEngine) -> None:
    before = len(engine.jobs)
    client.predict(text=json.dumps(drawn[1]), api_name="/read_recipe")
    assert len(engine.jobs) == before


def test_the_sentence_is_the_studios_own(client: Client) -> None:
    with pytest.raises(BadRequest) as refused:
        read_recipe({"version": 2})
    with pytest.raises(AppError, match=str(refused.value)):
        client.predict(text='{"version": 2}', api_name="/read_recipe")
