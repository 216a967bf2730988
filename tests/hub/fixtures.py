"""An emulated Hub that runs for one test, and settings that keep huggingface_hub's client away from the real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub import EmulatedHub

# huggingface_hub reads these at import: conftest.py sets them before anything can import it.
CLIENT_SETTINGS = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # the discard port: a test that forgets its own endpoint reaches nobody
}


@pytest.fixture
def hub() -> Iterator[EmulatedHub]:
    """An empty Hub, running."""
    emulated = EmulatedHub()
    with emulated.running():
        yield emulated
