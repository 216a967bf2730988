"""A LoRA file as factors per layer, checked before anything is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from core.errors import LoraFileBroken

LARGEST_RANK = 1024
# diffusers' and peft's names for the two halves of a pair
_HALVES = {
    ".lora_A.weight": "down", ".lora_B.weight": "up",
    ".lora_A.default.weight": "down", ".lora_B.default.weight": "up",
    ".lora.down.weight": "down", ".lora.up.weight": "up",
}  # fmt: skip
COMPONENTS = ("transformer", "unet", "text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class Factors:
    """One layer's share: ΔW = scale · up @ down.

    `down` is (rank, in) or (rank, in, height, width), `up` is (out, rank) or (out, rank, 1, 1); any float type.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self) -> torch.Tensor:
        """ΔW in fp32, where the factors lie."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return (product * self.scale).reshape(self.shape)


@dataclass(frozen=True)
class ParsedLora:
    """Factors by layer (`component.path.to.module`), and tensors that no layer took, with the reason."""

    sha256: str
    layers: Mapping[str, Factors]
    skipped: tuple[tuple[str, str], ...] = ()


def parse_lora(path: Path, sha256: str, name: str) -> ParsedLora:
    """Reads a diffusers- or PEFT-format file. `name` is how people know it, for messages.

    Raises LoraFileBroken for half a pair, clashing shapes, ranks above 1024 and values that are not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            alphas = _alphas(file.metadata() or {}, name)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise LoraFileBroken(f"{name} cannot be read: its file is missing or torn. Fetch it again.") from error
    halves: dict[str, dict[str, torch.Tensor]] = {}
    skipped = []
    for key, tensor in tensors.items():
        suffix = next((s for s in _HALVES if key.endswith(s)), None)
        if suffix is not None and key.partition(".")[0] in COMPONENTS:
            halves.setdefault(key.removesuffix(suffix), {})[_HALVES[suffix]] = tensor
        elif not key.endswith(".alpha"):
            skipped.append((key, "not a name that this version reads"))
    layers = {}
    for layer, pair in sorted(halves.items()):
        alpha = tensors.get(f"{layer}.alpha")
        layers[layer] = _factors(layer, pair, float(alpha) if alpha is not None else alphas(layer), name)
    return ParsedLora(sha256, layers, tuple(skipped))


def _factors(layer: str, pair: dict[str, torch.Tensor], alpha: float | None, name: str) -> Factors:
    if len(pair) < 2:
        raise LoraFileBroken(f"{name} cannot be used: {layer} has only one half of its pair.")
    down, up = pair["down"], pair["up"]
    rank = down.shape[0] if down.ndim else 0
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != rank or up.shape[2:].numel() != 1:
        raise LoraFileBroken(f"{name} cannot be used: the two halves of {layer} do not belong together.")
    if not 0 < rank <= LARGEST_RANK or 0 in down.shape or 0 in up.shape:
        raise LoraFileBroken(f"{name} cannot be used: {layer} has rank {rank}; it must be from 1 to {LARGEST_RANK}.")
    if not (torch.isfinite(down.float()).all() and torch.isfinite(up.float()).all()):
        raise LoraFileBroken(f"{name} cannot be used: {layer} holds values that are not finite.")
    scale = 1.0 if alpha is None else alpha / rank
    if scale != scale or abs(scale) == float("inf"):
        raise LoraFileBroken(f"{name} cannot be used: the alpha of {layer} is not finite.")
    return Factors(down, up, scale)


def _alphas(metadata: dict[str, str], name: str) -> Any:
    """A look-up in the `lora_adapter_metadata` that diffusers writes: layer to alpha, None where it is silent."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        table = {
            component: (
                config.get(f"{component}.lora_alpha"),
                config.get(f"{component}.alpha_pattern") or {},
            )
            for component in COMPONENTS
        }
    except (ValueError, AttributeError) as error:
        raise LoraFileBroken(f"{name} cannot be used: its adapter metadata is not readable.") from error

    def alpha_of(layer: str) -> float | None:
        component, _, module = layer.partition(".")
        common, patterns = table[component]
        # peft matches a pattern against the end of a module's name
        special = next((a for p, a in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), common)
        return None if special is None else float(special)

    return alpha_of
