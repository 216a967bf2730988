"""The page's languages: written in English, in others by a folder of tables each, put in by the browser."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import gradio as gr

_HERE = Path(__file__).parent


@cache
def languages() -> dict[str, dict[str, str]]:
    """By code, such as “zh”: what a visitor is told in English, and how that language says it."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((_HERE / "languages").glob("*/*.toml")):
        found.setdefault(path.parent.name, {}).update(tomllib.loads(path.read_text("utf-8")))
    return found


def i18n() -> gr.I18n:
    """For launch(): Gradio hands the tables to the browser, and takes labels of its own components from them."""
    return gr.I18n(**languages())


def head() -> str:
    """For launch(): the script that does the rest, which runs before the first component is drawn."""
    return f"<script>{(_HERE / 'language.js').read_text('utf-8')}</script>"
