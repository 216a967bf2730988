"""LoRA Loom's start: reads flags and environment, wires the parts, and serves the page until told to stop."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Never

from core.base_models import BASE_MODELS, POCKET
from core.job_line import log_to_stderr
from lora_catalog.reference import HUB_ENDPOINT
from settings import Settings, WrongSetting, settings_from

if TYPE_CHECKING:
    from core.fine_tunes import FineTunes
    from core.gpu import Lend
    from core.machine import Machine
    from core.messages import Engine
    from core.records.journal import Journal
    from core.records.status import Sync
    from lora_catalog.catalog import Catalog
    from ui.page import Page as LoomPage
    from ui.runs import Runs

log = logging.getLogger("loom")

AT_HOME = ("127.0.0.1", "localhost")
FLUSH = 7.0  # seconds for the last records to reach the Hub when told to stop, which takes ten in all
PUBLIC_UPLOAD = 250_000_000  # bytes: strangers' files lie beside each other on the server's disk


def check_address(host: str, port: int) -> None:
    """Raises WrongSetting if nothing can listen there, before anything slow has begun."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            busy = f"Port {port} of {host} is in use: stop what uses it, or choose another with --port."
            raise WrongSetting(busy) from None
        raise WrongSetting(f"Nothing can listen on {host}:{port} here: choose another --host or --port.") from None


def check_folder(folder: Path) -> None:
    """Makes the data folder. Raises WrongSetting where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise WrongSetting(f"Nothing can be written in the folder {folder}: choose another --data-dir.") from None


def serve(settings: Settings, environ: Mapping[str, str]) -> None:
    """Serves until SIGINT or SIGTERM, which raise SystemExit here."""
    check_address(settings.host, settings.port)
    check_folder(settings.data_dir)
    from ui.sweep import start_sweeping

    cache = settings.data_dir.resolve() / "cache"  # of our own, since all that is old in it is deleted
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    page, runs, journal, sync, warm_up = _wired(settings, environ)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host  # IPv6, as addresses have it
    start_sweeping(cache, page.temp_file_sets)

    try:
        try:
            page.launch(
                server_name=host, server_port=settings.port, share=settings.share,
                prevent_thread_lock=True, **page.launch_options(settings.mcp),
            )  # fmt: skip
        except OSError:  # somebody took the port meanwhile
            check_address(settings.host, settings.port)
            raise
        print(f"LoRA Loom is ready: http://{host}:{settings.port}", flush=True)
        if settings.mcp:
            print(f"Tools for assistants (MCP): http://{host}:{settings.port}/gradio_api/mcp/", flush=True)
        if page.share_url:
            print(f"Shared at {page.share_url}", flush=True)
        threading.Thread(target=warm_up, name="warm-up", daemon=True).start()
        sync.start()
        threading.Event().wait()
    finally:
        runs.stop_all()
        page.close(verbose=False)
        sync.flush(FLUSH)  # what it cannot send goes at the next start
        sync.close()
        journal.close()


def _wired(settings: Settings, environ: Mapping[str, str]) -> tuple[LoomPage, Runs, Journal, Sync, Callable[[], None]]:
    """The one place that knows all parts."""
    import httpx2
    from huggingface_hub import get_token

    from core.fine_tunes import LISTED_ONLY, FineTunes
    from core.gpu import lender
    from core.machine import best_model, survey
    from core.records.dataset import TIMEOUT
    from core.records.journal import Journal
    from core.records.sync import dataset_sync
    from core.studio import Studio
    from lora_catalog.hub.api import HubApi
    from lora_catalog.sources.folder import LARGEST_FILE
    from ui.health import Health
    from ui.hosts import hosts_for
    from ui.page import build_page
    from ui.runs import Runs
    from ui.visitors import Visitors
    from ui.words import PocketWords

    token, public = get_token(), _reached_by_strangers(settings, environ)
    on_zero_gpu = bool(environ.get("SPACES_ZERO_GPU"))
    lend = lender() if on_zero_gpu else None  # before anything uses CUDA
    machine = survey(token is not None, on_zero_gpu, settings.plan, settings.speed)
    endpoint = environ.get("HF_ENDPOINT") or HUB_ENDPOINT
    fine_tunes = FineTunes(HubApi(endpoint), settings.data_dir / "models.json")
    if not public:
        fine_tunes.remember()
    model = _fine_tune(fine_tunes, settings.model, token) if settings.model else best_model(machine)
    why_not = machine.why_not(BASE_MODELS[model])
    if settings.model is not None and why_not is not None:
        raise WrongSetting(why_not)
    engine, warm_up = _engine(machine, model, lend, settings.data_dir / "aot" if settings.aot else None)
    largest_upload = PUBLIC_UPLOAD if public else LARGEST_FILE
    catalog = _catalog(settings.data_dir, environ.get("HF_ENDPOINT") or HUB_ENDPOINT, public, largest_upload)
    runs = Runs()
    try:
        words = PocketWords.read(POCKET / "words.json")
    except (OSError, ValueError):
        log.warning("models/pocket/words.json is missing or torn: restore it with git checkout -- models/pocket.")
        words = PocketWords()
    visitors = Visitors(lent_token=None if public else token, behind_proxy=bool(environ.get("SPACE_ID")))
    journal = Journal(settings.data_dir / "journal.sqlite", for_dataset=settings.log_dataset is not None)
    consent = settings.consent or ("picture" if settings.log_dataset is None else "recipe")
    models = LISTED_ONLY if public else fine_tunes  # a stranger's choice would fill the disk
    studio = Studio(engine, catalog, model, journal, consent, machine.device, models)
    sync = dataset_sync(
        journal, settings.log_dataset, settings.data_dir / "sealed", environ.get("HF_ENDPOINT") or HUB_ENDPOINT, token,
        httpx2.Client(timeout=TIMEOUT),
    )  # fmt: skip
    health = Health()
    space = environ.get("SPACE_HOST", "") if environ.get("SPACE_ID") else None
    hosts = hosts_for(settings.host, settings.hosts, socket.gethostname(), space)
    page = build_page(
        studio, words, runs, visitors, largest_upload=largest_upload, hosts=hosts, sync=sync, health=health,
        # As Gradio tells a Space; README.md asks the Hub for the rest.
        sign_in=environ.get("SYSTEM") == "spaces" and bool(environ.get("OAUTH_CLIENT_ID")),
    )  # fmt: skip
    return page, runs, journal, sync, health.watching(warm_up)


def _engine(machine: Machine, model: str, lend: Lend | None, ahead: Path | None) -> tuple[Engine, Callable[[], None]]:
    """What draws, and what it has still to do once the page is there."""
    from core.engine import LocalEngine
    from core.gpu import ZeroEngine, run_ahead

    local = LocalEngine(machine)
    if lend is None:
        return local, lambda: local.warm_up(model)
    local.warm_up(model)  # ZeroGPU's workers get what lies on the device when the page is launched
    if ahead is not None:
        run_ahead(local, model, ahead, lend)
    return ZeroEngine(local, model, lend), lambda: None


def _fine_tune(fine_tunes: FineTunes, model: str, token: str | None) -> str:
    """The key that the table has for it now. Raises WrongSetting with what the Hub says of it."""
    from core.errors import BadRequest
    from core.request import entry_of
    from lora_catalog.errors import CatalogError

    try:
        return entry_of(fine_tunes.key_of(model, token)).key
    except (BadRequest, CatalogError) as error:
        raise WrongSetting(str(error)) from None


def _catalog(data_dir: Path, endpoint: str, public: bool, largest_upload: int) -> Catalog:
    """Every source of LoRAs, in the order that a search asks them."""
    from lora_catalog.catalog import Catalog
    from lora_catalog.curated import curated_cards
    from lora_catalog.hub.api import HubApi
    from lora_catalog.index import CardIndex
    from lora_catalog.previews import PreviewShelf
    from lora_catalog.sources.base import Source
    from lora_catalog.sources.bundled import BundledSource
    from lora_catalog.sources.folder import FolderSource
    from lora_catalog.sources.hub import HubSource
    from lora_catalog.store import LoraStore

    index, store = CardIndex(data_dir / "catalog.sqlite"), LoraStore(data_dir / "store")
    folder = FolderSource(data_dir / "loras", public=public, largest_file=largest_upload)
    sources: list[Source] = [
        BundledSource(POCKET / "loras"),
        folder,
        HubSource(HubApi(endpoint), index, store, curated_cards()),
    ]
    return Catalog(sources, endpoint, PreviewShelf(data_dir / "previews"), folder)


def _reached_by_strangers(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Then the owner's token and the visitors' uploads are kept apart from the others'."""
    at_home = settings.host in (*AT_HOME, "::1")
    return bool(environ.get("SPACE_ID")) or settings.share or not at_home


def _leave(*_: object) -> Never:
    raise SystemExit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 when told to stop, 2 for a setting that cannot be."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    log_to_stderr()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio at import; it would call outside hosts
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read at import; optional packages are no news
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # the same, of faster kernels for a CPU
    try:
        settings = settings_from(sys.argv[1:] if argv is None else argv, os.environ)
        serve(settings, os.environ)
    except WrongSetting as error:
        print(error, file=sys.stderr)
        return 2
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread in the middle of a denoising step must not hold the process
