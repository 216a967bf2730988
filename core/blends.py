"""What can be done with a blend besides drawing it: seeing how its LoRAs lie to each other, and saving it as one."""

from __future__ import annotations

import json
import math
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.base_models import BaseModel
from core.base_weights import BaseWeights
from core.errors import BadRequest, Cancelled, LoraRefused
from core.gathering import Gathering
from core.lora.analysis import SAME_WAY, Look, Overlaps, look_at, overlaps_of
from core.lora.blend import Blender, Ingredient
from core.lora.blocks import counted
from core.lora.changes import Shape
from core.lora.formats import LARGEST_RANK
from core.lora.parse import ParsedLora, parse_lora
from core.lora.save import OneLora, one_lora
from core.lora.weights import Share
from core.messages import LoraFile, Progress, Receipt, StopFlag
from core.recipe import APP, APP_VERSION
from core.request import GenerationRequest
from lora_catalog.catalog import Catalog
from lora_catalog.families.table import MODEL_OF, modules
from lora_catalog.visitor import Visitor

LONGEST_TITLE = 100  # letters
AWHILE = 0.1  # seconds between two looks at the stop flag
MOST_KEPT = 16  # blends of which it is remembered: other weights need no other look into the files
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class SavedBlend:
    """A safetensors file and what it is, ready for JSON."""

    path: Path
    about: dict[str, Any]


class Blends:
    """Safe to call from several threads; what computes waits its turn, drawing goes on meanwhile.

    What takes long is a generator: it tells of its progress on the way, returns the answer, and raises Cancelled soon
    after its stop flag is set.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._turn = threading.Lock()
        self._seen: OrderedDict[tuple[str | bool, ...], _Seen] = OrderedDict()
        self._bases: dict[str, BaseWeights] = {}

    def inspect(
        self, request: GenerationRequest, visitor: Visitor, stop: StopFlag
    ) -> Generator[Progress, None, dict[str, Any]]:
        """Receipts, overlaps, norms and suggested weights.

        Raises what gathering and parsing raise, ModelUnavailable, LoraRefused for what is too large to measure, and
        LoraDoesNotFit for a LoRA that drawing would refuse, unless the request allows partial ones.
        """
        with ExitStack() as held:
            files = yield from self._gathered(request, visitor, stop, held)
            yield Progress("Looking at their layers")
            yield from self._await_turn(stop, held)
            return self._inspected(request, files, visitor, stop)

    def save(
        self,
        request: GenerationRequest,
        rank: object,
        title: object,
        precision: object,
        visitor: Visitor,
        folder: Path,
        stop: StopFlag,
    ) -> Generator[Progress, None, SavedBlend]:
        """Writes the blend into `folder` as one LoRA: exact where `rank` is None, else cut to it.

        Raises BadRequest, LoraRefused, ModelUnavailable, and what gathering and parsing raise; LoraDoesNotFit for a
        LoRA that drawing would refuse, unless the request allows partial ones.
        """
        how = _How(_rank(rank), _title(title), _precision(precision))
        if any((lora.start, lora.end) != (0.0, 1.0) for lora in request.loras):
            raise BadRequest("loras", "loras must not have a start or an end here: a saved LoRA holds for every step.")
        with ExitStack() as held:
            files = yield from self._gathered(request, visitor, stop, held)
            yield Progress("Weaving them into one")
            yield from self._await_turn(stop, held)
            return self._saved(request, files, how, visitor, folder, stop)

    @torch.inference_mode()
    def _inspected(
        self, request: GenerationRequest, files: Sequence[LoraFile], visitor: Visitor, stop: StopFlag
    ) -> dict[str, Any]:
        entry = request.entry
        seen = self._seen_of(files, entry, request.allow_partial, stop)
        blend = [_ingredient(file, ParsedLora(file.sha256, {}), entry) for file in files]
        preferred = [
            math.copysign(self._catalog.card(file.ref, visitor).weight, file.weight or file.text_encoder)
            for file in files
        ]
        windows = [(file.start, file.end) for file in files]
        look = look_at(blend, preferred, seen.overlaps, entry.family, self._base(entry).squared_norm, windows)
        for file, norm in zip(files, look.norms, strict=True):
            if not math.isfinite(norm):
                raise LoraRefused(f"{file.ref} is too large and cannot be measured: leave it out of this blend.")
        return {"model": entry.key, "said": _said(look), **_listed(look, files, seen.receipts)}

    @torch.inference_mode()
    def _saved(
        self,
        request: GenerationRequest,
        files: Sequence[LoraFile],
        how: _How,
        visitor: Visitor,
        folder: Path,
        stop: StopFlag,
    ) -> SavedBlend:
        entry = request.entry
        blend = [_ingredient(file, _parsed(file, entry, stop), entry) for file in files]
        receipts = _receipts(blend, entry, request.allow_partial)
        going_on = partial(_go_on, stop)
        one = one_lora(blend, entry.family, self._base(entry).of, how.rank, PRECISIONS[how.precision], going_on)
        going_on()
        cards = [self._catalog.card(file.ref, visitor) for file in files]
        title = how.title or " + ".join(card.title for card in cards)
        parents = [
            {"ref": file.ref, "sha256": file.sha256, "weight": file.weight, "text_encoder": file.text_encoder,
             "blocks": dict(file.blocks), "licence": card.licence, "layers": layers, "receipt": asdict(receipt)}
            for file, card, layers, receipt in zip(files, cards, one.applied, receipts, strict=True)
        ]  # fmt: skip
        about = _about(one, title, entry) | {"precision": how.precision, "parents": parents}
        path = folder / f"{_file_name(title)}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(one.tensors, path, _metadata(about))
        return SavedBlend(path, about | {"bytes": path.stat().st_size})

    def _gathered(
        self, request: GenerationRequest, visitor: Visitor, stop: StopFlag, held: ExitStack
    ) -> Generator[Progress, None, tuple[LoraFile, ...]]:
        """The request's LoRAs on this machine, without an accelerator: that one belongs to the model."""
        if not request.loras:
            raise BadRequest("loras", "loras is required: the blend, a list of objects with a ref and a weight.")
        _, files = yield from Gathering(self._catalog, visitor, stop, held).gather(request, None)
        return files

    def _await_turn(self, stop: StopFlag, held: ExitStack) -> Generator[Progress]:
        """Held until `held` is closed; whoever has it yields no more, lest nobody goes on."""
        while not self._turn.acquire(timeout=AWHILE):
            _go_on(stop)
            yield Progress("Waiting for the blend before yours")
        held.callback(self._turn.release)
        _go_on(stop)

    def _seen_of(self, files: Sequence[LoraFile], entry: BaseModel, allow_partial: bool, stop: StopFlag) -> _Seen:
        key: tuple[str | bool, ...] = (entry.home, allow_partial, *(file.sha256 for file in files))
        if key not in self._seen:
            blend = [_ingredient(file, _parsed(file, entry, stop), entry) for file in files]
            receipts, loras = _receipts(blend, entry, allow_partial), [part.lora for part in blend]
            going_on = partial(_go_on, stop)
            self._seen[key] = _Seen(overlaps_of(loras, entry.family, self._base(entry).of, going_on), receipts)
            while len(self._seen) > MOST_KEPT:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def _base(self, entry: BaseModel) -> BaseWeights:
        if entry.home not in self._bases or not self._bases[entry.home].found:
            self._bases[entry.home] = BaseWeights(entry)  # it may have been fetched since
        return self._bases[entry.home]


@dataclass(frozen=True)
class _Seen:
    """What holds for the LoRAs of a blend whatever their weights and steps."""

    overlaps: Overlaps
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class _How:
    """To save it: an empty title stands for the parents' names."""

    rank: int | None
    title: str
    precision: str


def _go_on(stop: StopFlag) -> None:
    if stop.is_set():
        raise Cancelled("Cancelled.")


def _parsed(file: LoraFile, entry: BaseModel, stop: StopFlag) -> ParsedLora:
    _go_on(stop)
    return parse_lora(file.path, file.sha256, file.ref, entry.family)


def _ingredient(file: LoraFile, lora: ParsedLora, entry: BaseModel) -> Ingredient:
    return Ingredient(lora, file.ref, file.weight, file.text_encoder, counted(file.blocks, entry.family))


@dataclass(frozen=True)
class _Unwritten:
    """A parameter of which only the shape is known."""

    shape: Shape

    def set(self, shares: Sequence[Share]) -> Sequence[torch.Tensor]:
        raise LookupError

    def restore(self) -> None:
        raise LookupError


def _receipts(blend: Sequence[Ingredient], entry: BaseModel, allow_partial: bool) -> tuple[Receipt, ...]:
    """What drawing would tell of each LoRA, and refuse: receipts count layers whatever their weight, and those of
    weight 0 are never written.

    What the table of families leaves out, normalisations and biases, `one_lora` refuses.
    """
    store = {layer: _Unwritten(change.shape) for part in blend for layer, change in part.lora.layers.items()}
    for (component, path), shape in modules(MODEL_OF[entry.family]).items():
        store[f"{component}.{path}"] = _Unwritten(shape)
    unheard = [replace(part, weight=0.0, text_encoder=0.0) for part in blend]
    return Blender(store).apply(unheard, allow_partial=allow_partial)


def _listed(look: Look, files: Sequence[LoraFile], receipts: Sequence[Receipt]) -> dict[str, Any]:
    refs = [file.ref for file in files]
    told = zip(files, look.norms, look.relative, look.layers, look.suggested, receipts, strict=True)
    return {
        "loras": [
            {"ref": file.ref, "weight": file.weight, "text_encoder": file.text_encoder, "norm": norm,
             "relative_norm": relative, "layers": layers, "suggested_weight": suggested,
             "receipt": _counts(asdict(receipt))}
            for file, norm, relative, layers, suggested, receipt in told
        ],
        "pairs": [
            {"a": refs[pair.a], "b": refs[pair.b], "conflict": pair.conflict, "blocks": _by_block(pair.blocks)}
            for pair in look.pairs
        ],
        "blocks": _by_block(look.blocks),
    }  # fmt: skip


def _by_block(overlaps: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"block": name, "overlap": overlap} for name, overlap in overlaps.items()]


def _said(look: Look) -> str:
    count, blocks = sum(weight is not None for weight in look.suggested), len(look.blocks)
    if count < 2:
        return "Nothing to compare: fewer than two LoRAs count."
    heard = [pair for pair in look.pairs if None not in (look.suggested[pair.a], look.suggested[pair.b])]
    meeting = len({at for pair in heard for at in (pair.a, pair.b)})
    if not meeting:
        return "Nothing to compare: no two of these LoRAs count at the same step."
    many = "two" if meeting == 2 else str(meeting)
    who = f"These {many}" if meeting == count else f"The {many} that meet at some step"
    if not blocks:
        return f"{who} change no block together."
    same = sum(overlap > SAME_WAY for overlap in look.blocks.values())
    against = sum(overlap < -SAME_WAY for overlap in look.blocks.values())
    if same and against:
        return f"{who} pull the same way in {same} of {blocks} blocks and against each other in {against}."
    if same:
        return f"{who} pull the same way in {same} of {blocks} blocks."
    if against:
        return f"{who} pull against each other in {against} of {blocks} blocks."
    return f"{who} keep out of each other's way in all {blocks} blocks."


def _about(one: OneLora, title: str, entry: BaseModel) -> dict[str, Any]:
    layer, error = one.worst
    return {
        "title": title, "model": entry.key, "family": entry.family, "rank": one.rank, "exact": not one.cut,
        "layers": len(one.tensors) // 2, "error": one.error, "worst": {"layer": layer, "error": error},
    }  # fmt: skip


def _metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """As Stability's ModelSpec 1.0 has it, and all we know under a name of our own."""
    parents = about["parents"]
    short = [parent | {"receipt": _counts(parent["receipt"])} for parent in parents]
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": about["title"],
        "modelspec.license": ", ".join(dict.fromkeys(parent["licence"] or "none named" for parent in parents)),
        "modelspec.merged_from": ", ".join(parent["ref"] for parent in parents),
        "lora_loom.blend": json.dumps({"app": f"{APP} {APP_VERSION}", **about, "parents": short}),
    }


def _counts(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A header and a look are no places for thousands of names of layers."""
    return {name: count for name, count in receipt.items() if name != "skipped"}


def _rank(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (type(value) is int and 1 <= value <= LARGEST_RANK):
        return value
    raise BadRequest("rank", f"rank must be a whole number from 1 to {LARGEST_RANK}, or null to lose nothing.")


def _title(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and len(value) <= LONGEST_TITLE and value.isprintable():
        return value.strip()
    raise BadRequest("title", f"title must be one line of text with at most {LONGEST_TITLE} characters.")


def _precision(value: object) -> str:
    if value is None:
        return "float16"
    if isinstance(value, str) and value in PRECISIONS:
        return value
    raise BadRequest("precision", f"precision must be {' or '.join(PRECISIONS)}.")


def _file_name(title: str) -> str:
    """Letters and digits that every system takes; the title itself stands in the file."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or f"blend-{secrets.token_hex(3)}"
