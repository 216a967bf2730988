"""How strongly a layer's factors count: its alpha over its rank, wherever the file tells the alpha."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_catalog.families.keys import Target
from lora_catalog.layers import Layer, Torn

_PLAIN = re.compile(r"(\^?[\w.]+)\$?")
_UNREADABLE = "its adapter metadata cannot be read"


@dataclass(frozen=True)
class _Adapter:
    """What diffusers' `lora_adapter_metadata` say of one part of a model: peft's LoraConfig."""

    alpha: float | None
    alphas: Mapping[str, tuple[int, float]]  # by the end of a module's name, or ^ and the whole; with their places
    root: bool  # divided by the rank's square root (rsLoRA, Kalajdzievski 2023)

    def alpha_of(self, module: str) -> float | None:
        """As peft does it, the first name that fits decides."""
        short = module.removeprefix("text_model.")
        names = short.split(".")
        ends = [module, f"^{module}", f"^{short}", *(".".join(names[start:]) for start in range(len(names)))]
        fitting = [self.alphas[end] for end in ends if end in self.alphas]
        return min(fitting)[1] if fitting else self.alpha


class Scales:
    """The scales of one file's layers, by its metadata and by whether any of its layers has an alpha of its own."""

    def __init__(self, metadata: Mapping[str, str], in_tensors: bool) -> None:
        """Raises Torn where adapter metadata are there and cannot be understood: guessing would be silently wrong."""
        self._config = _object(metadata.get("lora_adapter_metadata", "{}"))
        self._adapters: dict[str, _Adapter] = {}
        # sd-scripts and LyCORIS write an alpha for every layer; should a tool have dropped them all, this is left.
        self._common = None if in_tensors else _number(metadata.get("ss_network_alpha"))

    def of(self, layer: Layer, target: Target, alpha: float | None) -> float:
        """`alpha` is the layer's own tensor. A layer whose alpha nobody tells has its rank for it: scale 1."""
        if layer.rank is None:
            return 1.0
        root = False
        if alpha is None:
            adapter = self._adapter(target.component)
            alpha, root = adapter.alpha_of(target.paths[0]), adapter.root
        if alpha is None and layer.format not in ("diffusers", "peft"):  # who wrote those has multiplied it in
            alpha = self._common
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(layer.rank) if root else layer.rank)

    def _adapter(self, component: str) -> _Adapter:
        if component not in self._adapters:
            # a pipeline writes each component's with its name before it, a model alone writes them bare
            told = {name.removeprefix(f"{component}."): value for name, value in self._config.items()}
            alpha = _number(told.get("lora_alpha"))
            if alpha is None and told.get("lora_alpha") is not None:
                raise Torn(_UNREADABLE)
            self._adapters[component] = _Adapter(
                alpha, _by_name(told.get("alpha_pattern")), root=told.get("use_rslora") is True
            )
        return self._adapters[component]


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Torn(_UNREADABLE) from None
    if type(found) is not dict:
        raise Torn(_UNREADABLE)
    return found


def _by_name(patterns: object) -> dict[str, tuple[int, float]]:
    """peft matches regular expressions; trainers write names, and nobody's file may run one here."""
    if patterns is None:
        return {}
    if type(patterns) is not dict:
        raise Torn(_UNREADABLE)
    alphas: dict[str, tuple[int, float]] = {}
    for pattern, alpha in patterns.items():
        plain, number = _PLAIN.fullmatch(pattern.replace("\\.", ".")), _number(alpha)
        if plain is None or number is None:
            raise Torn("its adapter metadata give alphas by patterns that are not names")
        alphas[plain[1]] = len(alphas), number
    return alphas


def _number(value: object) -> float | None:
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
