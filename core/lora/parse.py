"""A LoRA file as changes by layer of a model, checked before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from core.errors import LoraFileBroken
from core.lora.changes import Change, Decomposed, Rows, Whole
from core.lora.formats import Tensors, change_of, decomposed
from core.lora.norms import norm_of
from core.lora.scales import Scales
from lora_catalog.card import Family
from lora_catalog.errors import BadHeader, quoted
from lora_catalog.families.keys import Target, split_key, target_of
from lora_catalog.families.table import MODEL_OF
from lora_catalog.header import Header, read_header
from lora_catalog.layers import Layer, Torn, layers_of

LARGEST_FILE = 4_000_000_000  # bytes; an SDXL LoRA of rank 256 with all its layers takes 1.7 GB
# Of the largest values of all factors and the scale, multiplied: ΔW holds at most this, times the ranks between. So
# fp32 can hold it, the sum of its squares (DoRA's norm) and many LoRAs' sum. Real ones stay below 1e3.
_LARGEST_PRODUCT = 1e9
_AS_STORED = {"F16", "BF16", "F32"}
_WIDENED = {"F64": torch.float32, "F8_E4M3": torch.float16, "F8_E5M2": torch.float16}


@dataclass(frozen=True)
class ParsedLora:
    """Changes by parameter of the model (`component.path.to.module` its weight, with `.bias` its bias), and why the
    rest was left out, by the file's own names.

    `origins` tells for each parameter which of the file's layers changes it: a fused one changes several, and one
    that has a bias changes two. `bytes` is what the tensors take.
    """

    sha256: str
    layers: Mapping[str, Change]
    skipped: tuple[tuple[str, str], ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    bytes: int = 0


def parse_lora(path: Path, sha256: str, name: str, family: Family) -> ParsedLora:
    """Reads a LoRA in any format; `family`, the model's own, decides what its layers' names mean.

    `name` is how people know the file, for messages. Tensors are copied: the file may go away afterwards. Raises
    LoraFileBroken for a file above 4 GB, half a pair, clashing shapes, two changes of one layer, ranks above 1024, and
    values that are not finite or would not stay so.
    """
    try:
        header = read_header(path)
        if header.bytes > LARGEST_FILE:
            raise Torn(f"it is larger than {LARGEST_FILE // 10**9} GB")
        with safe_open(path, "pt") as file:
            return _Parsing(sha256, header, file, family).parsed()
    except Torn as torn:
        raise LoraFileBroken(f"{name} cannot be used: {torn}.") from None
    except BadHeader as error:
        raise LoraFileBroken(f"{name} cannot be read: {error.reason}. Fetch it again.") from error
    except (SafetensorError, OSError) as error:
        raise LoraFileBroken(f"{name} cannot be read: its file is missing or torn. Fetch it again.") from error


class _Skipped(Exception):
    """Why a layer is left out, as a clause."""


class _Parsing:
    """One file on its way to a ParsedLora."""

    def __init__(self, sha256: str, header: Header, file: Any, family: Family) -> None:
        self._sha256, self._header, self._file, self._model = sha256, header, file, MODEL_OF[family]
        self._names: dict[str, dict[str, str]] = {}
        for name in header.tensors:
            if (key := split_key(name)) is not None:
                self._names.setdefault(key.layer, {})[key.tensor] = name
        self._scales = Scales(header.metadata, in_tensors=any("alpha" in names for names in self._names.values()))
        self._layers: dict[str, Change] = {}
        self._origins: dict[str, str] = {}
        self._bytes = 0

    def parsed(self) -> ParsedLora:
        found = layers_of(self._header.tensors)
        skipped = [(name, "not a name that this version reads") for name in found.strange]
        for layer in found.layers:
            try:
                target = self._target(layer)
                for parameter, change in self._changes(layer, target):
                    self._keep(parameter, change, layer)
            except _Skipped as reason:
                skipped.append((layer.name, str(reason)))
        return ParsedLora(self._sha256, self._layers, tuple(skipped), self._origins, self._bytes)

    def _target(self, layer: Layer) -> Target:
        target = target_of(layer.name, self._model) or norm_of(layer.name, self._model)
        if target is None:
            raise _Skipped("this model has no such layer")
        return target

    def _keep(self, parameter: str, change: Change, layer: Layer) -> None:
        if parameter in self._layers:
            raise Torn(f"{quoted(self._origins[parameter])} and {quoted(layer.name)} change the same layer")
        self._layers[parameter], self._origins[parameter] = change, layer.name

    def _changes(self, layer: Layer, target: Target) -> Iterator[tuple[str, Change]]:
        """What the layer does to each parameter it stands for."""
        names = self._names[layer.name]
        tensors: Tensors = {}
        peaks: dict[str, float] = {}
        for tensor, name in names.items():
            if tensor not in ("alpha", "scalar"):
                tensors[tensor], peaks[tensor] = self._read(name, layer)
        scale = self._scales.of(layer, target, self._number(names.get("alpha"), layer))
        scalar = self._number(names.get("scalar"), layer)
        scale *= 1.0 if scalar is None else scalar
        _check_size(layer, peaks, scale)
        rows = _rows_of(layer, target)
        # peft scales all that lora_B gives, its bias too
        bias = Whole(tensors.pop("up_bias"), scale) if "up_bias" in tensors else None
        if bias is None and "diff_b" in tensors:
            bias = Whole(tensors.pop("diff_b"))
        if tensors:
            change = self._change(layer, tensors, scale)
            if len(target.paths) > 1 and isinstance(change, Decomposed) and change.per_input:
                raise _Skipped("its DoRA magnitudes span several layers of this model")
            yield from _placed(change, target, rows, "")
        if bias is not None and bias.shape != (layer.rows,):
            raise Torn(f"the bias of {quoted(layer.name)} is not of its shape")
        if bias is not None:
            yield from _placed(bias, target, rows, ".bias")

    def _change(self, layer: Layer, tensors: Tensors, scale: float) -> Change:
        magnitude = tensors.pop("magnitude", None)
        if not tensors:
            raise Torn(f"{quoted(layer.name)} has a DoRA magnitude and nothing else")
        change = change_of(layer, tensors, scale)
        if tensors:
            raise Torn(f"{quoted(layer.name)} is there twice, written in two ways")
        if magnitude is None:
            return change
        return decomposed(layer, change, magnitude, self._names[layer.name]["magnitude"])

    def _number(self, name: str | None, layer: Layer) -> float | None:
        """An alpha or a scalar, of whatever type."""
        if name is None:
            return None
        if math.prod(self._header.tensors[name].shape) != 1:
            raise Torn(f"the alpha of {quoted(layer.name)} is not one number")
        number = float(self._file.get_tensor(name).reshape(()).to(torch.float64))
        if not math.isfinite(number):
            raise Torn(f"the alpha of {quoted(layer.name)} is not finite")
        return number

    def _read(self, name: str, layer: Layer) -> tuple[torch.Tensor, float]:
        """A tensor in a type that torch computes with, as a copy, and the largest magnitude in it."""
        dtype = self._header.tensors[name].dtype
        if dtype not in _AS_STORED | _WIDENED.keys():
            raise Torn(f"{quoted(layer.name)} is stored as {dtype}, which no LoRA is")
        mapped = self._file.get_tensor(name)
        # safe_open hands out views of a mapped file: they would keep it on the disk and follow its changes
        tensor = mapped.to(_WIDENED.get(dtype, mapped.dtype), copy=True)
        low, high = tensor.aminmax()  # passes on what is not finite, forty times as fast as isfinite on a CPU
        peak = max(-float(low), float(high))
        if not math.isfinite(float(low)) or not math.isfinite(peak):
            raise Torn(f"{quoted(layer.name)} holds values that are not finite")
        self._bytes += tensor.nbytes
        return tensor, peak


def _check_size(layer: Layer, peaks: Mapping[str, float], scale: float) -> None:
    """By each tensor's largest value, so that ΔW need not be made."""
    alone = {"magnitude", "diff_b", "up_bias"}
    product = math.prod((peak for tensor, peak in peaks.items() if tensor not in alone), start=abs(scale))
    if not max(product, *(max(1.0, abs(scale)) * peaks.get(tensor, 0.0) for tensor in alone)) <= _LARGEST_PRODUCT:
        raise Torn(f"the values or the alpha of {quoted(layer.name)} are too large to compute with")


def _rows_of(layer: Layer, target: Target) -> list[Rows] | None:
    """Which of the layer's rows go to each of its target's paths; None for all of them, to the only one."""
    if target.swapped:
        half = layer.rows // 2
        return [(slice(half, None), slice(0, half))]
    if len(target.paths) == 1:
        return None
    if sum(target.rows) != layer.rows:
        raise _Skipped(f"it has {layer.rows} rows, the model's layers that it stands for have {sum(target.rows)}")
    ends = [sum(target.rows[: number + 1]) for number in range(len(target.rows))]
    return [(slice(end - height, end),) for end, height in zip(ends, target.rows, strict=True)]


def _placed(change: Change, target: Target, rows: list[Rows] | None, suffix: str) -> Iterator[tuple[str, Change]]:
    for number, path in enumerate(target.paths):
        yield f"{target.component}.{path}{suffix}", change if rows is None else change.rows(rows[number])
