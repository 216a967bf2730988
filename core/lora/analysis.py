"""How the LoRAs of a blend lie to each other and to the base: overlap by layer, norms, and weights to try."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from core.lora.blend import Ingredient
from core.lora.blocks import blocks_of
from core.lora.changes import Change, Decomposed
from core.lora.factors import factors_of, known, on_and_on, shared_layers
from core.lora.parse import ParsedLora
from lora_catalog.card import Family
from lora_catalog.families.table import MODEL_OF

SAME_WAY = 0.05  # an overlap that counts as pulling the same way, or against each other if negative
LOUDEST = 2.0  # times the geometric mean of the blend's norms
_TEXT = "words"
_REST = "other"

Window = tuple[float, float]  # a LoRA's start and end, as shares of the steps
Gram = torch.Tensor  # (LoRAs, LoRAs), fp64: the inner products of what they do to one layer


def gram_of(changes: Sequence[Change], pristine: Callable[[], torch.Tensor | None]) -> Gram:
    """All ⟨ΔWᵢ, ΔWⱼ⟩ of one layer: tr((upᵢᵀ upⱼ)(downⱼ downᵢᵀ)), and no ΔW is made, where all have factors whose
    products are smaller."""
    pairs = [factors_of(change, torch.float32) for change in changes]
    found = [pair for pair in pairs if pair is not None]
    ranks = sum(pair[0].shape[1] for pair in found)
    if len(found) == len(changes) and ranks**2 <= sum(math.prod(change.shape) for change in changes):
        up, down = torch.cat([pair[0] for pair in found], 1), torch.cat([pair[1] for pair in found])
        products = (up.T @ up).double().mul_(down @ down.T)
        owner = torch.repeat_interleave(torch.tensor([pair[0].shape[1] for pair in found]))
        whose = torch.nn.functional.one_hot(owner, len(found)).double()
        return whose.T @ products @ whose
    weight = pristine() if any(isinstance(change, Decomposed) for change in changes) else None
    whole = torch.stack([change.delta(known(change, weight)).flatten() for change in changes])
    return (whole @ whole.T).double()


@dataclass(frozen=True)
class Overlaps:
    """Of LoRAs whatever their weights: each shared layer's Gram matrix, and which LoRAs it is of."""

    layers: Mapping[str, tuple[tuple[int, ...], Gram]]
    count: int


def overlaps_of(
    loras: Sequence[ParsedLora],
    family: Family,
    pristine: Callable[[str], torch.Tensor | None],
    go_on: Callable[[], None] = on_and_on,
) -> Overlaps:
    """Raises ModelUnavailable for a DoRA of a model whose weights `pristine` does not know, and what `go_on` raises,
    which is called before every layer."""
    layers = {}
    for layer, one in shared_layers(loras, family).items():
        go_on()
        gram = gram_of(list(one.changes.values()), lambda layer=layer: pristine(layer))  # type: ignore[misc]
        layers[layer] = (tuple(one.changes), gram)
    return Overlaps(layers, len(loras))


@dataclass(frozen=True)
class Between:
    """Two LoRAs, by their places in the blend, and the cosine of their changes as weighted, of all and by block.

    1 where they pull the same way, -1 where one undoes the other, None where either counts for nothing.
    """

    a: int
    b: int
    conflict: float | None
    blocks: Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """What `/inspect_blend` tells of a blend; lists of LoRAs are in the order given.

    `norms` are ‖ΔW‖ at weight 1 over all layers, `relative` the same over ‖W0‖ of the layers it changes (None where
    the model is not on this machine). `pairs` are of those that meet: some step draws with both. `blocks` are their
    mean cosines, by block, weighted by norm. `suggested` are weights to try.
    """

    norms: tuple[float, ...]
    relative: tuple[float | None, ...]
    layers: tuple[int, ...]
    pairs: tuple[Between, ...]
    blocks: Mapping[str, float]
    suggested: tuple[float | None, ...]


def look_at(
    blend: Sequence[Ingredient],
    preferred: Sequence[float],
    overlaps: Overlaps,
    family: Family,
    base_norm: Callable[[str], float | None],
    windows: Sequence[Window] = (),
) -> Look:
    """`base_norm` gives a layer's ‖W0‖².

    `preferred` are the weights that the LoRAs' authors recommend, with the signs of those asked for. `windows` are the
    LoRAs' starts and ends (core/lora/schedule.py), all of them every step where none are given.
    """
    held = windows or [(0.0, 1.0)] * overlaps.count
    meet = torch.tensor([[_meet(one, other) for other in held] for one in held], dtype=torch.float64)
    plain = torch.zeros(overlaps.count, overlaps.count, dtype=torch.float64)
    weighted: dict[str, Gram] = {}
    base: list[float | None] = [0.0] * overlaps.count
    layers = [0] * overlaps.count
    block_of = _namer(family)
    for layer, (whose, gram) in overlaps.layers.items():
        place = torch.tensor(whose)
        at = (place[:, None], place[None, :])
        plain[at] += gram
        weights = torch.tensor([blend[one].weight_of(layer) for one in whose], dtype=torch.float64)
        block = weighted.setdefault(block_of(layer), torch.zeros_like(plain))
        block[at] += gram * weights[:, None] * weights * meet[at]
        squared = base_norm(layer)
        for one in whose:
            layers[one] += 1
            so_far = base[one]
            base[one] = None if squared is None or so_far is None else so_far + squared
    whole = torch.stack(list(weighted.values())).sum(0) if weighted else plain
    norms = plain.diagonal().clamp_min(0).sqrt().tolist()
    order = [*_in_order(family), _REST, _TEXT]
    by_block = {name: weighted[name] for name in order if name in weighted}
    pairs = tuple(
        Between(a, b, _cosine(whole, a, b), _known({name: _cosine(gram, a, b) for name, gram in by_block.items()}))
        for a in range(overlaps.count)
        for b in range(a + 1, overlaps.count)
        if meet[a, b]
    )
    return Look(
        tuple(norms),
        tuple(None if not squared else norm / math.sqrt(squared) for norm, squared in zip(norms, base, strict=True)),
        tuple(layers),
        pairs,
        _known({name: _mean_cosine(gram, meet) for name, gram in by_block.items()}),
        suggested_weights(norms, preferred, whole, meet),
    )


def _meet(one: Window, other: Window) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def suggested_weights(
    norms: Sequence[float], preferred: Sequence[float], whole: Gram, meet: torch.Tensor
) -> tuple[float | None, ...]:
    """Weights to begin with, None for a LoRA that counts for nothing now.

    The author's own weight; lowered where the LoRA's norm then stands above twice the geometric mean of its own and of
    those it meets, so that none drowns the others; and divided by the sum of its positive cosines with all (its own, 1,
    among them): two that do the same get half each, two that have nothing in common keep theirs. It is a rule of thumb:
    a norm is not what the eye sees, and two styles may clash without a common direction.
    """
    active = [at for at in range(len(norms)) if float(whole[at, at]) > 0]
    loud = {at: abs(preferred[at]) * norms[at] for at in active}
    weights: list[float | None] = [None] * len(norms)
    for at in active:
        heard = [value for other, value in loud.items() if value > 0 and meet[at, other]]
        most = LOUDEST * math.exp(sum(map(math.log, heard)) / len(heard)) if heard else 0.0
        lowered = preferred[at] * min(1.0, most / loud[at]) if loud[at] > 0 else preferred[at]
        load = sum(max(0.0, _cosine(whole, at, other) or 0.0) for other in active)
        weights[at] = round(lowered / load, 2)
    return tuple(weights)


def _known(cosines: Mapping[str, float | None]) -> dict[str, float]:
    return {name: cosine for name, cosine in cosines.items() if cosine is not None}


def _cosine(gram: Gram, a: int, b: int) -> float | None:
    size = math.sqrt(max(0.0, float(gram[a, a]) * float(gram[b, b])))
    return max(-1.0, min(1.0, float(gram[a, b]) / size)) if size > 0 else None


def _mean_cosine(gram: Gram, meet: torch.Tensor) -> float | None:
    norms = gram.diagonal().clamp_min(0).sqrt()
    sizes = torch.outer(norms, norms).mul_(meet).fill_diagonal_(0)
    size = float(sizes.sum())
    return (float(gram.sum()) - float(gram.diagonal().sum())) / size if size > 0 else None


def _in_order(family: Family) -> list[str]:
    """The names of single blocks, from the first that the picture passes to the last."""
    blocks = blocks_of(family)
    single = {paths[0]: name for name, paths in blocks.names.items() if len(paths) == 1}
    return [single[path] for group in blocks.groups for path in blocks.names[group]]


def _namer(family: Family) -> Callable[[str], str]:
    blocks, backbone = blocks_of(family), MODEL_OF[family].backbone
    single = {paths[0]: name for name, paths in blocks.names.items() if len(paths) == 1}

    def named(layer: str) -> str:
        component, first, number = f"{layer}..".split(".")[:3]
        if component != backbone:
            return _TEXT
        return single.get(f"{first}.{number}") or single.get(first) or _REST

    return named
