"""The blend: LoRAs written into live weights from a pristine copy, W = W0 + Σ weight · scale · ΔW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from core.errors import LoraDoesNotFit
from core.lora.parse import Factors, ParsedLora
from core.messages import Receipt

MOST_OF_A_LORA = 0.9  # a LoRA of which less than this fits is refused unless asked for


class WeightStore(Protocol):
    """Named weights that can be rewritten and always be had back as they were."""

    def shape(self, layer: str) -> tuple[int, ...] | None:
        """The shape of a layer's weight; None if the model has no such layer."""

    def pristine(self, layer: str) -> torch.Tensor:
        """The weight as it was loaded, in its storage dtype; kept from the first call on."""

    def write(self, layer: str, weight: torch.Tensor) -> None:
        """Replaces the live values, rounding once to the storage dtype."""


class ResidentWeights:
    """Weights of modules that stay on their device; pristine copies only of layers ever touched."""

    def __init__(self, components: Mapping[str, torch.nn.Module]) -> None:
        self._live = {
            f"{component}.{name}": module.weight
            for component, root in components.items()
            for name, module in root.named_modules()
            if isinstance(getattr(module, "weight", None), torch.nn.Parameter)
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


@dataclass(frozen=True)
class Ingredient:
    """One LoRA of a blend; text-encoder layers take `text_encoder`, all others `weight`."""

    lora: ParsedLora
    name: str
    weight: float
    text_encoder: float

    def weight_of(self, layer: str) -> float:
        return self.text_encoder if layer.startswith("text_encoder") else self.weight


_Share = tuple[str, float]  # sha256 of a LoRA, its weight: what a layer's values are a function of


class Blender:
    """Holds a model's weights at one blend and moves them to the next, rewriting only layers that differ."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._applied: dict[str, tuple[_Share, ...]] = {}

    def apply(self, blend: Sequence[Ingredient], *, allow_partial: bool = False) -> tuple[Receipt, ...]:
        """Writes the blend and says what of each LoRA was applied, in the order given.

        Raises LoraDoesNotFit before anything is touched; if writing itself fails, every layer is pristine again.
        """
        receipts = tuple(self._receipt(part, allow_partial) for part in blend)
        # Summed in the order of their hashes, so that the order of the rows never changes a bit.
        ordered = sorted(blend, key=lambda part: (part.lora.sha256, part.weight))
        wanted: dict[str, list[tuple[_Share, Factors]]] = {}
        for part in ordered:
            for layer, factors in part.lora.layers.items():
                weight = part.weight_of(layer)
                if weight != 0 and self._store.shape(layer) == factors.shape:
                    wanted.setdefault(layer, []).append(((part.lora.sha256, weight), factors))
        try:
            for layer in [layer for layer in self._applied if layer not in wanted]:
                self._store.write(layer, self._store.pristine(layer))
                del self._applied[layer]
            for layer, shares in wanted.items():
                self._rewrite(layer, shares)
        except BaseException:
            self._reset()
            raise
        return receipts

    def _receipt(self, part: Ingredient, allow_partial: bool) -> Receipt:
        skipped = list(part.lora.skipped)
        applied = 0
        for layer, factors in part.lora.layers.items():
            shape = self._store.shape(layer)
            if shape == factors.shape:
                applied += 1
            elif shape is None:
                skipped.append((layer, "this model has no such layer"))
            else:
                skipped.append((layer, f"its shape is {factors.shape}, the model's is {shape}"))
        total = applied + len(skipped)
        if applied == 0:
            raise LoraDoesNotFit(f"{part.name} does not fit this model: none of its {total} layers match.")
        if applied < MOST_OF_A_LORA * total and not allow_partial:
            raise LoraDoesNotFit(
                f"Only {applied} of {total} layers of {part.name} fit this model: "
                "allow partial LoRAs to use it all the same."
            )
        return Receipt(applied, total, tuple(skipped))

    def _rewrite(self, layer: str, shares: list[tuple[_Share, Factors]]) -> None:
        key = tuple(share for share, _ in shares)
        if self._applied.get(layer) == key:
            return
        pristine = self._store.pristine(layer)
        weight = pristine.float()
        for (_, amount), factors in shares:
            weight = weight + amount * factors.delta().to(weight.device)
        self._applied[layer] = ()  # half-written until the line below is done
        self._store.write(layer, weight)
        self._applied[layer] = key

    def _reset(self) -> None:
        for layer in self._applied:
            self._store.write(layer, self._store.pristine(layer))
        self._applied.clear()
