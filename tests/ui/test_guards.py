"""What strangers send that they should not: foreign names, deep and endless bodies, paths, and more than a file."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.route_utils import FileUploadProgress, FileUploadProgressNotTrackedError
from gradio.routes import file_upload_statuses
from gradio.utils import LRUCache
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.requests import Request

from tests.conftest import Served
from tests.ui.conftest import Visit
from tests.ui.fakes import FakeEngine
from tests.ui.test_api import INPUTS
from ui.hosts import Hosts, hosts_for
from ui.limits import too_deep
from ui.sweep import forget, sweep
from ui.uploads import MOST_FOLLOWED, forgetful
from ui.visitors import Visitors, network

ROOT = Path(__file__).parents[2]
LEAKS = ("Traceback", "site-packages", str(ROOT), 'File "', ".py", "passwd", "hf_")


def posted(server: Served, path: str, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", timeout=30, **options)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "10.0.0.1", "a@b", ""])
def test_a_foreign_host_gets_421_but_monitors_may_ask_by_any(server: Served, host: str) -> None:
    answer = httpx.get(server.url, headers={"host": host})
    assert (answer.status_code, "--hosts" in answer.text) == (421, True)
    assert httpx.get(f"{server.url}/healthz", headers={"host": host or "x"}).status_code == 200


@pytest.mark.parametrize("said", ["evil.example", "localhost, evil.example"])
def test_a_name_that_only_a_proxy_says_stands_nowhere_in_the_page(server: Served, said: str) -> None:
    page = httpx.get(server.url, headers={"x-forwarded-host": said})
    assert (page.status_code, "evil.example" in page.text) == (200, False)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://huggingface.co"])
def test_a_page_of_another_site_gets_403_whatever_it_asks(server: Served, origin: str) -> None:
    called = posted(server, "/gradio_api/call/models", json={"data": []}, headers={"origin": origin})
    assert called.status_code == 403
    assert "another site" in called.text
    assert httpx.get(f"{server.url}/config", headers={"origin": origin}).status_code == 403


def test_its_own_page_may_ask_by_any_name_of_home(server: Served) -> None:
    port = server.url.rpartition(":")[2]
    for name in ("localhost", "127.0.0.1"):
        headers = {"origin": f"http://{name}:{port}"}
        assert posted(server, "/gradio_api/call/models", json={"data": []}, headers=headers).status_code == 200


def test_which_names_are_known_follows_from_where_it_listens() -> None:
    home = hosts_for("127.0.0.1", frozenset(), "desk", None)
    assert [home.known(host) for host in ("localhost:7860", "[::1]:7860", "desk", "192.0.2.1")] == [1, 1, 0, 0]
    lan = hosts_for("0.0.0.0", frozenset({"loom.example.org"}), "Desk", None)
    known = ("desk:7860", "desk.local", "192.0.2.1:7860", "[2001:db8::1]", "loom.example.org", "localhost")
    assert all(lan.known(host) for host in known)
    assert not any(lan.known(host) for host in ("evil.example", "desk.evil.example", "loom.example.org.evil.example"))
    assert lan.may_ask("http://192.0.2.1:7860", "192.0.2.1:7860")
    assert lan.may_ask("https://loom.example.org", "127.0.0.1:7860")  # a proxy that ends TLS
    assert not lan.may_ask("http://192.0.2.1", "192.0.2.1:7860")
    assert not lan.may_ask("http://localhost:7860", "loom.example.org")
    space = hosts_for("0.0.0.0", frozenset(), "pod", "ann-loom.hf.space")
    assert space.known("ann-loom.hf.space")
    assert space.may_ask("https://ann-loom.hf.space", "ann-loom.hf.space")
    assert space.may_ask("https://huggingface.co", "ann-loom.hf.space")
    assert not space.may_ask("https://evil.example", "ann-loom.hf.space")
    assert b"https://huggingface.co" in dict(space.headers)[b"content-security-policy"]
    assert home.known("a1b2.gradio.live", "https://a1b2.gradio.live")
    assert not home.known("other.gradio.live", "https://a1b2.gradio.live")
    assert Hosts(frozenset({"*"})).known("anything.example")
    assert not Hosts(frozenset({"*"})).may_ask("http://evil.example", "anything.example")


def test_every_answer_says_what_a_browser_may_do_with_it(server: Served) -> None:
    for path in ("/", "/config", "/nowhere", "/healthz", "/theme.css"):
        headers = httpx.get(server.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "https:" not in headers["content-security-policy"]


def test_the_page_travels_compressed_and_what_gains_nothing_as_it_is(server: Served) -> None:
    plain = httpx.get(server.url, headers={"accept-encoding": "identity"})
    packed = httpx.get(server.url, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 3
    assert packed.text[:2000] == plain.text[:2000]
    called = httpx.post(f"{server.url}/gradio_api/call/models", json={"data": []}).json()
    with httpx.stream("GET", f"{server.url}/gradio_api/call/models/{called['event_id']}") as told:
        assert "content-encoding" not in told.headers
        assert "pocket-sd3" in told.read().decode()


def test_the_page_works_within_its_policy(server: Served, engine: FakeEngine, open_page: Visit) -> None:
    page = open_page(server.url)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.reload()
    page.locator("#generate").click()
    page.locator("#stage .said", has_text="carries its recipe").wait_for()
    for tab in ("LoRAs", "Compare", "History"):
        page.get_by_role("tab", name=tab).click()
    assert [text for text in said if "Content Security Policy" in text or "Refused to" in text] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"data":' * 100 + b"1" + b"}" * 100, 400),
        (b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}", 400),
        (b'{"data": [' + b"x" * 2_000_000, 413),
        (b"\xff\xfe", 422),
        (b'{"data": [' + b"9" * 5000 + b"]}", 400),
        (b"null", 422),
    ],
)
def test_a_body_that_nothing_can_come_of_is_refused_in_words(server: Served, body: bytes, status: int) -> None:
    for path in ("/gradio_api/call/generate", "/gradio_api/queue/join", "/gradio_api/run/predict"):
        answer = posted(server, path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        assert not any(leak in answer.text for leak in LEAKS)


@pytest.mark.parametrize("path", ["queue/join", "run/predict", "component_server"])
@pytest.mark.parametrize("name", ["x" * 100_000, "a<gradio-sep>b"])  # kept for each; and nobody could cancel
def test_a_session_of_an_odd_name_is_refused(server: Served, path: str, name: str) -> None:
    called = {"data": [], "fn_index": 0, "session_hash": name, "component_id": 1, "fn_name": "x"}
    answer = posted(server, f"/gradio_api/{path}", json=called)
    assert (answer.status_code, "session_hash must have at most 200 letters" in answer.text) == (400, True)


@pytest.mark.parametrize("path", ["upload", "upload_progress"])
def test_an_upload_of_a_long_name_is_refused(server: Served, path: str) -> None:
    where = f"{server.url}/gradio_api/{path}?upload_id={'x' * 300}"
    answer = httpx.post(where, files={"files": b"x"}) if path == "upload" else httpx.get(where)
    assert answer.status_code == 414


def test_of_uploads_that_were_asked_after_the_newest_are_remembered(server: Served) -> None:
    assert isinstance(file_upload_statuses._statuses, LRUCache)
    progress = FileUploadProgress()
    forgetful(progress)
    for number in range(MOST_FOLLOWED + 50):
        progress.track(f"upload{number}")
    assert len(progress._statuses) == len(progress._signals) == MOST_FOLLOWED
    progress.append("upload500", "a.png", b"xy")
    assert progress.pop("upload500").chunk_size == 2
    with pytest.raises(FileUploadProgressNotTrackedError):
        progress.pop("upload0")


def test_a_body_without_a_length_is_counted_as_it_comes(server: Served) -> None:
    """Over a bare socket: a client library goes on sending before it reads what it is told."""
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /gradio_api/call/generate HTTP/1.1\r\nHost: {host}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(head.encode())
        for _ in range(11):
            line.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")


def test_depth_is_counted_outside_texts() -> None:
    assert too_deep(b"[" * 65)
    assert not too_deep(b"[" * 64)
    assert not too_deep(b'["' + b"[" * 1000 + b'\\"' + b"[" * 1000 + b'"]')
    assert not too_deep(b"[]," * 1000)


def upload(server: Served, *files: tuple[str, bytes]) -> httpx.Response:
    return posted(server, "/gradio_api/upload", files=[("files", (name, data)) for name, data in files])


def picture_with_more() -> bytes:
    """A PNG that also carries a text and, behind its end, a page."""
    out, info = io.BytesIO(), PngInfo()
    info.add_text("GPS", "48.137 N, 11.575 E")
    Image.new("RGB", (128, 128), "red").save(out, "PNG", pnginfo=info)
    return out.getvalue() + b"<script>alert(1)</script>"


def test_what_is_uploaded_is_read_and_never_given_out(server: Served, engine: FakeEngine) -> None:
    (path,) = upload(server, ("mine.png", picture_with_more())).json()
    for form in (
        f"/gradio_api/file={path}",
        f"/gradio_api/file/{path}",
        f"/gradio_api/file={path.replace('/', '%2F')}",
    ):
        assert httpx.get(f"{server.url}/gradio_api/{form}", follow_redirects=True).status_code == 404
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [{"prompt": "x", "steps": 1, "image": file}.get(name) for name in INPUTS]
    event = posted(server, "/gradio_api/call/generate", json={"data": data}).json()["event_id"]
    said = httpx.get(f"{server.url}/gradio_api/call/generate/{event}", timeout=30).text
    item = json.loads(said.rpartition("data: ")[2])[0][0]
    drawn = httpx.get(item["image"]["url"]).content
    assert drawn.startswith(b"\x89PNG")
    assert b"48.137" not in drawn
    assert b"script" not in drawn
    assert httpx.get(f"{server.url}/gradio_api/file={path}").status_code == 404


@pytest.mark.parametrize("path", ["app.py", "/etc/passwd", "/gone/secret.txt"])
def test_the_refusal_of_a_file_says_no_path(server: Served, path: str) -> None:
    for door in ("file=", "file/"):
        refused = httpx.get(f"{server.url}/gradio_api/{door}{path}")
        assert refused.status_code in (403, 404)
        assert path not in refused.text
        assert str(ROOT) not in refused.text


def test_nothing_of_gradios_that_this_page_has_no_use_for_is_served(server: Served) -> None:
    for path in ("/gradio_api/deep_link?session_hash=x", "/monitoring", "/gradio_api/proxy=http://localhost/"):
        assert httpx.get(server.url + path).status_code == 404
    assert posted(server, "/gradio_api/process_recording", files={"video": b"x"}).status_code == 404


def test_no_call_opens_a_path_of_the_server_nor_says_more_than_a_sentence(
    server: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every event of the page, those that are not named too, whatever components it takes its values from."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    os.utime(secret, (1, 1))
    calls = [call for call in httpx.get(f"{server.url}/config").json()["dependencies"] if call["backend_fn"]]
    file = {"path": str(secret)}
    uploaded = file | {"meta": {"_type": "gradio.FileData"}}
    with httpx.Client(timeout=60) as client:
        for session, raw in (("one", file), ("two", [{"image": uploaded, "caption": None}])):
            for call in calls:
                body = {"data": [raw] * len(call["inputs"]), "fn_index": call["id"], "session_hash": session}
                joined = client.post(f"{server.url}/gradio_api/queue/join", json=body | {"event_data": raw})
                assert joined.status_code == 200, joined.text
            said = client.get(f"{server.url}/gradio_api/queue/data?session_hash={session}").text
            assert said.count("process_completed") == len(calls)
            assert not any(leak in said for leak in LEAKS if leak != ".py"), said  # which code to copy has
    assert secret.stat().st_atime == 1, "some call opened it"
    logged = capfd.readouterr().err
    assert "Traceback" not in logged
    assert str(secret) not in logged


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/gradio_api/call/nowhere", {"data": []}),
        ("/gradio_api/call/v2/nowhere", {"prompt": "x"}),
        ("/gradio_api/call/v2/generate", {"colour": "x"}),
        ("/gradio_api/queue/join", {"data": [], "fn_index": 99_999, "session_hash": "x"}),
        ("/gradio_api/queue/join", {"data": [], "fn_index": -1, "session_hash": "x"}),
        ("/gradio_api/run/nowhere", {"data": []}),
        ("/gradio_api/run/predict", {"data": [], "fn_index": 99_999}),
        ("/gradio_api/component_server", {"data": 1, "component_id": 99_999, "session_hash": "x", "fn_name": "y"}),
        ("/gradio_api/cancel", {"session_hash": "x", "fn_index": 0, "event_id": "y"}),
        ("/gradio_api/stream/x", {"data": []}),
        ("/login", {"username": "x", "password": "y"}),
    ],
)
def test_no_door_of_gradios_answers_with_more_than_a_sentence(
    server: Served, path: str, body: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = posted(server, path, json=body)
    assert answer.status_code < 500 or "log has it under" in answer.text
    assert not any(leak in answer.text for leak in LEAKS)
    assert "Traceback" not in capfd.readouterr().err


def test_networks_are_told_apart_and_this_machine_is_none() -> None:
    assert [network(host) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == ["", "", ""]
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") == network("192.0.2.1:80") == "192.0.2.1"
    assert network("ünknown").isascii()
    assert network("2001:db8:1:2::3") == network("2001:db8:1:2:ffff::1") != network("2001:db8:1:3::3")

    headers = {"x-forwarded-for": "198.51.100.9, 192.0.2.7"}
    request: Any = gr.Request(headers=headers, client={"host": "10.0.0.1"}, session_hash="s")
    assert Visitors(behind_proxy=True).network_of(request) == "192.0.2.7"
    assert Visitors().network_of(request) == "10.0.0.1"
    through: Any = gr.Request(headers={"x-forwarded-for": "192.0.2.9, 192.0.2.7, 10.20.0.3"}, client={"host": "::1"})
    assert Visitors(behind_proxy=True).network_of(through) == "192.0.2.7"
    for host, peer, port, found in (
        ("loom.gradio.live", "127.0.0.1", 5000, "192.0.2.7"),  # a share link's tunnel ends on this machine
        ("loom.gradio.live", "10.20.0.3", 0, "192.0.2.7"),  # the same, as uvicorn reads its chain
        ("loom.gradio.live", "10.20.0.3", 5000, "10.20.0.3"),  # from the same house, by the link's name
        ("loom.example.org", "198.51.100.4", 0, "198.51.100.4"),  # a proxy that uvicorn knows: it has read the chain
        ("loom.example.org", "10.0.0.5", 0, "10.0.0.5"),
        ("loom.gradio.live", "198.51.100.4", 5000, "198.51.100.4"),  # who only says so
        ("localhost:7860", "127.0.0.1", 5000, ""),
    ):
        asked = Request({
            "type": "http", "client": (peer, port),
            "headers": [
                (b"host", host.encode()), (b"x-forwarded-for", b"8.8.8.8"),
                (b"x-forwarded-for", b"192.0.2.9, 192.0.2.7:4412, 10.20.0.3"),
            ],
        })  # fmt: skip
        assert Visitors().network_of(asked) == found, host
    assert "10.0.0.1" not in repr(Visitors().of(request))


def test_what_is_old_is_swept_and_the_oldest_goes_where_there_is_no_room(tmp_path: Path) -> None:
    for name in ("a/look-1.png", "b/picture.png", "c/upload.png"):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_bytes(b"x" * 1000)
        time.sleep(0.02)

    def left() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())

    sweep(tmp_path, time.time())
    assert left() == ["look-1.png", "picture.png", "upload.png"]
    sweep(tmp_path, time.time() + 700)
    assert left() == ["picture.png", "upload.png"]
    sweep(tmp_path, time.time() + 700, most=1500)
    assert left() == ["upload.png"]
    sweep(tmp_path, time.time() + 27 * 3600)
    sweep(tmp_path, time.time() + 50 * 3600)
    assert list(tmp_path.iterdir()) == []


def test_what_is_gone_for_a_while_is_forgotten(tmp_path: Path) -> None:
    kept, gone, coming = (str(tmp_path / name) for name in ("kept", "gone", "coming"))
    Path(kept).touch()
    known = [{kept, gone}, {coming}]
    absent = forget(known, set())
    Path(coming).touch()  # an upload is known a moment before it lies there
    forget(known, absent)
    assert known == [{kept}, {coming}]
