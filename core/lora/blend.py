"""The blend: LoRAs written into live weights from a pristine copy, W = W0 + Σ weight · scale · ΔW."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from core.errors import LoraDoesNotFit, LoraRefused
from core.lora.parse import ParsedLora
from core.lora.weights import Share, WeightStore
from core.messages import Receipt

MOST_OF_A_LORA = 0.9  # a LoRA of which less than this fits is refused unless asked for


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
        if not self.blocks:
            return self.weight
        _, block, number, *_ = f"{layer}..".split(".")
        return self.weight * self.blocks.get(f"{block}.{number}", self.blocks.get(block, 1.0))


def _reads_words(layer: str) -> bool:
    return layer.startswith("text_encoder")


_Key = tuple[tuple[str, float], ...]  # sha256 and weight of each LoRA: what a layer's values are a function of


class Blender:
    """Holds a model's weights at one blend and moves them to the next, rewriting only layers that differ."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._applied: dict[str, _Key] = {}  # an empty key: it may be half-written

    def apply(self, blend: Sequence[Ingredient], *, allow_partial: bool = False) -> tuple[Receipt, ...]:
        """Writes the blend and says what of each LoRA was applied, in the order given.

        Raises LoraDoesNotFit before anything is touched, and LoraRefused if the blend takes a weight beyond what its
        storage type holds; then, and if writing itself fails, every layer is pristine again.
        """
        misfits = [self._misfits(part.lora) for part in blend]
        receipts = tuple(_receipt(part, left_out, allow_partial) for part, left_out in zip(blend, misfits, strict=True))
        wanted: dict[str, list[Share]] = {}
        for part, left_out in zip(blend, misfits, strict=True):
            for layer, change in part.lora.layers.items():
                weight = part.weight_of(layer)
                if weight != 0 and layer not in left_out:
                    wanted.setdefault(layer, []).append(Share(part.lora.sha256, weight, change))
        try:
            self._restore([layer for layer in self._applied if layer not in wanted])
            written: list[torch.Tensor] = []
            for layer, shares in wanted.items():
                # Summed in the order of their hashes, so that the order of the rows never changes a bit.
                self._rewrite(layer, sorted(shares, key=lambda share: (share.sha256, share.weight)), written)
            _check(written)
        except BaseException:
            self._restore(list(self._applied))
            raise
        return receipts

    def words(self) -> str:
        """Names what the text encoders hold of the blend: the same name, the same values."""
        held = sorted((layer, key) for layer, key in self._applied.items() if _reads_words(layer))
        return hashlib.sha256(repr(held).encode()).hexdigest()

    def _misfits(self, lora: ParsedLora) -> dict[str, str]:
        """The parameters that the model lacks or has in another shape, and why they are left out."""
        misfits = {}
        for layer, change in lora.layers.items():
            weight = self._store.get(layer)
            if weight is None:
                misfits[layer] = "this model has no such layer"
            elif not change.fits(weight.shape):
                misfits[layer] = f"its shape is {change.shape}, the model's is {weight.shape}"
        return misfits

    def _rewrite(self, layer: str, shares: list[Share], written: list[torch.Tensor]) -> None:
        key = tuple((share.sha256, share.weight) for share in shares)
        if self._applied.get(layer) != key:
            self._applied[layer] = ()
            written += self._store[layer].set(shares)
            self._applied[layer] = key

    def _restore(self, layers: list[str]) -> None:
        self._applied.update(dict.fromkeys(layers, ()))
        for layer in layers:
            self._store[layer].restore()
            del self._applied[layer]


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


# Half floats' own range is soon left by a norm; a wider type where none is needed makes it ten times slower.
_NORM_IN = {torch.float16: torch.float32}


@torch.no_grad()
def _check(written: Sequence[torch.Tensor]) -> None:
    """Waits for each device only once: to wait after every layer would cost a GPU more than the blend. A norm is finite
    where all values are, and small enough to draw with: beyond 1e19 their squares are not."""
    alike: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for values in written:
        alike.setdefault((values.device, values.dtype), []).append(values)
    for (_, dtype), together in alike.items():
        if not torch.stack(torch._foreach_norm(together, 2, _NORM_IN.get(dtype))).isfinite().all():
            raise LoraRefused("This blend takes the model's values beyond all bounds: lower the weights of its LoRAs.")
