"""The page: one line per tab, the API beside them, and how it all is launched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.exceptions import Error
from gradio.routes import App
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from core.records.status import NoSync, Sync
from core.studio import Studio
from lora_catalog.catalog import Catalog
from lora_catalog.sources.folder import LARGEST_FILE
from ui.api import Endpoints
from ui.compare import CompareTab
from ui.create import CreateTab
from ui.history import HistoryTab
from ui.limits import LimitedBody
from ui.loras import LorasTab
from ui.open_recipe import ON_LOAD
from ui.own_files import NoProxy, as_uploads
from ui.previews import preview_route
from ui.recall import CREATE, Recall
from ui.runs import Runs
from ui.sessions import MOST_SESSIONS, lean, quiet
from ui.theme import css, js, theme
from ui.visitors import Visitors
from ui.words import PocketWords

if TYPE_CHECKING:
    from ui.tools import Tools

MOST_AT_ONCE = 8  # drawings that may wait for the engine's lock; the others wait in Gradio's queue
MOST_WAITING = 64
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

    def __init__(self, catalog: Catalog, largest_upload: int, hosts: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._catalog, self._largest_upload, self._hosts = catalog, largest_upload, hosts

    def launch_options(self, mcp: bool = False) -> dict[str, Any]:
        """What every launch of this page takes, in app.py and in tests alike; `mcp`: its endpoints as tools too."""
        tools = self._tools() if mcp else None

        @asynccontextmanager
        async def lifespan(app: App) -> AsyncIterator[None]:
            async with AsyncExitStack() as entered:
                await entered.enter_async_context(lean(app))
                if tools:
                    await entered.enter_async_context(tools.running())
                yield

        return {
            "theme": theme(),
            "css": css(),
            "js": js(),
            "footer_links": ["api"],
            "run_history": False,
            "ssr_mode": False,
            "quiet": True,
            "show_error": False,
            "mcp_server": False,  # Gradio's own hands over files of this server, and lets any address be fetched
            "max_file_size": self._largest_upload,
            "state_session_capacity": MOST_SESSIONS,
            "app_kwargs": {
                "middleware": [NoProxy.here(), LimitedBody.at(LARGEST_BODY), *self._only_own_hosts()],
                "routes": [preview_route(self._catalog), *([tools.route()] if tools else [])],
                "lifespan": lifespan,
            },
        }

    def _tools(self) -> Tools:
        from ui.tools import Tools  # mcp takes most of a second to import: not where nobody asks for it

        return Tools(self)

    def _only_own_hosts(self) -> list[Middleware]:
        """Another site that has its name resolve to this machine must not act as its owner (DNS rebinding)."""
        return [Middleware(TrustedHostMiddleware, allowed_hosts=list(self._hosts))] if self._hosts else []

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **options: Any) -> Any:
        """Raises gr.Error only. The findings are Gradio's: too few inputs, or a file that was never uploaded."""
        try:
            inputs = [as_uploads(value) for value in inputs]
            return await super().preprocess_data(block_fn, inputs, *rest, **options)
        except Error:
            raise
        except Exception as error:
            raise Error(self._unreadable(block_fn.inputs, inputs), print_exception=False) from error

    def _unreadable(self, blocks: list[Any], inputs: list[Any]) -> str:
        if len(inputs) < len(blocks):
            names = ", ".join(str(block.label) for block in blocks)
            return f"data must hold {len(blocks)} values, null for what is left out: {names}."
        given = zip(blocks, inputs, strict=False)
        files = [block.label for block, value in given if isinstance(block, gr.File) and value]
        most = self._largest_upload // 10**6
        return f"{files[0] if files else 'A file'} must be uploaded here first, and has at most {most} MB."


def build_page(
    studio: Studio,
    words: PocketWords,
    runs: Runs,
    visitors: Visitors,
    *,
    largest_upload: int = LARGEST_FILE,
    hosts: Sequence[str] = (),
    sync: Sync | None = None,
) -> Page:
    """The whole interface. `largest_upload` is in bytes; `hosts` are the names it answers to (none: all); `sync` sends
    the records to a dataset, if anything does."""
    sync = sync or NoSync(studio.journal)
    options: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (3600, CACHE_SECONDS)}
    page = Page(studio.catalog, largest_upload, hosts, title="LoRA Loom", **options)
    with page:
        gr.HTML(_HEADER, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Create", id=CREATE, elem_id="create-tab"):
                create = CreateTab(studio, runs, words, visitors, sync.repo)
                recall = Recall(studio, create, tabs)
                create.wire(recall)
            with gr.Tab("LoRAs", elem_id="loras-tab"):
                LorasTab(studio, visitors, create, largest_upload)
            with gr.Tab("Compare", elem_id="compare-tab"):
                compare = CompareTab(studio, runs, visitors, create, recall)
            with gr.Tab("History", elem_id="history-tab"):
                HistoryTab(studio, visitors, create, recall, sync)
        Endpoints(studio, runs, visitors, sync).declare()
        page.load(
            None, js=ON_LOAD, outputs=[create.visitor, create.opening.link, create.consent], api_visibility="private"
        )
        page.unload(create.left)
        page.unload(compare.left)
    page.queue(default_concurrency_limit=MOST_AT_ONCE, max_size=MOST_WAITING)
    quiet(page._queue)
    return page
