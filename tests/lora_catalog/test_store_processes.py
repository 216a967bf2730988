"""The store's folder between processes: killed, forked, or two at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lora_catalog.errors import NoRoom
from lora_catalog.lease import lock
from lora_catalog.store import LoraStore
from tests.lora_catalog.origin import PATIENCE, ended, fetch, fetching, left_over, lora, sha


@pytest.fixture
def store(tmp_path: Path) -> LoraStore:
    return LoraStore(tmp_path / "store", most_bytes=30_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def python(body: str, folder: Path) -> subprocess.Popen[str]:
    """Another process with a store on the same folder; it says a line where the test shall go on."""
    start = f"""
        import os, sys, threading, time
        from pathlib import Path
        from lora_catalog.store import LoraStore
        from lora_catalog.errors import NoRoom
        from tests.lora_catalog.origin import Origin, ended, fetch, fetching, lora, sha
        folder = Path({str(folder)!r})
    """
    script = textwrap.dedent(start) + textwrap.dedent(body)
    home = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], cwd=home, text=True, stdout=pipe, stderr=pipe)


@contextmanager
def other_process(body: str, folder: Path) -> Generator[subprocess.Popen[str]]:
    with python(body, folder) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line and process.wait(PATIENCE) and process.stderr is not None:
        pytest.fail(process.stderr.read())
    return line


def test_what_a_kill_left_behind_is_swept_at_the_next_start(folder: Path) -> None:
    body = """
        steps = fetching(LoraStore(folder), lora(1), origin=Origin(lora(1), held_back=True))
        next(steps)
        print("under way", flush=True)
        time.sleep(60)
    """
    with other_process(body, folder) as process:
        assert said(process) == "under way"
        assert LoraStore(folder).held("k") is None
        assert len(list((folder / "partial").iterdir())) == 1, "a living download was swept away"
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    LoraStore(folder).held("k")
    assert left_over(folder) == []


def test_while_another_process_changes_the_folder_we_wait(store: LoraStore, folder: Path) -> None:
    fetch(store, lora(1))
    with (folder / "lock").open("wb") as other:
        lock(other.fileno())
        steps = fetching(store, lora(2))
        assert [next(steps).done for _ in range(2)] == [0, 0]
    assert ended(steps).path.exists()


def test_what_another_process_uses_is_not_dropped_until_it_ends(folder: Path) -> None:
    body = """
        with fetch(LoraStore(folder), lora(1)).in_use:
            print("in use", flush=True)
            time.sleep(60)
    """
    store = LoraStore(folder, most_bytes=10_000)
    with other_process(body, folder) as process:
        assert said(process) == "in use"
        with pytest.raises(NoRoom):
            fetch(store, lora(2))
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert fetch(store, lora(2)).path.exists()


def test_two_processes_and_their_threads_on_one_folder_do_no_harm(folder: Path) -> None:
    body = """
        store = LoraStore(folder, most_bytes=30_000)
        def visit(start):
            for number in range(start, start + 40):
                try:
                    held = fetch(store, lora(number % 7), origin=Origin(lora(number % 7), piece=700))
                except NoRoom:
                    continue
                with held.in_use:
                    assert held.path.read_bytes() == lora(number % 7)
        failed = []
        threading.excepthook = lambda args: failed.append(repr(args.exc_value))
        threads = [threading.Thread(target=visit, args=[start]) for start in (0, 3, 5)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(failed or "fine", flush=True)
    """
    with other_process(body, folder) as one, other_process(body, folder) as two:
        assert [said(one), said(two)] == ["fine", "fine"]
    files = list(folder.glob("*.safetensors"))
    assert all(sha(path.read_bytes()) == path.stem for path in files)
    assert 0 < sum(path.stat().st_size for path in files) <= 30_000
    assert list((folder / "partial").iterdir()) == []


def test_a_forked_worker_neither_ends_nor_keeps_what_its_parent_holds(folder: Path) -> None:
    body = """
        store, origin = LoraStore(folder, most_bytes=20_000), Origin(lora(2), held_back=True)
        one, two = fetch(store, lora(1)), fetch(store, lora(1))
        steps = fetching(store, lora(2), origin=origin)
        next(steps)
        ready, say = os.pipe()
        if not (worker := os.fork()):
            del one  # and not two, nor the partial file's lock
            os.write(say, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
        with two.in_use:
            pass
        try:
            fetch(store, lora(3))
        except NoRoom:
            print("one is still ours", flush=True)
        del one
        origin.go.set()
        ended(steps)
        del steps
        fetch(store, lora(3))
        fetch(store, lora(4))
        print(*sorted(path.stem for path in folder.glob("*.safetensors")), flush=True)
        os.kill(worker, 9)
    """
    with other_process(body, folder) as process:
        assert said(process) == "one is still ours"
        assert said(process).split() == sorted([sha(lora(3)), sha(lora(4))])
