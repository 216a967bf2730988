"""Plan: which pictures a comparison is made of, each checked before the first is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from core.compare.axes import Axis, Change, Ground, Raw, names_of, read_axis
from core.errors import BadRequest
from core.lora.strength import factor_for
from core.prompt_forms import escaped
from core.request import GenerationRequest, request_from

MOST_CELLS = 64
BARE = "no LoRA"


@dataclass(frozen=True)
class Heading:
    """What changes along one side, and its labels in order."""

    title: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A picture's place in the table. Cells with the same `key` are the same picture, drawn once.

    `bare` is the key of the same request without LoRAs, whether it is in the table or not.
    """

    row: int
    column: int
    label: str
    key: str
    bare: str
    raw: Raw
    base_model: str  # repo of its weights


@dataclass(frozen=True)
class Plan:
    """A table of pictures. `base` is what they all have but what varies, and `blend` names its LoRAs with weights.

    `whole` is the key of the whole blend.
    """

    kind: Literal["loras", "grid"]
    columns: Heading
    rows: Heading
    cells: tuple[Cell, ...]
    base: GenerationRequest
    blend: tuple[str, ...]
    whole: str | None = None

    def order(self) -> list[Cell]:
        """One cell for each picture, as they are best drawn: every model is loaded once."""
        distinct = {cell.key: cell for cell in reversed(self.cells)}
        first = [cell for cell in self.cells if distinct[cell.key] is cell]
        bases = list(dict.fromkeys(cell.base_model for cell in first))
        return sorted(first, key=lambda cell: bases.index(cell.base_model))


def plan_of_loras(raw: Mapping[str, Any], ground: Ground) -> Plan:
    """Each LoRA's part: none, each alone, all, and all but each, with one seed. Muted LoRAs are not of the blend.

    Where the blend's total strength is kept, a cell keeps its LoRAs' share of it: one that is left out leaves the
    others as they were. Raises BadRequest.
    """
    base, shared = _base(raw, ground)
    heard = [lora for lora in base.loras if not lora.muted]
    if not heard:
        raise BadRequest("loras", "loras is required: name the LoRAs whose part in the picture is to be seen.")
    blend = [lora.model_dump() for lora in heard]
    names = names_of((lora.ref for lora in heard), ground.titles)
    columns = Heading("LoRA", ("none", *names))
    only = [(BARE, []), *((f"only {name}", [lora]) for name, lora in zip(names, blend, strict=True))]
    others = [(f"all but {name}", blend[:i] + blend[i + 1 :]) for i, name in enumerate(names)]
    rows = [only, [("the whole blend", blend), *others]]
    cells = tuple(
        _cell(row, column, label, shared | _part(loras, blend, base.total_strength), ground.default_model)
        for row, line in enumerate(rows)
        for column, (label, loras) in enumerate(line)
    )
    whole = next(cell.key for cell in cells if (cell.row, cell.column) == (1, 0))
    return Plan("loras", columns, Heading("", ("Only", "All but")), cells, base, _blend(base, ground), whole)


def plan_of_grid(raw: Mapping[str, Any], columns: object, rows: object, baseline: object, ground: Ground) -> Plan:
    """A table of what varies along `columns` and, if it is given, along `rows` (core/compare/axes.py).

    With `baseline` (None: yes) stand pictures without any LoRA: a further column or row beside an axis about LoRAs,
    else one under each row. Raises BadRequest, which names the axis.
    """
    base, shared = _base(raw, ground)
    if not isinstance(baseline, bool | None):
        raise BadRequest("baseline", "baseline must be true or false.")
    across = read_axis("columns", columns, shared, ground)
    down = None if rows is None else read_axis("rows", rows, shared, ground)
    if down is not None and (across.field, across.lora) == (down.field, down.lora) and down.field != "prompt":
        raise BadRequest("rows", f"rows must vary something else than columns, which vary {across.title} already.")
    across_lines, down_lines = _lines(across), [_Line("", _as_it_is)] if down is None else _lines(down)
    about_loras = [axis.lora is not None for axis in (across, down) if axis is not None]
    if baseline is not False and (base.loras or any(about_loras)):
        across_lines, down_lines = _with_baseline(across_lines, down_lines, about_loras)
    if len(across_lines) * len(down_lines) > MOST_CELLS:
        count = f"{len(across_lines)} × {len(down_lines)}"
        raise BadRequest("columns", f"columns and rows must make at most {MOST_CELLS} pictures, not {count}.")
    axes = [axis for axis in (across, down) if axis is not None]
    cells = tuple(
        _crossing(row, column, line, other, axes, shared, ground.default_model)
        for row, line in enumerate(down_lines)
        for column, other in enumerate(across_lines)
    )
    return Plan("grid", _heading(across, across_lines), _heading(down, down_lines), cells, base, _blend(base, ground))


@dataclass(frozen=True)
class _Line:
    """A column or a row of a grid: its heading, and what its cells say of it by themselves."""

    label: str
    change: Change
    said: str = ""
    of_loras: bool = False
    bare: bool = False


def _as_it_is(raw: Raw) -> Raw:
    return raw


def _lines(axis: Axis) -> list[_Line]:
    return [
        _Line(label, change, f"{axis.title} {label}", axis.lora is not None)
        for label, change in zip(axis.labels, axis.changes, strict=True)
    ]


def _heading(axis: Axis | None, lines: Iterable[_Line]) -> Heading:
    return Heading("" if axis is None else axis.title, tuple(line.label for line in lines))


def _with_baseline(
    across: list[_Line], down: list[_Line], about_loras: Sequence[bool]
) -> tuple[list[_Line], list[_Line]]:
    bare = _Line(BARE, _as_it_is, bare=True)
    if about_loras[0]:
        return [bare, *across], down
    if any(about_loras):
        return across, [bare, *down]
    if len(about_loras) == 1:
        return across, [_Line("the blend", _as_it_is), bare]
    return across, [
        twin for line in down for twin in (line, replace(line, label=f"{BARE}, {line.label}", bare=True))
    ]  # fmt: skip


def _base(raw: Mapping[str, Any], ground: Ground) -> tuple[GenerationRequest, Raw]:
    """The request that all pictures come from, and as raw: one seed, one image, its LoRA tags out of the prompt."""
    given = {name: value for name, value in raw.items() if value is not None} | {"images": 1, "batch": 1}
    base = request_from(given, ground.default_model)
    if base.seed < 0:
        base = base.model_copy(update={"seed": ground.any_seed()})
    # What is compared must not be chosen anew in each cell.
    prompt, negative = map(escaped, base.texts_of(0))
    base = base.model_copy(update={"prompt": prompt, "negative_prompt": negative})
    loras = [lora.model_dump() for lora in base.loras]
    return base, given | {"prompt": prompt, "negative_prompt": negative, "seed": base.seed, "loras": loras}


def _blend(base: GenerationRequest, ground: Ground) -> tuple[str, ...]:
    names = names_of((lora.ref for lora in base.loras), ground.titles)
    return tuple(f"{name} × {lora.weight:g}" for name, lora in zip(names, base.loras, strict=True) if not lora.muted)


def _part(loras: list[Raw], blend: list[Raw], total: float | None) -> Raw:
    """Some of the blend's LoRAs, each as strong as the whole blend has it, whose strengths sum to `total`."""
    factor = factor_for((lora["weight"] for lora in blend), total)
    together = _together(loras)
    if total is None or not together:  # no weight to scale by: what is left are words with a weight of their own
        return {"loras": [_words_times(factor, lora) for lora in loras], "total_strength": None}
    return {"loras": loras, "total_strength": total * (together / _together(blend))}


def _together(loras: Iterable[Raw]) -> float:
    together: float = sum(abs(lora["weight"]) for lora in loras)
    return together


def _words_times(factor: float, lora: Raw) -> Raw:
    words = lora["text_encoder"]
    return lora if words is None else lora | {"text_encoder": factor * words}


def _crossing(
    row: int, column: int, line: _Line, other: _Line, axes: Sequence[Axis], shared: Raw, default_model: str
) -> Cell:  # fmt: skip
    raw = line.change(other.change(shared))
    raw |= {"loras": [lora for lora in raw["loras"] if lora is not None]}
    bare = line.bare or other.bare
    try:
        return _cell(row, column, _label((other, line), bare), raw, default_model, bare)
    except BadRequest as error:
        raise _blamed(error, axes) from error


def _label(lines: Iterable[_Line], bare: bool) -> str:
    said = [line.said for line in lines if line.said and not (bare and line.of_loras)]
    return " · ".join([BARE, *said] if bare else said)


def _cell(row: int, column: int, label: str, raw: Raw, default_model: str, bare: bool = False) -> Cell:
    request = request_from(raw, default_model)
    without = raw | {"prompt": request.prompt, "loras": [], "total_strength": None}
    naked = request_from(without, default_model)
    if bare:
        request, raw = naked, without
    return Cell(row, column, label, _key(request), _key(naked), raw, request.entry.home)


def _key(request: GenerationRequest) -> str:
    return request.model_dump_json()


_OF_LORA = {"ref": "lora", "loras": "lora"}


def _blamed(error: BadRequest, axes: Iterable[Axis]) -> BadRequest:
    """The same sentence with the axis that it comes from, both where that is open."""
    axes = list(axes)
    field = error.field.rsplit(".", 1)[-1]
    guilty = [axis for axis in axes if axis.field == _OF_LORA.get(field, field)] or axes
    places = " and ".join(f"{axis.place} ({axis.title})" for axis in guilty)
    return BadRequest(guilty[0].place, f"{places}: {error}")
