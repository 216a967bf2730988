"""The blend: LoRAs written into live weights from a pristine copy, W = W0 + Σ weight · scale · ΔW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

import torch
from transformers import CLIPTextModel

from core.errors import LoraDoesNotFit, LoraRefused
from core.lora.changes import Change
from core.lora.parse import ParsedLora
from core.messages import Receipt

MOST_OF_A_LORA = 0.9  # a LoRA of which less than this fits is refused unless asked for


class WeightStore(Protocol):
    """Parameters that can be rewritten and always be had back as they were.

    A layer's name, `component.path.to.module`, means its weight; with `.bias` behind it, its bias. Text encoders' paths
    begin with `text_model` where published files' do, whatever transformers calls its modules.
    """

    def shape(self, layer: str) -> tuple[int, ...] | None:
        """The shape of a parameter; None if the model has none of this name."""

    def pristine(self, layer: str) -> torch.Tensor:
        """The parameter as it was loaded, in its storage dtype; kept from the first call on."""

    def write(self, layer: str, weight: torch.Tensor) -> None:
        """Replaces the live values, rounding once to the storage dtype."""


class ResidentWeights:
    """Weights of modules that stay on their device; pristine copies only of layers ever touched."""

    def __init__(self, components: Mapping[str, torch.nn.Module]) -> None:
        self._live = {
            f"{component}.{_published(root)}{name}{suffix}": parameter
            for component, root in components.items()
            for name, module in root.named_modules()
            for suffix, parameter in (("", getattr(module, "weight", None)), (".bias", getattr(module, "bias", None)))
            if isinstance(parameter, torch.nn.Parameter)
        }
        self._pristine: dict[str, torch.Tensor] = {}

    def shape(self, layer: str) -> tuple[int, ...] | None:
        weight = self._live.get(layer)
        return None if weight is None else tuple(weight.shape)

    def pristine(self, layer: str) -> torch.Tensor:
        if layer not in self._pristine:
            self._pristine[layer] = self._live[layer].detach().clone()
        return self._pristine[layer]

    @torch.no_grad()
    def write(self, layer: str, weight: torch.Tensor) -> None:
        self._live[layer].copy_(weight)


def _published(root: torch.nn.Module) -> str:
    """What stands before the names of a component's modules in published files: transformers 5 dropped it from
    CLIPTextModel, and kept it in CLIPTextModelWithProjection."""
    return "text_model." if isinstance(root, CLIPTextModel) and not hasattr(root, "text_model") else ""


@dataclass(frozen=True)
class Ingredient:
    """One LoRA of a blend; text-encoder layers take `text_encoder`, all others `weight`, multiplied by the number that
    `blocks` gives their block (core/lora/blocks.py)."""

    lora: ParsedLora
    name: str
    weight: float
    text_encoder: float
    blocks: Mapping[str, float] = field(default_factory=dict)

    def weight_of(self, layer: str) -> float:
        if _reads_words(layer):
            return self.text_encoder
        _, block, number, *_ = f"{layer}..".split(".")
        return self.weight * self.blocks.get(f"{block}.{number}", self.blocks.get(block, 1.0))


def _reads_words(layer: str) -> bool:
    return layer.startswith("text_encoder")


_Share = tuple[str, float]  # sha256 of a LoRA, its weight: what a layer's values are a function of


class Blender:
    """Holds a model's weights at one blend and moves them to the next, rewriting only layers that differ."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._applied: dict[str, tuple[_Share, ...]] = {}

    def apply(self, blend: Sequence[Ingredient], *, allow_partial: bool = False) -> tuple[Receipt, ...]:
        """Writes the blend and says what of each LoRA was applied, in the order given.

        Raises LoraDoesNotFit before anything is touched, and LoraRefused if the blend takes a weight beyond what its
        storage type holds; then, and if writing itself fails, every layer is pristine again.
        """
        misfits = [self._misfits(part.lora) for part in blend]
        receipts = tuple(_receipt(part, left_out, allow_partial) for part, left_out in zip(blend, misfits, strict=True))
        wanted: dict[str, list[tuple[_Share, Change]]] = {}
        for part, left_out in zip(blend, misfits, strict=True):
            for layer, change in part.lora.layers.items():
                weight = part.weight_of(layer)
                if weight != 0 and layer not in left_out:
                    wanted.setdefault(layer, []).append(((part.lora.sha256, weight), change))
        try:
            for layer in [layer for layer in self._applied if layer not in wanted]:
                self._store.write(layer, self._store.pristine(layer))
                del self._applied[layer]
            filled = _Filled()
            for layer, shares in wanted.items():
                # Summed in the order of their hashes, so that the order of the rows never changes a bit.
                self._rewrite(layer, sorted(shares, key=itemgetter(0)), filled)
            filled.check()
        except BaseException:
            self._reset()
            raise
        return receipts

    def _misfits(self, lora: ParsedLora) -> dict[str, str]:
        """The parameters that the model lacks or has in another shape, and why they are left out."""
        misfits = {}
        for layer, change in lora.layers.items():
            shape = self._store.shape(layer)
            if shape is None:
                misfits[layer] = "this model has no such layer"
            elif not change.fits(shape):
                misfits[layer] = f"its shape is {change.shape}, the model's is {shape}"
        return misfits

    def _rewrite(self, layer: str, shares: list[tuple[_Share, Change]], filled: _Filled) -> None:
        key = tuple(share for share, _ in shares)
        if self._applied.get(layer) == key:
            return
        pristine = self._store.pristine(layer)
        weight = pristine.to(torch.float32, copy=True)
        for (_, amount), change in shares:
            weight.add_(change.delta(pristine).reshape(weight.shape), alpha=amount)
        filled.add(weight, pristine.dtype)
        self._applied[layer] = ()  # half-written until the line below is done
        self._store.write(layer, weight)
        self._applied[layer] = key

    def _reset(self) -> None:
        for layer in self._applied:
            self._store.write(layer, self._store.pristine(layer))
        self._applied.clear()


def _receipt(part: Ingredient, misfits: Mapping[str, str], allow_partial: bool) -> Receipt:
    """By the file's own layers: one counts as applied if any parameter that it stands for is changed."""
    lora = part.lora
    applied = {lora.origins[layer]: _reads_words(layer) for layer in lora.layers if layer not in misfits}
    left_out = dict(lora.skipped)
    for layer, why in misfits.items():
        origin = lora.origins[layer]
        left_out.setdefault(layer if origin in applied else origin, why)
    total = len(applied) + len(left_out)
    if not applied:
        raise LoraDoesNotFit(f"{part.name} does not fit this model: none of its {total} layers match.")
    if len(applied) < MOST_OF_A_LORA * total and not allow_partial:
        raise LoraDoesNotFit(
            f"Only {len(applied)} of {total} layers of {part.name} fit this model: "
            "allow partial LoRAs to use it all the same."
        )
    return Receipt(len(applied), total, tuple(left_out.items()), text_encoder=sum(applied.values()))


class _Filled:
    """How much of their storage types' range the weights of a blend take, asked of each device only once: to wait for a
    GPU after every layer would cost more than the blend."""

    def __init__(self) -> None:
        self._most: dict[torch.device, torch.Tensor] = {}

    def add(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        low, high = weight.aminmax()
        share = torch.maximum(-low, high) / torch.finfo(dtype).max
        self._most[weight.device] = torch.maximum(share, self._most.get(weight.device, share))

    def check(self) -> None:
        # what is not a number is not at most 1 either
        if not all(float(most) <= 1 for most in self._most.values()):
            raise LoraRefused("This blend takes the model's values beyond all bounds: lower the weights of its LoRAs.")
