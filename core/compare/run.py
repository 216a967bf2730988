"""Runs a comparison: every picture by the one way that pictures are made, and how it stands after each."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.compare.axes import Ground, Raw
from core.compare.difference import difference
from core.compare.plan import Cell, Heading, Plan, plan_of_grid, plan_of_loras
from core.errors import BadRequest, Cancelled, LoomError
from core.messages import Progress, StopFlag
from core.pictures import with_pictures
from core.records.recording import Recorded
from core.request import LARGEST_SEED
from core.studio import Generated, Studio
from core.turns import Place
from lora_catalog.errors import CatalogError
from lora_catalog.visitor import Visitor

ABOUT = (
    "A difference is the root mean square of how far two pictures' colour values lie apart, in percent of their full "
    "range: 0 is the same picture."
)


@dataclass(frozen=True)
class Standing:
    """A comparison at one moment. `drawn`, `failed` and `differences` go by the cells' keys, in drawing order."""

    plan: Plan
    drawn: Mapping[str, Generated]
    failed: Mapping[str, str]
    differences: Mapping[tuple[str, str], float | None]
    progress: Progress
    ended: bool = False
    cancelled: bool = False

    @property
    def done(self) -> int:
        """Pictures that need no more waiting for."""
        return len(self.drawn) + len(self.failed)

    @property
    def pictures(self) -> int:
        """Pictures of the whole plan; the table may show one at several places."""
        return len({cell.key for cell in self.plan.cells})

    @property
    def recorded(self) -> str:
        """What is kept of the pictures, in words; empty before there is one."""
        kept = [drawn.recorded for drawn in self.drawn.values()]
        why_not = next((each.why_not for each in kept if each.why_not), "")
        return str(Recorded(kept[0].consent, len(kept), why_not)) if kept else ""

    def difference(self, cell: Cell, other: str | None) -> float | None:
        """In percent; None where one of the two is not there or they differ in size."""
        return None if other is None else self.differences.get((cell.key, other))

    def apart(self, cell: Cell) -> tuple[float | None, float | None]:
        """From the bare picture and from the whole blend; None also where it is that picture itself."""
        from_bare, from_blend = (
            None if other == cell.key else self.difference(cell, other) for other in (cell.bare, self.plan.whole)
        )
        return from_bare, from_blend

    def table(self) -> dict[str, Any]:
        """Plain values, ready for JSON: headings, and for each cell its state, recipe and differences.

        `picture` counts the pictures drawn, as they came.
        """
        base = self.plan.base
        order = {key: number for number, key in enumerate(self.drawn)}
        return {
            "kind": self.plan.kind, "prompt": base.prompt, "model": base.model, "seed": base.seed,
            "columns": _heading(self.plan.columns), "rows": _heading(self.plan.rows), "about": ABOUT,
            "cells": [self._row(cell, order.get(cell.key)) for cell in self.plan.cells],
            "ended": self.ended, "cancelled": self.cancelled, "recorded": self.recorded,
        }  # fmt: skip

    def _row(self, cell: Cell, picture: int | None) -> dict[str, Any]:
        drawn = self.drawn.get(cell.key)
        return {
            "row": cell.row, "column": cell.column, "label": cell.label, "picture": picture,
            "state": "drawn" if drawn else "failed" if cell.key in self.failed else "waiting",
            "why_not": self.failed.get(cell.key), "recipe": drawn.recipe.as_json() if drawn else None,
            "difference": {
                "from_bare": self.difference(cell, cell.bare), "from_blend": self.difference(cell, self.plan.whole),
            },
        }  # fmt: skip


def compare_loras(studio: Studio, raw: Raw, visitor: Visitor, stop: StopFlag) -> Iterator[Standing]:
    """What each LoRA of the blend in `raw` does (core/compare/plan.py). Raises LoomError or CatalogError."""
    named, _ = with_pictures(raw)
    plan = plan_of_loras(studio.with_model_known(named, visitor), _ground(studio))
    return _run(studio, plan, _files(raw), visitor, stop)


def compare_grid(studio: Studio, raw: Raw, visitor: Visitor, stop: StopFlag) -> Iterator[Standing]:
    """A grid around the request in `raw`, which also has `columns`, `rows` and `baseline`. Raises as above."""
    sides = {name: raw.get(name) for name in ("columns", "rows", "baseline")}
    if sides["columns"] is None:
        raise BadRequest("columns", "columns is required: what varies, such as the field steps with values.")
    request, _ = with_pictures({name: value for name, value in raw.items() if name not in sides})
    for name in ("columns", "rows"):
        sides[name] = _models_known(studio, sides[name], visitor)
    plan = plan_of_grid(studio.with_model_known(request, visitor), **sides, ground=_ground(studio))
    return _run(studio, plan, _files(raw), visitor, stop)


def _files(raw: Raw) -> Raw:
    """The pictures that every cell is drawn over, as paths: a plan names them by their sha256."""
    return {name: raw[name] for name in ("image", "mask") if raw.get(name) is not None}


def _models_known(studio: Studio, side: Any, visitor: Visitor) -> Any:
    """Of a side that varies the model, each under the key that the table has for it."""
    if not (isinstance(side, Mapping) and side.get("field") == "model" and isinstance(side.get("values"), list)):
        return side
    values = [studio.with_model_known({"model": value}, visitor)["model"] for value in side["values"]]
    return dict(side) | {"values": values}


def _ground(studio: Studio) -> Ground:
    titles = {card.ref: card.title for card in studio.catalog.bundled()}
    return Ground(studio.default_model, lambda: secrets.randbelow(LARGEST_SEED + 1), titles)


def _run(studio: Studio, plan: Plan, files: Raw, visitor: Visitor, stop: StopFlag) -> Iterator[Standing]:
    """A cell that fails says why and the others go on; an error that left no picture at all is raised.

    A stop ends it within a step and keeps what is drawn. It is one job of the visitor, and waits in line anew for each
    picture, so that others draw between them.
    """
    with studio.turns.place(visitor) as place:
        yield from _filled(studio, plan, files, visitor, stop, place)


def _filled(
    studio: Studio, plan: Plan, files: Raw, visitor: Visitor, stop: StopFlag, place: Place
) -> Iterator[Standing]:
    drawn: dict[str, Generated] = {}
    failed: dict[str, str] = {}
    differences: dict[tuple[str, str], float | None] = {}
    first_error: LoomError | CatalogError | None = None

    def standing(progress: Progress, **end: bool) -> Standing:
        return Standing(plan, dict(drawn), dict(failed), dict(differences), progress, **end)

    progress = Progress("Starting")
    yield standing(progress)
    for cell in plan.order():
        try:
            if stop.is_set():
                raise Cancelled("Cancelled.")
            for update in studio.generate(cell.raw | files, visitor, stop, place):
                if isinstance(update, Progress):
                    progress = update
                    yield standing(progress)
                elif isinstance(update, Generated):
                    drawn[cell.key] = update
                    differences |= _new_differences(plan, cell.key, drawn)
        except Cancelled:
            if not drawn:
                raise
            yield standing(progress, ended=True, cancelled=True)
            return
        except (LoomError, CatalogError) as error:
            failed[cell.key] = str(error)
            first_error = first_error or error
        yield standing(progress)
    if not drawn and first_error is not None:
        raise first_error
    yield standing(progress, ended=True)


def _new_differences(plan: Plan, key: str, drawn: Mapping[str, Generated]) -> dict[tuple[str, str], float | None]:
    """Of every two pictures that are to be told apart, of which one is new and both are there."""
    pairs = {(cell.key, other) for cell in plan.cells for other in (cell.bare, plan.whole) if other is not None}
    return {
        (one, other): difference(drawn[one].pictures[0], drawn[other].pictures[0])
        for one, other in pairs
        if key in (one, other) and one in drawn and other in drawn
    }


def _heading(heading: Heading) -> dict[str, Any]:
    return {"title": heading.title, "labels": list(heading.labels)}
