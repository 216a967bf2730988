"""Says where a prompt goes on beyond what a model's text encoders read."""

from __future__ import annotations

from typing import Any

from core.request import GenerationRequest
from lora_catalog.errors import quoted


def unread(pipeline: Any, request: GenerationRequest) -> tuple[str, ...]:
    """A sentence for each text of which no encoder reads the end; diffusers cuts it without a word to the user."""
    heard = ("prompt", "negative prompt") if request.guidance > 1 else ("prompt",)
    texts = dict.fromkeys(
        pair for index in range(request.images) for pair in zip(heard, request.texts_of(index), strict=False)
    )
    rests = ((name, _rest(pipeline, request.entry.t5_tokens or 0, text)) for name, text in texts)
    said = (
        f"The {name} is longer than {request.entry.title} reads: it was cut before {quoted(rest)}."
        for name, rest in rests
        if rest
    )
    return tuple(dict.fromkeys(said))


def _rest(pipeline: Any, t5_tokens: int, text: str) -> str:
    """What comes behind the last token that the most patient encoder takes; T5 takes more than CLIP."""
    rests = []
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, name, None)
        if tokenizer is None:
            continue
        room = t5_tokens if name == "tokenizer_3" else tokenizer.model_max_length
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        unheard = tokens[max(0, room - tokenizer.num_special_tokens_to_add()) :]
        rests.append(tokenizer.decode(unheard).strip())
    return min(rests, key=len, default="")
