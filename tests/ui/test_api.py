"""The API as a stranger meets it: by gradio_client, and by plain HTTP with whatever they please to send."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from tests.conftest import Served
from tests.ui.fakes import FakeEngine

README = Path(__file__).resolve().parents[2] / "README.md"
INPUTS = (
    "prompt", "negative_prompt", "model", "loras", "steps", "guidance", "width", "height", "seed", "images", "sampler",
    "total_strength", "allow_partial", "image", "mask", "strength", "consent", "visitor", "recipe", "upscale",
    "upscale_strength", "lossy", "batch",
)  # fmt: skip


@pytest.fixture(scope="module")
def client(server: Served) -> Client:
    return Client(server.url, verbose=False)


def refusal(server: Served, **fields: Any) -> str:
    """The sentence that /generate answers over plain HTTP."""
    body = json.dumps({"data": [fields.get(name) for name in INPUTS]})
    kind = {"content-type": "application/json"}
    called = httpx.post(f"{server.url}/gradio_api/call/generate", content=body, headers=kind)
    assert called.status_code == 200, called.text
    events = httpx.get(f"{server.url}/gradio_api/call/generate/{called.json()['event_id']}", timeout=60).text
    assert "event: error" in events, events
    answer = json.loads(events.rpartition("data: ")[2])
    sentence = answer if isinstance(answer, str) else answer["error"]
    assert isinstance(sentence, str)
    return sentence


def test_a_prompt_is_enough(client: Client) -> None:
    pictures, recipe = client.predict(prompt="a red circle", api_name="/generate")
    assert [item["caption"] for item in pictures] == [f"seed {recipe['seed']}"]
    assert (recipe["prompt"], recipe["model"]["key"], recipe["steps"]) == ("a red circle", "pocket-sd3", 20)


def test_what_is_left_out_is_the_chosen_models_own_default(client: Client) -> None:
    _, recipe = client.predict(prompt="a red circle", model="pocket-sdxl-lcm", api_name="/generate")
    assert (recipe["steps"], recipe["guidance"], recipe["loras"]) == (4, 1.0, [])


def test_every_png_carries_its_own_recipe_beside_the_common_text(client: Client) -> None:
    pictures, recipe = client.predict(prompt="a red circle", seed=7, images=2, api_name="/generate")
    assert (recipe["seed"], recipe["images"]) == (7, 2)
    for seed, item in zip((7, 8), pictures, strict=True):
        with Image.open(item["image"]) as picture:
            assert picture.format == "PNG"
            own = json.loads(picture.info["lora-loom"])
            assert (own["seed"], own["images"]) == (seed, 1)
            assert f"Seed: {seed}" in picture.info["parameters"]


def test_a_recipe_makes_its_picture_again(client: Client) -> None:
    loras = [{"ref": "bundled:pixel", "weight": 0.5}]
    first, recipe = client.predict(prompt="a red circle", loras=loras, width=64, api_name="/generate")
    second, again = client.predict(recipe=recipe, api_name="/generate")
    assert recipe["loras"][0]["receipt"] == {"applied": 264, "total": 264, "skipped": [], "text_encoder": 0}
    assert {**again, "created_at": None} == {**recipe, "created_at": None}
    with Image.open(first[0]["image"]) as one, Image.open(second[0]["image"]) as other:
        assert one.tobytes() == other.tobytes()


def test_earlier_yields_carry_looks_and_no_recipe(client: Client, engine: FakeEngine) -> None:
    engine.pause = 0.02
    *early, last = client.submit(prompt="a red circle", steps=10, api_name="/generate")
    assert all(recipe is None for _, recipe in early)
    assert any(pictures for pictures, _ in early)
    assert last[1]["steps"] == 10


def test_a_clients_cancel_stops_the_engine(client: Client, engine: FakeEngine) -> None:
    engine.pause = 0.05
    job = client.submit(prompt="a red circle", steps=100, images=8, api_name="/generate")
    next(iter(job))
    job.cancel()
    assert engine.cancelled.wait(20)


REFUSED = [
    ({}, "prompt", "required"),
    ({"prompt": 5}, "prompt", "text"),
    ({"prompt": "x" * 4001}, "prompt", "4000 characters"),
    ({"prompt": "x", "negative_prompt": ["y"]}, "negative_prompt", "text"),
    ({"prompt": "x", "negative_prompt": "y", "model": "pocket-sdxl-lcm"}, "negative_prompt", "empty"),
    ({"prompt": "x", "model": "sd9"}, "model", "pocket-sd3"),
    ({"prompt": "x", "model": {"key": 1}}, "model", "pocket-sd3"),
    ({"prompt": "x", "model": "sdxl"}, "SDXL", "needs a GPU"),
    ({"prompt": "x", "steps": 0}, "steps", "1 to 100"),
    ({"prompt": "x", "steps": 101}, "steps", "1 to 100"),
    ({"prompt": "x", "steps": 2.5}, "steps", "whole number"),
    ({"prompt": "x", "steps": "20"}, "steps", "whole number"),
    ({"prompt": "x", "steps": True}, "steps", "whole number"),
    ({"prompt": "x", "guidance": 0.5}, "guidance", "1 to 20"),
    ({"prompt": "x", "guidance": math.nan}, "guidance", "number"),
    ({"prompt": "x", "guidance": math.inf}, "guidance", "number"),
    ({"prompt": "x", "guidance": [3]}, "guidance", "number"),
    ({"prompt": "x", "width": 100}, "width", "multiple of 16 from 64 to 256"),
    ({"prompt": "x", "height": 4096}, "height", "multiple of 16 from 64 to 256"),
    ({"prompt": "x", "seed": -2}, "seed", "-1"),
    ({"prompt": "x", "seed": 2**32}, "seed", str(2**32 - 1)),
    ({"prompt": "x", "images": 9}, "images", "1 to 8"),
    ({"prompt": "x", "images": math.nan}, "images", "1 to 8"),
    ({"prompt": "x", "sampler": "magic"}, "sampler", "flow-euler"),
    ({"prompt": "x", "allow_partial": "perhaps"}, "allow_partial", "true or false"),
    ({"prompt": "x", "consent": "maybe"}, "consent", "picture"),
    ({"prompt": "x", "visitor": "../etc"}, "visitor", "characters"),
    ({"prompt": "x", "total_strength": 11}, "total_strength", "at most 10"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel", "start": 0.6, "end": 0.4}]}, "loras[0]", "less than end"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel", "blocks": {"mid": 1}}]}, "loras[0].blocks", "0 to 5"),
    ({"prompt": "x", "strength": 0.5}, "strength", "must come together with image"),
    ({"prompt": "x", "image": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "image", "uploaded"),
    ({"prompt": "x", "image": {"path": "/etc/passwd"}}, "image", "uploaded"),
    ({"prompt": "x", "mask": 5}, "mask", "uploaded"),
    ({"prompt": "x", "loras": "bundled:pixel"}, "loras", "list"),
    ({"prompt": "x", "loras": [5]}, "loras[0]", "object"),
    ({"prompt": "x", "loras": [{"weight": 1}]}, "loras[0].ref", "required"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel", "weight": 6}]}, "loras[0].weight", "-5 to 5"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel", "weight": math.nan}]}, "loras[0].weight", "-5 to 5"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel", "colour": 1}]}, "loras[0].colour", "not an input"),
    ({"prompt": "x", "loras": [{"ref": "bundled:nobody"}]}, "bundled:nobody", "no LoRA"),
    ({"prompt": "x", "loras": [{"ref": "/etc/passwd"}]}, "/etc/passwd", "not a LoRA ref"),
    ({"prompt": "x", "loras": [{"ref": "bundled:pixel-xl"}]}, "bundled:pixel-xl", "does not fit"),
    ({"recipe": 5}, "recipe", "object"),
    ({"recipe": {"version": 2}}, "recipe.version", "1"),
    ({"recipe": {"version": 1, "app": "x", "colour": 1}}, "recipe", ""),
    ({"recipe": {"version": 1}, "prompt": "x"}, "prompt", "left out"),
]


@pytest.mark.parametrize(("fields", "named", "allowed"), REFUSED, ids=[json.dumps(f)[:60] for f, _, _ in REFUSED])
def test_a_wrong_value_gets_one_sentence(server: Served, fields: dict[str, Any], named: str, allowed: str) -> None:
    sentence = refusal(server, **fields)
    assert named in sentence
    assert allowed in sentence
    assert "\n" not in sentence
    for leak in ("Traceback", "site-packages", str(Path(__file__).parents[2]), "/tmp/", "pydantic", 'File "'):
        assert leak not in sentence


def test_too_few_values_are_counted(server: Served) -> None:
    called = httpx.post(f"{server.url}/gradio_api/call/generate", json={"data": ["a red circle"]}).json()
    events = httpx.get(f"{server.url}/gradio_api/call/generate/{called['event_id']}", timeout=60).text
    assert "data must hold 23 values" in events


def test_a_plain_list_from_before_there_were_the_last_inputs_draws(server: Served) -> None:
    data = ["a red circle", *[None] * 7, 3, *[None] * 10]  # to recipe, as the first version had them
    called = httpx.post(f"{server.url}/gradio_api/call/generate", json={"data": data}).json()
    events = httpx.get(f"{server.url}/gradio_api/call/generate/{called['event_id']}", timeout=60).text
    assert "event: complete" in events
    assert '"seed": 3' in events


def test_a_refused_request_draws_nothing(server: Served, engine: FakeEngine) -> None:
    before = len(engine.jobs)
    refusal(server, prompt="x", steps=0)
    assert len(engine.jobs) == before


def test_a_bug_shows_an_id_and_no_more(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    sentence = refusal(server, prompt="a bug, please")
    assert "/secret/path" not in sentence
    number = sentence.rsplit(" ", 1)[1].rstrip(".")
    assert any(number in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_client_learns_the_errors_sentence(client: Client) -> None:
    with pytest.raises(AppError, match="steps must be from 1 to 100"):
        client.predict(prompt="x", steps=1000, api_name="/generate")


def test_too_many_bytes_are_refused_unread(server: Served) -> None:
    answer = httpx.post(f"{server.url}/gradio_api/call/generate", content=b"x" * 2_000_000)
    assert answer.status_code == 413
    assert "too large" in answer.json()["detail"]


def test_the_models_say_what_they_need_and_whether_they_run(client: Client) -> None:
    models = {model["key"]: model for model in client.predict(api_name="/models")}
    assert models["pocket-sd3"]["available"] is True
    assert models["sdxl"]["why_not"].startswith("SDXL 1.0 needs a GPU with about 8 GB")


def test_a_search_pages_through_the_bundled_loras(client: Client) -> None:
    first = client.predict(family="pocket-sd3", limit=3, api_name="/search_loras")
    rest = client.predict(family="pocket-sd3", limit=3, cursor=first["next"], api_name="/search_loras")
    assert [card["title"] for card in first["cards"] + rest["cards"]] == ["Neon", "Pixel", "Sketch", "Snail"]
    assert rest["next"] is None


def test_a_wrong_search_field_is_named(client: Client) -> None:
    with pytest.raises(AppError, match=r"limit.*1 to 100"):
        client.predict(limit=1000, api_name="/search_loras")


def test_strangers_see_the_endpoints_and_no_event_of_the_page(client: Client) -> None:
    shown = client.view_api(return_format="dict", print_info=False)
    assert set(shown["named_endpoints"]) == {
        "/generate", "/models", "/search_loras", "/inspect_lora", "/inspect_blend", "/save_blend", "/upload_lora",
        "/history", "/star_record", "/delete_records", "/records_status", "/read_recipe", "/recipe_code",
        "/compare_loras", "/compare_grid",
    }  # fmt: skip
    assert shown["unnamed_endpoints"] == {}
    told = README.read_text(encoding="utf-8").split("## From a program", 1)[1].split("```", 1)[0]
    assert set(re.findall(r"`(/\w+)`", told)) == set(shown["named_endpoints"]), "README.md lists the endpoints"
