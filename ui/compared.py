"""A comparison on its way out: its pictures as files, its table, and at the end the whole as one labelled picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradio.processing_utils import save_bytes_to_cache

from core.compare.run import Standing
from core.compare.sheet import contact_sheet
from core.studio import Generated
from ui.runs import Pace

_FONT = Path(__file__).parent / "fonts" / "Vollkorn-Regular.woff2"

Streamed = tuple[list[tuple[str, str]], dict[str, Any], str | None]


def streamed(standings: Iterator[Standing], cache: str) -> Iterator[Streamed]:
    """(pictures as (file, caption), table, file of the labelled picture): the last only with the last yield.

    `cache` is Gradio's folder, which drops the files after a day.
    """
    pictures: list[tuple[str, str]] = []
    table: dict[str, Any] = {}
    done, pace = -1, Pace()
    for standing in standings:
        labels = {cell.key: cell.label for cell in reversed(standing.plan.cells)}
        for key in list(standing.drawn)[len(pictures) :]:
            pictures = [*pictures, (_file(standing.drawn[key], cache), labels[key])]
        if standing.ended:
            yield pictures, standing.table(), sheet_file(standing, cache)
        elif standing.done != done:
            done, table = standing.done, standing.table()
            yield pictures, table, None
        elif pace.due():  # a client's cancel arrives at a yield, whatever it brings
            yield pictures, table, None


def sheet_file(standing: Standing, cache: str) -> str:
    """The labelled picture, under the name that a download gets."""
    name = f"lora-loom-{standing.plan.kind}-{standing.plan.base.seed}.png"
    path: str = save_bytes_to_cache(contact_sheet(standing, _FONT), name, cache)
    return path


def _file(generated: Generated, cache: str) -> str:
    path: str = save_bytes_to_cache(generated.pictures[0], f"lora-loom-{generated.recipe.seed}.png", cache)
    return path
