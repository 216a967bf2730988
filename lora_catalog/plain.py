"""Plain text: what strangers wrote, on one line, of bounded length, without letters that nobody sees."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

# Printable by Python's reckoning and yet unseen: fillers, joiners, and the selectors in which texts can be hidden.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_MARK = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_TOWER = re.compile(f"({_MARK}{{4}}){_MARK}+")
_WIDE = 4  # a text is cut before it is looked through: at most so many times its length


def plain(text: str, most: int) -> str:
    """At most `most` letters on one line: no control, direction, zero-width or tag characters, no towers of marks."""
    seen = text[: _WIDE * most]
    if not seen.isprintable():
        seen = "".join(letter if letter.isprintable() else " " for letter in seen)
    if not seen.isascii():
        seen = _TOWER.sub(r"\1", _UNSEEN.sub("", seen))
    line = " ".join(seen.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def of_at_most(most: int) -> BeforeValidator:
    """For a field of text: whatever source a card comes from, it is plain."""
    return BeforeValidator(lambda value: plain(value, most) if isinstance(value, str) else value)


Title = Annotated[str, of_at_most(200)]
Line = Annotated[str, of_at_most(300)]
