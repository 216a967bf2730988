"""LoRA tags in a prompt: `<lora:REF:WEIGHT>`, as the field's other tools write them."""

from __future__ import annotations

import re
from typing import Any

_TAG = re.compile(r"[ \t]*<lora:([^<>]*)>", re.IGNORECASE)
_WEIGHT = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)$")


def without_lora_tags(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """The prompt without its tags, and the LoRAs they name, in their order.

    The last `:number` of a tag is its weight, 1 if there is none; all before it is the ref.
    """
    loras: list[dict[str, Any]] = []
    for body in _TAG.findall(prompt):
        ref, colon, weight = body.rpartition(":")
        if colon and _WEIGHT.match(weight.strip()):
            loras.append({"ref": ref.strip(), "weight": float(weight)})
        else:
            loras.append({"ref": body.strip(), "weight": 1.0})
    if not loras:
        return prompt, []
    return re.sub(r",(\s*,)+", ",", _TAG.sub("", prompt)).strip(" ,"), loras
