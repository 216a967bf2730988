"""What the pocket models understand: their words and example prompts, each a click away from the prompt."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class PocketWords(BaseModel):
    """The vocabulary that the pocket models were trained on, as `models/pocket/words.json` holds it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    things: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError or ValidationError: a clone without this file is torn."""
        return cls.model_validate_json(path.read_bytes())

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The words by kind, without the examples and without empty kinds."""
        return {name: words for name, words in self if name != "examples" and words}


def words_html(words: PocketWords) -> str:
    """A table of words; `loom.js` appends a clicked one to the prompt."""
    lines = "".join(
        f"<dt>{kind.capitalize()}</dt><dd>{''.join(_chip('say', word) for word in of_kind)}</dd>"
        for kind, of_kind in words.kinds().items()
    )
    return f'<dl class="vocabulary">{lines}</dl>'


def examples_html(words: PocketWords, most: int = 4) -> str:
    """Example prompts; a click replaces the prompt."""
    chips = "".join(_chip("prompt", example) for example in words.examples[:most])
    return f'<div class="examples"><span class="hint">Try</span>{chips}</div>' if chips else ""


def _chip(does: str, text: str) -> str:
    return f'<button type="button" class="chip" data-{does}="{escape(text)}">{escape(text)}</button>'
