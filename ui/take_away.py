"""What people take a picture's recipe away with: a link, and code that draws it again."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from core.recipe import LONGEST_ADDRESS, Recipe, permalink

_TITLES = {"python": "As Python", "diffusers": "As diffusers code"}
_TOO_LONG = "<p>This recipe is too long for a link: pass on a picture, which carries it, or the recipe as JSON.</p>"


def take_away_html(recipe: Recipe, code: Mapping[str, str]) -> str:
    """`code` by its kind. The script of the page copies what a button stands beside."""
    pieces = "".join(
        f'<details class="code"><summary>{_TITLES[kind]}</summary>'
        f'<div data-copied><button type="button" class="tool" data-copy>Copy</button><pre>{escape(text)}</pre></div>'
        "</details>"
        for kind, text in code.items()
    )
    return f'<div class="take-away">{_link_html(recipe)}{pieces}</div>'


def _link_html(recipe: Recipe) -> str:
    link = permalink(recipe)
    if len(link) > LONGEST_ADDRESS:
        return _TOO_LONG
    copy_link = '<button type="button" class="tool" data-copy>Copy link</button>'
    address = link.removeprefix("/")  # the page may be served below another path
    return f'<p data-copied><a href="{address}">Link to this recipe</a> {copy_link}</p>'
