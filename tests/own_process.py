"""`python app.py` in a process of its own, as a shell starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Started:
    """A server that answers, and the process to send signals to."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """Without a chance to tidy up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def started(data_dir: Path, *flags: str, environ: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Asked to stop at the end, unless it has ended before."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), "--data-dir", str(data_dir), *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | dict(environ or {}), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert any("http://" in line for line in process.stdout)
        yield Started(f"http://127.0.0.1:{port}", process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
