"""LoRA tags in a prompt: `<lora:REF:WEIGHT te=… unet=… in=… mid=… out=…>`, as the field's other tools write them."""

from __future__ import annotations

import re
from typing import Any

from core.errors import BadRequest

_TAG = re.compile(r"[ \t]*<lora:([^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_NAMED = re.compile(r"(?:^|[\s:]+)(\w+)=([^\s:=]*)\s*$")  # SD.Next parts them by colons
_NAMES = ("te", "unet", "in", "mid", "out")


def without_lora_tags(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """The prompt without its tags, and the LoRAs they name, in their order, as a request's `loras` have them.

    The last `:number` of a tag is its weight, 1 if there is none; all before it is the ref. Behind it `te` is the text
    encoders' own weight, `unet` the denoiser's, and `in`, `mid` and `out` are weights of its blocks, as SD.Next has
    them. Raises BadRequest for other names, and for what is no number.
    """
    loras = [_lora(body) for body in _TAG.findall(prompt)]
    if not loras:
        return prompt, []
    return re.sub(r",(\s*,)+", ",", _TAG.sub("", prompt)).strip(" ,"), loras


def has_lora_tag(prompt: str) -> bool:
    return _TAG.search(prompt) is not None


def _lora(body: str) -> dict[str, Any]:
    body, named = _split(body)
    ref, colon, last = body.rpartition(":")
    weight = 1.0
    if colon and _NUMBER.fullmatch(last.strip()):
        body, weight = ref, float(last)
    lora: dict[str, Any] = {"ref": _address(body.strip()), "weight": named.pop("unet", weight)}
    words = named.pop("te", weight)
    if words != lora["weight"]:
        lora["text_encoder"] = words
    return lora | ({"blocks": named} if named else {})


def _split(body: str) -> tuple[str, dict[str, float]]:
    """A tag's body without what it names at its end, and that."""
    named: dict[str, float] = {}
    while (found := _NAMED.search(body)) is not None and not found[2].endswith(".safetensors"):
        name, number = found[1].lower(), found[2]
        if name not in _NAMES or name in named or not _NUMBER.fullmatch(number):
            raise BadRequest(
                "prompt", "prompt: a LoRA tag may give te, unet, in, mid and out, each once and as a number: te=0.5."
            )
        named[name] = float(number)
        body = body[: found.start()]
    return body, named


def _address(ref: str) -> str:
    """SD.Next writes a LoRA of the Hub as `/huggingface.co/USER/REPO`."""
    return f"https:/{ref}" if ref.startswith("/huggingface.co/") else ref
