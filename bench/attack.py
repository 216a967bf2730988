"""What a hostile visitor gets: python -m bench.attack [--json FILE] [--no-chromium].

The app with a stub model (bench/stub.py) beside an emulated Hub, both on this machine, with its tools for assistants on
and a token in its environment. Over HTTP: refs, paths, addresses, hosts, sizes, depths, names and pictures that mean
harm, also on the page's private events. In Chromium: cards with scripts in them (bench/attack_cards.py). A table of
attack, what is expected, and what happened; at the end the log and all answers are searched for the token, for paths
of the server and for tracebacks. The exit code is 1 where anything happened that was not expected.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bench.attack_files import files
from bench.attack_target import FILE, SECRET, SOON, Outcome, Target, sentence
from bench.served import API, ROOT, served
from tests.hub import EmulatedHub

TOKEN = "hf_" + "s3cretT0kenOfTheOwner" * 2
AT_ONCE = 1.5  # seconds for an answer that needs nothing; a second, and what two busy cores take
REFS = (
    "/etc/passwd", "../../etc/passwd", "local:../../../etc/passwd", "local:/etc/passwd",
    "local:..\\..\\secret.safetensors",
    "bundled:../../../etc/passwd", "bundled:%2e%2e/secret", "local:secret.safetensors\x00.png", "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data", "https://evil.example/a/b/resolve/main/x.safetensors",
    "https://huggingface.co.evil.example/a/b", "https://huggingface.co@evil.example/a/b", "//evil.example/a/b",
    "a/b@../../x", "a/b:../../../etc/passwd", "a/b@main:/etc/passwd", "a/../b", "user/repo\u202e:x.safetensors",
    "ｕser/repo",
    "user/re\u200bpo", "\U000e0041/b", "a/b:x.bin", "a/b:x.SAFETENSORS.pkl", "\r\nHost: evil.example", "a" * 10_000,
    "", " ",
)  # fmt: skip
UNSERVED = (
    "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../etc/passwd", "/gradio_api/file=/proc/self/environ",
    "/gradio_api/file={data}/journal.sqlite", "/gradio_api/file={data}/secret.txt", "/gradio_api/file={root}/app.py",
    "/gradio_api/file=app.py", "/gradio_api/file=..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/gradio_api/file={cache}/../secret.txt",
    "/gradio_api/file=http://127.0.0.1:{other}/x", "/gradio_api/file=https://evil.example/x",
    "/gradio_api/proxy=http://127.0.0.1:{other}/x", "/static/..%2f..%2f..%2fapp.py", "/assets/..%2f..%2f..%2fapp.py",
    "/svelte/..%2f..%2f..%2fapp.py", "/gradio_api/custom_component/1/client/component/..%2f..%2fx",
    "/login", "/monitoring",
    "/monitoring/summary", "/gradio_api/dev/reload", "/gradio_api/vibe-code", "/gradio_api/profiling/traces", "/runs",
    "/gradio_api/runs", "/.git/config", "/docs", "/redoc", "/openapi.json",
)  # fmt: skip


def refs(target: Target) -> None:
    for ref in REFS:
        for endpoint, fields in (
            ("inspect_lora", {"ref": ref}),
            ("generate", {"prompt": "x", "loras": [{"ref": ref}]}),
        ):
            kind, text, seconds = target.said(endpoint, **fields)
            fine = kind == "error" and sentence(text) and seconds < AT_ONCE
            target.note(f"{endpoint}: ref {ref!r}", "a sentence, at once", f"{kind} {seconds:.1f} s: {text}", fine)


def paths(target: Target) -> None:
    """A path, or an address, wherever a file may be given: on every event of the page, public and private."""
    config = target.ask("GET", "/config").json()
    kinds = {block["id"]: block["type"] for block in config["components"]}
    secret = target.folder / "data" / "secret.txt"
    bad, tried = [], 0
    for event in config["dependencies"]:
        files = [
            n for n, block in enumerate(event["inputs"]) if kinds[block] in ("file", "image", "imageeditor", "gallery")
        ]
        others = [n for n, block in enumerate(event["inputs"]) if n not in files][:2]
        for number in files + others:
            for path in (str(secret), f"http://127.0.0.1:{target.other}/x.png"):
                given: Any = {"path": path, "meta": FILE, "url": path}
                if kinds[event["inputs"][number]] == "gallery":
                    given = [{"image": given, "caption": None}]
                if kinds[event["inputs"][number]] == "imageeditor":
                    given = {"background": given, "layers": [], "composite": given}
                data = [given if n == number else None for n in range(len(event["inputs"]))]
                body = {"data": data, "fn_index": event["id"], "session_hash": f"paths{tried}"}
                tried += 1
                if target.ask("POST", f"{API}/queue/join", json=body).status_code == httpx.codes.OK:
                    text = _to_end(target, f"paths{tried - 1}")
                    if SECRET.decode() in text:
                        bad.append(f"event {event['api_name']}: read")
    copies = target.copies()
    happened = f"{tried} tried, {copies} copies, {len(bad)} read {bad[:3]}"
    target.note(
        "paths and addresses as files, on every event", "none read, copied or fetched", happened, not (bad or copies)
    )


def _to_end(target: Target, session: str) -> str:
    """What a session hears until its event is done, or until it hears nothing for a while."""
    lines: list[str] = []
    try:
        stream = target.client.stream("GET", f"{API}/queue/data", params={"session_hash": session}, timeout=5)
        with stream as said:
            for line in said.iter_lines():
                lines.append(line)
                if any(word in line for word in ("process_completed", "unexpected_error", "close_stream", "heartbeat")):
                    break
    except httpx.HTTPError as error:
        lines.append(type(error).__name__)
    target.answers.append("\n".join(lines)[:100_000])
    return "\n".join(lines)


def unserved(target: Target) -> None:
    at = {
        "data": target.folder / "data", "root": ROOT, "cache": target.cache, "other": target.other,
    }  # fmt: skip
    for path in UNSERVED:
        try:
            answer = target.ask("GET", path.format(**at), timeout=3)
        except httpx.TimeoutException:
            target.note(f"GET {path}", "refused (4xx)", "an answer without end", False)
            continue
        fine = answer.status_code in range(400, 500) and SECRET.decode() not in answer.text
        target.note(f"GET {path}", "refused (4xx)", f"HTTP {answer.status_code}: {answer.text[:60]}", fine)
    direct = target.ask("POST", f"{API}/run/generate", json={"data": [None] * 19})
    target.note(
        "POST /run/generate, around the queue",
        "refused (4xx)",
        f"HTTP {direct.status_code}",
        direct.status_code // 100 == 4,
    )
    link = target.ask("GET", "/gradio_api/deep_link", params={"session_hash": "paths0"})
    kept = [path for path in target.cache.rglob("state.json") if path.stat().st_size > 2]
    target.note(
        "another session's form by deep link", "nothing of it", f"HTTP {link.status_code}, {len(kept)} kept", not kept
    )


def hosts(target: Target) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil.example#127.0.0.1"):
        answer = target.ask("GET", "/", headers={"host": host})
        target.note(f"Host: {host}", "refused (4xx)", f"HTTP {answer.status_code}", answer.status_code // 100 == 4)
    for origin in ("http://evil.example", "null", "https://127.0.0.1.evil.example"):
        body = {"data": [], "fn_index": 0, "session_hash": "x"}
        for path, how in (("/queue/join", {"json": body}), ("/upload", {"files": {"files": ("a.png", b"x")}})):
            answer = target.ask("POST", API + path, headers={"origin": origin}, **how)
            target.note(
                f"POST {path}, Origin: {origin}",
                "refused (4xx)",
                f"HTTP {answer.status_code}",
                answer.status_code // 100 == 4,
            )
        reflected = target.ask("GET", "/config", headers={"origin": origin}).headers.get("access-control-allow-origin")
        target.note(f"read by a page of {origin}", "not allowed", reflected, reflected is None)
    answer = target.ask("GET", "/", headers={"x-forwarded-host": "evil.example"})
    target.note(
        "X-Forwarded-Host: evil.example",
        "not believed",
        "evil.example" in answer.text,
        "evil.example" not in answer.text,
    )


def sizes(target: Target) -> None:
    big = json.dumps({"prompt": "x" * 3_000_000})
    deep = '{"recipe":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}"
    many = json.dumps({"prompt": "x", "loras": [{"ref": "bundled:x"}] * 30_000})
    number = '{"prompt":"x","seed":' + "9" * 100_000 + "}"
    for name, body in (
        ("3 MB prompt", big),
        ("50,000 levels", deep),
        ("30,000 LoRAs", many),
        ("100,000 digits", number),
    ):
        began = time.monotonic()
        try:
            answer = target.ask(
                "POST", f"{API}/call/v2/generate", content=body, headers={"content-type": "application/json"}
            )
            happened = f"HTTP {answer.status_code}"
            fine = answer.status_code // 100 == 4
            if answer.status_code == httpx.codes.OK:
                end = target.ask("GET", f"{API}/call/generate/{answer.json()['event_id']}").text
                happened, fine = end[:90], "event: error" in end
        except httpx.HTTPError as error:
            happened, fine = type(error).__name__, True
        seconds = time.monotonic() - began
        alive = target.alive()
        target.note(
            f"body: {name}", "refused, lives on", f"{happened}, {seconds:.1f} s, alive: {alive}", fine and alive
        )
    for name, path, size in (
        ("2 GB JSON announced", "/queue/join", 2 * 10**9),
        ("8 GB upload announced", "/upload", 8 * 10**9),
    ):
        happened = _announced(target.url, API + path, size)
        target.note(name, "refused before it is sent", happened, " 4" in happened)
    happened = _announced(target.url, API + "/queue/join", None)
    target.note("JSON without end", "ended", happened, happened != "still read")
    long = target.ask("GET", "/?recipe=" + "a" * 65_000)
    target.note(
        "an address of 65,000 letters", "refused (4xx)", f"HTTP {long.status_code}", long.status_code // 100 == 4
    )


def _announced(url: str, path: str, size: int | None) -> str:
    """The first line of the answer to a request that says so much of its body, or that never stops sending one."""
    at = urlsplit(url)
    with socket.create_connection((str(at.hostname), at.port or 80), timeout=SOON) as wire:
        length = f"Content-Length: {size}" if size else "Transfer-Encoding: chunked"
        kind = "multipart/form-data; boundary=x" if path.endswith("upload") else "application/json"
        wire.sendall(f"POST {path} HTTP/1.1\r\nHost: {at.netloc}\r\nContent-Type: {kind}\r\n{length}\r\n\r\n".encode())
        try:
            for _ in range(300 if size is None else 0):
                wire.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
            return wire.recv(100).decode("latin-1").partition("\r\n")[0] or "closed"
        except TimeoutError:
            return "still read"
        except OSError as error:
            return type(error).__name__


def tools(target: Target) -> None:
    """The same by MCP."""
    secret = str(target.folder / "data" / "secret.txt")
    given: tuple[tuple[str, dict[str, Any]], ...] = (
        ("read_recipe", {"image": secret}), ("read_recipe", {"image": f"file://{secret}"}),
        ("read_recipe", {"image": {"path": secret, "meta": FILE}}),
        ("read_recipe", {"image": f"http://127.0.0.1:{target.other}/x"}),
        ("upload_lora", {"file": f"{target.url}{API}/file={secret}"}),
        ("generate", {"prompt": "x", "loras": [{"ref": "bundled:x", "path": secret, "meta": FILE}]}),
        ("generate", {"recipe": {"path": "/dev/zero", "meta": FILE}}), ("no_such_tool", {}),
    )  # fmt: skip
    accept = {"accept": "application/json, text/event-stream"}
    for name, arguments in given:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        answer = target.ask("POST", f"{API}/mcp/", json=body, headers=accept).text
        fine = '"isError":true' in answer and target.copies() == 0
        target.note(f"tool {name}: {json.dumps(arguments)[:60]}", "a sentence, nothing copied", answer[-160:], fine)


def traces(target: Target, listened: list[str]) -> None:
    """What stands in the answers and in the log after all of it."""
    log = (target.folder / "log").read_text(encoding="utf-8")
    everything = "\n".join(target.answers)
    for name, where in (("answers", everything), ("log", log)):
        target.note(f"the owner's token in the {name}", "never", where.count(TOKEN), TOKEN not in where)
        target.note(f"tracebacks in the {name}", "none", where.count("Traceback (most"), "Traceback (most" not in where)
    ours = "|".join(re.escape(str(place)) for place in (target.folder, ROOT))
    files = re.compile(rf"{re.escape(str(target.cache))}/[0-9a-f]{{40,}}/")  # by which Gradio's clients name a file
    paths = [line for line in everything.splitlines() if re.search(ours, files.sub("", line))]
    target.note("paths of the server in the answers", "none", paths[:1] or 0, not paths)
    target.note("requests to another host", "none", listened[:3], not listened)
    target.note("the app", "lives on", target.alive(), target.alive())


@contextmanager
def another_host() -> Iterator[tuple[int, list[str]]]:
    """A port that nobody has a reason to speak to, and who did."""
    heard: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                wire, _ = listener.accept()
            except OSError:
                return
            wire.settimeout(1)
            with wire:
                heard.append(wire.recv(100).decode("latin-1").partition("\r\n")[0])
                wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    threading.Thread(target=listen, daemon=True).start()
    yield listener.getsockname()[1], heard
    listener.close()


ROUNDS: tuple[Callable[[Target], None], ...] = (refs, paths, unserved, hosts, sizes, files, tools)


def attacked(folder: Path, rounds: Sequence[Callable[[Target], None]], chromium: bool) -> list[Outcome]:
    (folder / "data" / "loras").mkdir(parents=True)
    for place in (folder / "data" / "secret.txt", folder / "secret.txt"):
        place.write_bytes(SECRET)
    (folder / "device").touch()
    hub = EmulatedHub()
    with hub.running(), another_host() as (other, heard):
        environ = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        module = ("-m", "bench.stub", "0.05", str(folder / "device"))
        if chromium:
            from bench.attack_cards import stock

            stock(hub, folder / "data" / "loras")
        with served(folder, "--model", "pocket-sd3", "--mcp", module=module, environ=environ) as app:
            target = Target(app.url, folder, other)
            for attack in rounds:
                began = time.monotonic()
                attack(target)
                print(f"{attack.__name__}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if chromium:
                from bench.attack_cards import cards

                cards(target)
            traces(target, heard)
    return target.found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", nargs="*", choices=[attack.__name__ for attack in ROUNDS], help="only these")
    parser.add_argument("--no-chromium", action="store_true", help="leave out what needs a browser")
    parser.add_argument("--all", action="store_true", help="print also what went as expected")
    parser.add_argument("--json", type=Path, help="write the whole table there")
    asked = parser.parse_args(arguments)
    rounds = [attack for attack in ROUNDS if asked.rounds is None or attack.__name__ in asked.rounds]
    os.environ.pop("HF_TOKEN", None)
    with tempfile.TemporaryDirectory() as name:
        found = attacked(Path(name), rounds, not asked.no_chromium)
    findings = [row for row in found if not row.well]
    print("| attack | expected | what happened | |\n|---|---|---|---|")
    for row in found if asked.all else findings:
        print(f"| {row.attack} | {row.expected} | {row.happened} | {'' if row.well else 'FINDING'} |")
    print(f"\n{len(found)} attacks, {len(findings)} findings")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in found], indent=1), encoding="utf-8")
    return int(bool(findings))


if __name__ == "__main__":
    raise SystemExit(main())
