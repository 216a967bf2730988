"""Forms in a prompt: `{red|blue}` is one of them by the picture's seed, `[[red, blue]]` a picture for each, in order.

Both may lie in each other. A brace without a `|` of its own, brackets without a comma of their own, and what is not
closed are plain text. So is a form behind a backslash, which then goes (of two before a form one stays, and it is a
form); anywhere else a backslash is a letter like others. However hostile a text is, the work grows with its length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from core.prompt import has_lora_tag

_ENDS = {"{": "}", "[[": "]]"}
_OPENINGS = {ending: opening for opening, ending in _ENDS.items()}
_CUTS = {"{": "|", "[[": ","}


@dataclass
class _Form:
    """`start` and `end` are where its opening and closing stand, `slashes` how many backslashes stand before it."""

    opening: str
    start: int
    end: int
    slashes: int
    cuts: set[int] = field(default_factory=set)

    @property
    def plain(self) -> bool:
        return self.slashes % 2 == 1

    @property
    def options(self) -> int:
        return len(self.cuts) + 1


@dataclass
class _Open:
    """A form that is being read, with what its chosen option says so far."""

    form: _Form | None
    chosen: int = 0
    at: int = 0
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        if self.at == self.chosen:
            self.said.append(text)


def combinations(prompt: str, negative: str) -> int:
    """How many pictures the arrays of both ask for: the product of their lengths."""
    return _arrays(_forms(prompt)) * _arrays(_forms(negative))


def texts_of(prompt: str, negative: str, seed: int, index: int) -> tuple[str, str]:
    """What picture number `index` of a request with `seed` is drawn from. The last array varies first, the negative
    prompt's after the prompt's; behind the last combination the first one comes again."""
    of_prompt, of_negative = _arrays(_forms(prompt)), _arrays(_forms(negative))
    number = index % (of_prompt * of_negative)
    chosen = partial(_chosen, seed=seed + index)
    return chosen(prompt, number=number // of_negative), chosen(negative, number=number % of_negative)


def forms_in(text: str) -> Iterator[str]:
    """The forms that stand in no other one, with all that is in them."""
    done = 0
    for form in _forms(text):
        if not form.plain and form.start >= done:
            done = form.end
            yield text[form.start : done]


def escaped(text: str) -> str:
    """What stands for exactly this text, whatever seed it is drawn with."""
    parts, done = [], 0
    for form in _forms(text):
        parts += [text[done : form.start], "\\" * (form.slashes + 1)]
        done = form.start
    return "".join([*parts, text[done:]])


def longest(text: str) -> int:
    """Letters that any text which it may stand for takes at most, once it is escaped."""
    forms = _forms(text)
    if any(not form.plain for form in forms):
        return len(text) + sum(text.count(letter) for letter in "{[\\")
    return len(escaped(_chosen(text, seed=0, number=0)))


def _arrays(forms: list[_Form]) -> int:
    return math.prod(form.options for form in forms if form.opening == "[[" and not form.plain)


def _forms(text: str) -> list[_Form]:
    """In the order of their openings. A closing ends the last opening of its kind; those of the other kind that were
    opened since are plain."""
    if "{" not in text and "[[" not in text:
        return []
    ends = _ends(text)
    found: list[_Form] = []
    within: list[_Form] = []
    at = 0
    while at < len(text):
        if at in ends:
            opening = text[at] if text[at] == "{" else "[["
            found.append(_Form(opening, at, ends[at], _slashes_before(text, at)))
            within.append(found[-1])
            at += len(opening)
        elif within and at == within[-1].end:
            at += len(within.pop().opening)
        else:
            if within and text[at] == _CUTS[within[-1].opening]:
                within[-1].cuts.add(at)
            at += 1
    return [form for form in found if form.cuts]


def _slashes_before(text: str, at: int) -> int:
    count = 0
    while count < at and text[at - count - 1] == "\\":
        count += 1
    return count


def _ends(text: str) -> dict[int, int]:
    """Where what is opened is closed, by the place of its opening."""
    ends: dict[int, int] = {}
    opened: list[tuple[str, int]] = []
    counts = dict.fromkeys(_ENDS, 0)
    at = 0
    while at < len(text):
        token = text[at : at + 2] if text.startswith(("[[", "]]"), at) else text[at]
        ended = _OPENINGS.get(token, "")
        if token in counts:
            opened.append((token, at))
            counts[token] += 1
        elif counts.get(ended):
            kind, start = "", 0
            while kind != ended:
                kind, start = opened.pop()
                counts[kind] -= 1
            ends[start] = at
        elif token == "]]":
            token = "]"  # the next letter may be the first of two that close
        at += len(token)
    return ends


def _chosen(text: str, seed: int, number: int) -> str:
    """The text with each form's choice in its place; `number` counts the combinations of its own arrays."""
    forms = _forms(text)
    if not forms:
        return text
    choices = _choices(text, forms, seed, number)
    beginnings = {form.start - form.slashes: form for form in forms}
    levels = [_Open(None)]
    at = 0
    while at < len(text):
        now = levels[-1]
        if (form := beginnings.get(at)) is not None:
            now.say("\\" * (form.slashes // 2))
            if form.plain:
                now.say(form.opening)
            else:
                levels.append(_Open(form, choices[form.start]))
            at = form.start + len(form.opening)
        elif now.form is not None and at == now.form.end:
            levels.pop()
            value = "".join(now.said)
            levels[-1].say(value.strip() if now.form.opening == "[[" else value)
            at += len(now.form.opening)
        elif now.form is not None and at in now.form.cuts:
            now.at += 1
            at += 1
        else:
            now.say(text[at])
            at += 1
    chosen = "".join(levels[0].said)
    # A tag that only comes about by a choice is none: what a request blends must stand in it from the start.
    return chosen.replace("<", "") if choices and has_lora_tag(chosen) else chosen


def _choices(text: str, forms: list[_Form], seed: int, number: int) -> dict[int, int]:
    """Of every form by where it stands, also in options that are not taken: what is chosen here changes nothing there.

    `random` promises the same numbers for the same text on all versions and machines, of `random()` alone.
    """
    dice = random.Random(f"{seed}:{text}")
    choices: dict[int, int] = {}
    for form in reversed([form for form in forms if form.opening == "[[" and not form.plain]):
        number, choices[form.start] = divmod(number, form.options)
    for form in forms:
        if form.opening == "{" and not form.plain:
            choices[form.start] = int(dice.random() * form.options)
    return choices
