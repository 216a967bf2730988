"""What text encoders made of texts, kept in memory: the same texts under the same blend are read once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

MOST_BYTES = 128_000_000  # two dozen pairs of SD3.5's texts, of 5.5 MB each in halves
MOST_TEXTS = 200  # pocket models' texts are so small that bytes alone would let memory grow for hours

# How diffusers' calls name what their encode_prompt gives, in its order: SD3 and SDXL four of them, SD1 and SD2 two.
_NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

Embeddings = dict[str, torch.Tensor | None]


class WordsRead:
    """For one pipeline, least recently used first out. `blend` names the values that its text encoders have now.

    Kept in the CPU's memory, under hashes: neither the device's room nor anybody's words. Where a text is known, no
    encoder is asked, and none is moved to the device.
    """

    def __init__(self, pipeline: Any, blend: Callable[[], str]) -> None:
        self._pipeline, self._blend = pipeline, blend
        self._kept: OrderedDict[bytes, Embeddings] = OrderedDict()

    def of(self, prompt: str, negative: str | None, t5_tokens: int | None) -> Embeddings:
        """As inputs of the pipeline's call, or of one that shares its parts. `negative` None: without guidance."""
        key = hashlib.sha256(repr((prompt, negative, t5_tokens, self._blend())).encode()).digest()
        if key not in self._kept:
            read = self._read(prompt, negative, t5_tokens)
            self._kept[key] = {name: part if part is None else part.cpu() for name, part in read.items()}
            self._forget()
            return read
        self._kept.move_to_end(key)
        return {name: part if part is None else part.to(self._device) for name, part in self._kept[key].items()}

    @cached_property
    def _device(self) -> torch.device:
        """Asked for once: diffusers looks at every module of the pipeline for it, which takes milliseconds."""
        device: torch.device = self._pipeline._execution_device
        return device

    def _read(self, prompt: str, negative: str | None, t5_tokens: int | None) -> Embeddings:
        """Exactly as the call itself would have it read."""
        pipeline = self._pipeline
        inputs: dict[str, Any] = {
            "prompt": prompt, "negative_prompt": negative, "device": self._device, "num_images_per_prompt": 1,
            "do_classifier_free_guidance": negative is not None,
        }  # fmt: skip
        if hasattr(pipeline, "tokenizer_2"):
            inputs["prompt_2"] = None
        if hasattr(pipeline, "tokenizer_3"):
            inputs |= {"prompt_3": None, "max_sequence_length": t5_tokens}
        return dict(zip(_NAMES, pipeline.encode_prompt(**inputs), strict=False))

    def _forget(self) -> None:
        """Always keeps the last one."""
        while len(self._kept) > 1 and (len(self._kept) > MOST_TEXTS or self._bytes() > MOST_BYTES):
            self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(part.nbytes for read in self._kept.values() for part in read.values() if part is not None)
