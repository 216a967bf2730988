"""Folds: groups that are put away behind their title, and stay where a visitor left them."""

from __future__ import annotations

import time
from html import escape
from typing import Any, Literal

import gradio as gr

from ui.scripts import script


def fold(title: str, name: str, opens: Literal["never", "wide"] = "never", visible: bool = True) -> gr.HTML:
    """A group to lay out in, `with fold(…):`; `name` is its id, and what the browser remembers it by.

    `opens` says when it is open for who never touched it: on wide windows only, or not at all. Unlike an Accordion's,
    what it holds is on the page while it is folded: a dropped picture finds its input, Ctrl+F its words.
    """
    head = f'<button type="button" class="fold" data-opens="{opens}">{escape(title)}</button>'
    return gr.HTML(
        html_template=f"{head}@children",
        js_on_load=script("folds"),
        apply_default_css=False,
        visible=visible,
        elem_id=name,
        elem_classes="folds",
    )


def unfolded() -> dict[str, Any]:
    """The update that opens a fold; each is another, so that it opens one that was closed by hand."""
    return gr.update(value={"opened": time.time_ns()})
