"""A Space where people sign in with Hugging Face: its app, its real cookie, and a Hub with a LoRA of theirs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, expect

from core.base_models import POCKET
from tests.hub import EmulatedHub
from tests.own_process import started

itsdangerous = pytest.importorskip("itsdangerous", reason="needs gradio[oauth], which requirements.txt asks for")
pytest.importorskip("authlib", reason="needs gradio[oauth], which requirements.txt asks for")

ROOT = Path(__file__).parent.parent
NEON = POCKET / "loras" / "pocket-sd3-neon" / "pocket-sd3-neon.safetensors"
ANN, SECRET = "hf_oauth_of_ann", "of the app"


@pytest.fixture(scope="module")
def hub() -> Iterator[EmulatedHub]:
    hub = EmulatedHub()
    card = {"base_model": "lora-loom/pocket-sd3"}
    with hub.running():
        for name, lock in (("secret", {"private": True}), ("asking", {"gated": "manual"})):
            hub.add_repo(f"ann/{name}", {"neon.safetensors": NEON.read_bytes()}, card, ["lora"], readers=[ANN], **lock)
        yield hub


@pytest.fixture(scope="module")
def space(hub: EmulatedHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`python app.py` as a Space starts it, on a CPU; `hf_oauth` of README.md is what sets the four variables."""
    environ = {
        "HF_ENDPOINT": hub.endpoint,
        "SYSTEM": "spaces", "SPACE_ID": "ann/loom", "LOOM_HOST": "127.0.0.1",
        "OAUTH_CLIENT_ID": "loom", "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_SCOPES": "openid profile",
        "OPENID_PROVIDER_URL": hub.endpoint,
    }  # fmt: skip
    with started(tmp_path_factory.mktemp("space"), environ=environ) as app:
        yield app.url


def cookie(secret: str = SECRET, hours: float = 8) -> str:
    """What Gradio's callback leaves in a browser: the token, signed as starlette's sessions are."""
    info = {
        "access_token": ANN, "expires_at": int(time.time() + 3600 * hours),
        "userinfo": {"preferred_username": "ann", "name": "Ann", "profile": "", "picture": ""},
    }  # fmt: skip
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    data = base64.b64encode(json.dumps({"oauth_info": info}).encode())
    return str(itsdangerous.TimestampSigner(key).sign(data).decode())


def client(space: str, session: str | None = None) -> Client:
    return Client(space, verbose=False, headers={"Cookie": f"session={session}"} if session else {})


@pytest.mark.parametrize("ref", ["ann/secret", "ann/asking"])
def test_who_signed_in_may_look_into_their_private_and_gated_loras(space: str, ref: str) -> None:
    look = client(space, cookie()).predict(ref=ref, api_name="/inspect_lora")
    assert (look["family"], look["fits"]) == ("pocket-sd3", "yes")


@pytest.mark.parametrize(
    "session", [None, cookie(hours=-1), cookie(secret="of another app"), "torn"], ids=["none", "old", "forged", "torn"]
)
def test_nobody_else_may(space: str, session: str | None) -> None:
    with pytest.raises(AppError, match="ann/secret"):
        client(space, session).predict(ref="ann/secret", api_name="/inspect_lora")


def test_who_signed_in_draws_with_their_own_lora(space: str) -> None:
    small = {"prompt": "a red circle", "steps": 2, "width": 64, "height": 64}
    _, recipe = client(space, cookie()).predict(**small, loras=[{"ref": "ann/secret"}], api_name="/generate")
    assert recipe["loras"][0]["receipt"]["applied"] > 0
    assert ANN not in json.dumps(recipe)


def test_the_page_has_the_button_and_knows_who_signed_in(space: str, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(space)
    button = page.locator("#sign-in")
    expect(button).to_contain_text("Sign in with Hugging Face")
    context.add_cookies([{"name": "session", "value": cookie(), "url": space}])
    page.reload()
    expect(button).to_contain_text("Sign out (ann)")
    context.close()


def test_the_sign_in_is_no_endpoint(space: str) -> None:
    assert not [name for name in client(space).view_api(return_format="dict")["named_endpoints"] if "check" in name]


def test_the_readme_asks_the_hub_for_the_sign_in_and_its_scopes() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    assert "hf_oauth: true" in front
    assert re.findall(r"^  - ([a-z]+-repos)$", front, re.MULTILINE) == ["read-repos", "gated-repos"]
