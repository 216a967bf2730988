"""The store for a pipeline's weights: for each parameter what its module and its hooks ask for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import CLIPTextModel

from core.lora.places import Places
from core.lora.quantised import quantised_weights
from core.lora.weights import Free, PlainWeight, Weight, free_memory


def weights_of(components: Mapping[str, torch.nn.Module], free: Free = free_memory) -> dict[str, Weight]:
    """Of modules on a device, offloaded, quantised or compiled, as they are now: offloading comes first.

    Raises ModelUnavailable if weights rest where they cannot be written.
    """
    weights: dict[str, Weight] = {}
    for component, outermost in components.items():
        root = getattr(outermost, "_orig_mod", outermost)
        start, places = f"{component}.{_published(root)}", Places(root)
        quantised = dict(quantised_weights(root))
        for name, module in root.named_modules():
            layer = start + _plain(name)
            for parameter, suffix in (("weight", ""), ("bias", ".bias")):
                if parameter == "weight" and name in quantised:
                    weights[layer] = quantised[name]
                elif isinstance(getattr(module, parameter, None), torch.nn.Parameter):
                    weights[layer + suffix] = PlainWeight(places.of(module, parameter), free)
    return weights


def _plain(name: str) -> str:
    """A module's name without the steps into compiled ones."""
    return ".".join(step for step in name.split(".") if step != "_orig_mod")


def _published(root: torch.nn.Module) -> str:
    """What stands before the names of a component's modules in published files: transformers 5 dropped it from
    CLIPTextModel, and kept it in CLIPTextModelWithProjection."""
    return "text_model." if isinstance(root, CLIPTextModel) and not hasattr(root, "text_model") else ""
