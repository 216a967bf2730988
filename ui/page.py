"""The page: one line per tab, the API beside them, and how it all is launched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.exceptions import Error
from gradio.routes import App, file_upload_statuses

from core.records.status import NoSync, Sync
from core.studio import Studio
from lora_catalog.sources.folder import LARGEST_FILE
from ui.api import LATER, Endpoints
from ui.compare import CompareTab
from ui.compressed import CompressedPage
from ui.create import CreateTab
from ui.fair_queue import FairQueue
from ui.health import Health
from ui.history import HistoryTab
from ui.hosts import Hosts, OwnHosts
from ui.language import head, i18n
from ui.limits import LimitedBody
from ui.loras import LorasTab
from ui.open_recipe import ON_LOAD
from ui.own_files import NoProxy, as_uploads
from ui.previews import preview_route
from ui.recall import CREATE, Recall
from ui.remembered import Remembered
from ui.runs import Runs
from ui.sessions import MOST_SESSIONS, lean
from ui.sign_in import sign_in_button
from ui.stumbles import Stumbles, told
from ui.theme import css, js, theme
from ui.uploads import UploadsStay, forgetful
from ui.visitors import Visitors
from ui.words import PocketWords

if TYPE_CHECKING:
    from ui.tools import Tools

# One for each call that is being answered, those that wait in the line to draw among them: 65 at most, and a few that
# are just being refused. Threads are made when they are needed; page loads and files have others.
MOST_THREADS = 256
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

    def __init__(
        self, studio: Studio, visitors: Visitors, largest_upload: int, hosts: Hosts, health: Health, **options: Any
    ) -> None:
        self._studio, self._visitors, self._largest_upload = studio, visitors, largest_upload
        self._hosts, self._health = hosts, health
        super().__init__(**options)  # which makes the queue

    def launch_options(self, mcp: bool = False) -> dict[str, Any]:
        """What every launch of this page takes, in app.py and in tests alike; `mcp`: its endpoints as tools too."""
        tools = self._tools() if mcp else None

        @asynccontextmanager
        async def lifespan(app: App) -> AsyncIterator[None]:
            async with AsyncExitStack() as entered:
                await entered.enter_async_context(lean(app))
                forgetful(file_upload_statuses)
                if tools:
                    await entered.enter_async_context(tools.running())
                yield

        return {
            "theme": theme(),
            "css": css(),
            "js": js(),
            "head": head(),
            "i18n": i18n(),
            "footer_links": ["api"],
            "run_history": False,
            "ssr_mode": False,
            "quiet": True,
            "show_error": False,
            "mcp_server": False,  # Gradio's own hands over files of this server, and lets any address be fetched
            "max_file_size": self._largest_upload,
            "max_threads": MOST_THREADS,
            "state_session_capacity": MOST_SESSIONS,
            "app_kwargs": {
                "middleware": [
                    OwnHosts.only(self._hosts, lambda: self.share_url),
                    Stumbles.caught(),
                    NoProxy.here(),
                    LimitedBody.at(LARGEST_BODY, self._largest_upload),
                    UploadsStay.of(lambda: self.upload_file_set),
                    CompressedPage.here(),
                ],
                "lifespan": lifespan,
                "routes": [
                    preview_route(self._studio.catalog),
                    self._health.route(self._studio),
                    *([tools.route()] if tools else []),
                ],
            },
        }

    def queue(self, *_: Any, **options: Any) -> Page:
        """With a queue in which nobody's calls close a function to others, and no way around it."""
        super().queue(api_open=False)
        self._queue = FairQueue(
            self._visitors,
            self._studio.refusal,
            live_updates=True,
            concurrency_count=MOST_THREADS,
            update_intervals=1,
            blocks=self,
        )
        return self

    async def process_api(self, *args: Any, **options: Any) -> Any:
        """Raises gr.Error only, and none that Gradio would print with a traceback: strangers could fill the log."""
        try:
            return await super().process_api(*args, **options)
        except Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            raise Error(told(error)[1], print_exception=False) from error

    def _tools(self) -> Tools:
        from ui.tools import Tools  # mcp takes most of a second to import: not where nobody asks for it

        return Tools(self, self._visitors)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **options: Any) -> Any:
        """Raises gr.Error only. The findings are Gradio's: too few inputs, or a file that was never uploaded."""
        try:
            inputs = [as_uploads(value) for value in inputs]
            behind = [block.label for block in block_fn.inputs[len(inputs) :]]
            if block_fn.api_visibility == "public" and LATER.issuperset(behind):
                inputs += [None] * len(behind)
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
    hosts: Hosts | None = None,
    sync: Sync | None = None,
    health: Health | None = None,
    sign_in: bool = False,
) -> Page:
    """The whole interface. `largest_upload` is in bytes; `hosts` are the names it answers to beside localhost; `sync`
    sends the records to a dataset, if anything does; `sign_in` where visitors can, with Hugging Face."""
    sync = sync or NoSync(studio.journal)
    options: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (3600, CACHE_SECONDS)}
    page = Page(
        studio, visitors, largest_upload, hosts or Hosts(), health or Health(), title="LoRA Loom", **options
    )  # fmt: skip
    with page:
        gr.HTML(_HEADER, apply_default_css=False, elem_id="header")
        if sign_in:
            sign_in_button(page)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Create", id=CREATE, elem_id="create-tab"):
                create = CreateTab(studio, runs, words, visitors, sync.repo)
                recall = Recall(studio, create, tabs)
                create.wire(recall)
                remembered = Remembered(create)
            with gr.Tab("LoRAs", elem_id="loras-tab"):
                LorasTab(studio, visitors, create, largest_upload)
            with gr.Tab("Compare", elem_id="compare-tab"):
                compare = CompareTab(studio, runs, visitors, create, recall)
            with gr.Tab("History", elem_id="history-tab"):
                HistoryTab(studio, visitors, create, recall, sync)
        Endpoints(studio, runs, visitors, sync).declare()
        page.load(
            None,
            js=ON_LOAD,
            outputs=[create.visitor, create.opening.link, create.consent, remembered.stored],
            api_visibility="private",
        )
        page.unload(create.left)
        page.unload(compare.left)
    return page.queue()
