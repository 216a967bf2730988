"""What people take a picture's recipe away with: a link, and code that draws it again."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from core.recipe import Recipe, permalink

_TITLES = {"python": "As Python", "diffusers": "As diffusers code"}


def take_away_html(recipe: Recipe, code: Mapping[str, str]) -> str:
    """`code` by its kind. The script of the page copies what a button stands beside."""
    link = permalink(recipe).removeprefix("/")  # the page may be served below another path
    copy_link = '<button type="button" class="tool" data-copy>Copy link</button>'
    pieces = "".join(
        f'<details class="code"><summary>{_TITLES[kind]}</summary>'
        f'<div data-copied><button type="button" class="tool" data-copy>Copy</button><pre>{escape(text)}</pre></div>'
        "</details>"
        for kind, text in code.items()
    )
    return (
        f'<div class="take-away"><p data-copied><a href="{link}">Link to this recipe</a> {copy_link}</p>{pieces}</div>'
    )
