"""Starting and stopping, as a shell sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from settings import WrongSetting, settings_from
from tests.conftest import free_port
from tests.core.test_fine_tunes import repo_of
from tests.hub import EmulatedHub

ROOT = Path(__file__).parent.parent


def start(home: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", "--data-dir", str(home / "data"), *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reaches_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_flag_wins_over_the_environment_and_that_over_gradios_own() -> None:
    environ = {"LOOM_PORT": "8001", "GRADIO_SERVER_PORT": "8002", "GRADIO_SERVER_NAME": "0.0.0.0", "LOOM_SHARE": "yes"}
    assert settings_from(["--port", "8000"], environ).port == 8000
    settings = settings_from([], environ)
    assert (settings.host, settings.port, settings.share, settings.mcp) == ("0.0.0.0", 8001, True, False)


def test_an_address_of_ipv6_may_stand_in_brackets() -> None:
    assert settings_from(["--host", "[::1]"], {}).host == settings_from(["--host", "::1"], {}).host == "::1"


def test_a_space_listens_on_all_addresses() -> None:
    assert settings_from([], {"SPACE_ID": "somebody/loom"}).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--port", "x"], {}, ["--port", "1 to 65535", "“x”"]),
        (["--port", "0"], {}, ["--port", "1 to 65535"]),
        ([], {"LOOM_PORT": "70000"}, ["LOOM_PORT", "1 to 65535"]),
        ([], {"LOOM_MCP": "perhaps"}, ["LOOM_MCP", "true or false"]),
        (["--model", "sd9"], {}, ["--model", "pocket-sd3", "USER/REPO"]),
        (["--plan", "fp3"], {}, ["--plan", "full", "model-offload", "“fp3”"]),
        (["--speed", "fast"], {}, ["--speed", "auto", "plain", "“fast”"]),
        ([], {"LOOM_PLAN": "4bit"}, ["LOOM_PLAN", "t5-nf4"]),
        (["--data-dir", __file__], {}, ["--data-dir", "folder"]),
        (["--consent", "maybe"], {}, ["--consent", "none, recipe or picture"]),
        (["--log-dataset", "log"], {}, ["--log-dataset", "USER/REPO", "“log”"]),
        ([], {"LOOM_LOG_DATASET": "some body/log"}, ["LOOM_LOG_DATASET", "USER/REPO"]),
        (["--hosts", "http://x"], {}, ["--hosts", "loom.example.org"]),
        (["--colour", "red"], {}, ["--colour", "--help"]),
        (["--port"], {}, ["--port", "--help"]),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(argv: list[str], environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(WrongSetting) as caught:
        settings_from(argv, environ)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_help_explains_every_flag() -> None:
    done = subprocess.run([sys.executable, "app.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for flag in (
        "--host",
        "--port",
        "--share",
        "--mcp",
        "--model",
        "--plan",
        "--speed",
        "--data-dir",
        "--log-dataset",
        "--consent",
        "--hosts",
    ):
        assert flag in done.stdout
    assert "LOOM_DATA_DIR" in done.stdout


def test_a_data_folder_that_cannot_be_made_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    process = start(tmp_path / "file", "--port", str(free_port()))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert "choose another --data-dir" in err


def test_a_busy_port_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        process = start(tmp_path, "--port", str(taken.getsockname()[1]))
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert "is in use" in err


@pytest.mark.parametrize(("how", "host"), [(signal.SIGTERM, "127.0.0.1"), (signal.SIGINT, "[::1]")])
def test_it_says_when_it_is_ready_and_leaves_cleanly_when_told(
    how: signal.Signals, host: str, tmp_path: Path
) -> None:  # fmt: skip
    if host == "[::1]" and not reaches_ipv6():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    process = start(tmp_path, "--port", str(port), "--host", host.strip("[]"))
    reaper = threading.Timer(150, process.kill)
    reaper.start()
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        assert f"http://{host}:{port}" in line
        assert httpx.get(f"http://{host}:{port}").status_code == 200
        told = time.monotonic()
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in err
        assert time.monotonic() - told < 10  # about one second on a machine with nothing else to do
    finally:
        reaper.cancel()
        process.kill()


def test_a_fine_tune_to_begin_with_is_judged_before_anything_is_served(hub: EmulatedHub, tmp_path: Path) -> None:
    def refused(model: str) -> str:
        command = [sys.executable, "app.py", "--data-dir", str(tmp_path / "data"), "--model", model]
        environ = {**os.environ, "HF_ENDPOINT": hub.endpoint}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr.strip()

    hub.add_repo("painter/oils", repo_of("sdxl"))
    assert refused("painter/nowhere").startswith("The Hub shows no repo “painter/nowhere”")
    assert refused("painter/oils").startswith("painter/oils needs a GPU with about 12.5 GB")
    assert not hub.asked("safetensors")
