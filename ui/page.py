"""The page: one line per tab, the API beside them, and how it all is launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.exceptions import Error

from core.studio import Studio
from ui.api import Endpoints
from ui.create import CreateTab
from ui.limits import LimitedBody
from ui.runs import Runs
from ui.theme import css, js, theme
from ui.words import PocketWords

MOST_AT_ONCE = 8  # drawings that may wait for the engine's lock; the others wait in Gradio's queue
MOST_WAITING = 64
LARGEST_UPLOAD = 20 * 2**20  # bytes
LARGEST_BODY = 2**20  # bytes of JSON
CACHE_SECONDS = 24 * 3600

_HEADER = """
<header class="masthead">
  <svg viewBox="0 0 36 36" width="34" height="34" aria-hidden="true">
    <g class="warp"><path d="M8 2v32M18 2v32M28 2v32"/></g>
    <g class="weft"><path d="M2 8h3M11 8h14M31 8h3M2 18h13M21 18h13M2 28h3M11 28h14M31 28h3"/></g>
  </svg>
  <h1>LoRA Loom</h1>
  <p>Blend LoRAs, draw, keep the recipe.</p>
</header>
"""


class Page(gr.Blocks):
    """gr.Blocks whose own findings about inputs become sentences too: Gradio would answer a stranger with null."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **options: Any) -> Any:
        """Raises gr.Error only. The findings are Gradio's: too few inputs, or a file that was never uploaded."""
        try:
            return await super().preprocess_data(block_fn, inputs, *rest, **options)
        except Error:
            raise
        except Exception as error:
            raise Error(_unreadable(block_fn.inputs, inputs), print_exception=False) from error


def _unreadable(blocks: list[Any], inputs: list[Any]) -> str:
    if len(inputs) < len(blocks):
        names = ", ".join(str(block.label) for block in blocks)
        return f"data must hold {len(blocks)} values, null for what is left out: {names}."
    files = [block.label for block, value in zip(blocks, inputs, strict=False) if isinstance(block, gr.File) and value]
    return f"{files[0] if files else 'A file'} must be uploaded here first, and has at most {LARGEST_UPLOAD >> 20} MB."


def build_page(studio: Studio, words: PocketWords, preview_folder: Path, runs: Runs) -> Page:
    """The whole interface. `preview_folder` is where the bundled cards' pictures lie."""
    page = Page(title="LoRA Loom", analytics_enabled=False, delete_cache=(3600, CACHE_SECONDS))
    with page:
        gr.HTML(_HEADER, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="tabs"):  # noqa: SIM117 - one line per tab
            with gr.Tab("Create"):
                create = CreateTab(studio, runs, words, preview_folder)
        Endpoints(studio, runs).declare()
        page.unload(create.left)
    page.queue(default_concurrency_limit=MOST_AT_ONCE, max_size=MOST_WAITING)
    return page


def launch_options() -> dict[str, Any]:
    """What every launch of the page takes, in app.py and in tests alike."""
    return {
        "theme": theme(),
        "css": css(),
        "js": js(),
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "quiet": True,
        "show_error": False,
        "max_file_size": LARGEST_UPLOAD,
        "app_kwargs": {"middleware": [LimitedBody.at(LARGEST_BODY)]},
    }
