"""One page for all tests of the UI, with an engine that draws plain colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Serve, Served
from tests.ui.fakes import FakeEngine, bundled_loras
from ui.words import PocketWords

WORDS = PocketWords(
    things=("circle", "house"),
    colours=("red", "blue"),
    examples=("a red circle on a blue background", "a yellow house under a starry night sky"),
)


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="session")
def server(serve: Serve, loras: Path) -> Served:
    return serve(FakeEngine(), loras, WORDS)


@pytest.fixture
def engine(server: Served) -> Iterator[FakeEngine]:
    """The engine behind `server`, quick again after each test."""
    engine: FakeEngine = server.engine
    engine.cancelled.clear()
    yield engine
    engine.pause = 0.0
