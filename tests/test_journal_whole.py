"""A fresh start, a generation, kill -9 right after the answer, a start anew: the record is there once, as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradio_client import Client

from tests.own_process import started

ROOT = Path(__file__).parent.parent


@contextmanager
def killed(data_dir: Path, *flags: str) -> Iterator[Client]:
    """A client of an app that is killed at the end."""
    with started(data_dir, *flags) as app:
        yield Client(app.url, verbose=False)
        app.kill()


def test_what_was_answered_survives_kill_9_exactly_once_and_only_its_visitor_sees_it(tmp_path: Path) -> None:
    asked = {"prompt": "a red circle", "steps": 1, "visitor": "ann", "loras": [{"ref": "bundled:pocket-sd3-neon"}]}
    with killed(tmp_path / "data") as client:
        _, recipe = client.predict(api_name="/generate", **asked)
    with killed(tmp_path / "data", "--consent", "none") as client:
        history = client.predict(visitor="ann", query="red", lora="neon", api_name="/history")
        assert [record["recipe"] for record in history["records"]] == [recipe]
        assert (history["records"][0]["picture"], history["next"]) == (True, None)
        assert client.predict(visitor="bob", api_name="/history")["records"] == []
        assert client.predict(api_name="/history")["records"] == []
        client.predict(api_name="/generate", **asked)  # by the owner's word it is not kept
        client.predict(api_name="/generate", **asked, consent="recipe")
        newest, oldest = client.predict(visitor="ann", api_name="/history")["records"]
        assert (newest["picture"], oldest["recipe"]) == (False, recipe)
