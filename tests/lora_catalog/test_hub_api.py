"""The Hub's HTTP interface over real HTTP: what it gives, and each fault as its own sentence."""

from __future__ import annotations

import time
from typing import Any

import pytest

from lora_catalog.errors import (
    BadToken,
    Broken,
    FileGone,
    Gated,
    HubBusy,
    HubUnreachable,
    NotShown,
    Renamed,
    RevisionGone,
    SentElsewhere,
    TooLarge,
)
from lora_catalog.hub import api as module
from lora_catalog.hub.api import HubApi
from tests.hub import EmulatedHub, faults
from tests.hub.answers import Answer

WEIGHTS = bytes(range(256)) * 2048  # 512 KiB
ANN = "hf_of_ann"


@pytest.fixture
def neon(hub: EmulatedHub) -> str:
    """The commit of a repo with one file."""
    return hub.add_repo("weaver/neon", {"neon.safetensors": WEIGHTS}, {"license": "mit"}, ["lora"], downloads=7)


@pytest.fixture
def api(hub: EmulatedHub) -> HubApi:
    return HubApi(hub.endpoint, sleep=lambda seconds: None)


def read(api: HubApi, commit: str, token: str | None = None) -> bytes:
    with api.chunks("weaver/neon", commit, "neon.safetensors", token) as chunks:
        return b"".join(chunks)


def test_a_repo_comes_with_its_commit_its_files_and_their_hashes(api: HubApi, neon: str) -> None:
    info = api.repo("weaver/neon", None, None)
    (file,) = [s for s in info.siblings or () if s.rfilename == "neon.safetensors"]
    assert (info.sha, file.size, file.lfs is not None) == (neon, len(WEIGHTS), True)


def test_a_listing_pages_and_an_unchanged_one_costs_no_models(hub: EmulatedHub, api: HubApi) -> None:
    for number in range(5):
        hub.add_repo(f"weaver/l{number}", {}, {"license": "mit"}, ["lora"], downloads=number)
    first = api.models(["lora", "license:mit"], "", "downloads", limit=2)
    assert [model.id for model in first.models] == ["weaver/l4", "weaver/l3"]
    assert first.next is not None
    assert [model.id for model in api.more_models(first.next).models] == ["weaver/l2", "weaver/l1"]
    again = api.models(["lora", "license:mit"], "", "downloads", limit=2, etag=first.etag)
    assert again.unchanged
    assert again.models == ()


def test_a_next_page_on_another_host_is_not_asked_for(hub: EmulatedHub, api: HubApi) -> None:
    with pytest.raises(SentElsewhere):
        api.more_models(f"{hub.elsewhere}/api/models?cursor=x")
    assert hub.asked(site="elsewhere") == []


@pytest.mark.parametrize("cdn", [False, True])
def test_the_start_of_a_file_is_one_ranged_request(hub: EmulatedHub, api: HubApi, neon: str, cdn: bool) -> None:
    hub.cdn = cdn
    start = api.part_of("weaver/neon", neon, "neon.safetensors", 0, 1000, None)
    assert (start.data, start.size) == (WEIGHTS[:1000], len(WEIGHTS))
    assert all("range" in asked.headers for asked in hub.asked("neon.safetensors"))
    later = api.part_of("weaver/neon", neon, "neon.safetensors", 1000, 10, None)
    assert (later.data, later.size) == (WEIGHTS[1000:1010], len(WEIGHTS))


def test_a_file_shorter_than_the_range_comes_whole(hub: EmulatedHub, api: HubApi) -> None:
    sha = hub.add_repo("weaver/tiny", {"t.safetensors": b"12345"})
    start = api.part_of("weaver/tiny", sha, "t.safetensors", 0, 1000, None)
    assert (start.data, start.size) == (b"12345", 5)


def test_a_server_that_ignores_ranges_gives_the_same_bytes(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    hub.fail("neon.safetensors", faults.ignored_range(), times=2)
    for begin in (0, 1000):
        part = api.part_of("weaver/neon", neon, "neon.safetensors", begin, 1000, None)
        assert (part.data, part.size) == (WEIGHTS[begin : begin + 1000], len(WEIGHTS))


def test_the_token_goes_to_the_hub_and_never_to_its_cdn(hub: EmulatedHub, api: HubApi) -> None:
    hub.cdn = True
    sha = hub.add_repo("weaver/neon", {"neon.safetensors": WEIGHTS}, private=True, readers=[ANN])
    assert read(api, sha, ANN) == WEIGHTS
    assert {asked.token for asked in hub.asked(site="hub")} == {ANN}
    assert {asked.token for asked in hub.asked(site="cdn")} == {None}


def test_a_visitor_without_a_token_sends_none(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    read(api, neon)
    assert {asked.token for asked in hub.requests} == {None}


def test_a_redirect_to_a_foreign_host_is_not_followed(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    hub.fail("neon.safetensors", faults.sent_to(f"{hub.elsewhere}/neon.safetensors"))
    with pytest.raises(SentElsewhere, match="localhost"):
        read(api, neon)
    assert hub.asked(site="elsewhere") == []


def test_redirects_in_a_circle_end(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    hub.fail("neon.safetensors", faults.sent_to(f"/weaver/neon/resolve/{neon}/neon.safetensors"), times=50)
    with pytest.raises(HubUnreachable, match="circles"):
        read(api, neon)


def test_missing_and_private_repos_are_told_with_what_to_do(hub: EmulatedHub, api: HubApi) -> None:
    hub.add_repo("weaver/secret", private=True, readers=[ANN])
    hub.add_user("hf_of_bob")
    with pytest.raises(NotShown, match="private, which needs your own Hub token"):
        api.repo("weaver/secret", None, None)
    with pytest.raises(NotShown, match="your token may not read it"):
        api.repo("weaver/secret", None, "hf_of_bob")
    with pytest.raises(NotShown):
        api.repo("weaver/never", None, None)


def test_a_token_that_the_hub_does_not_know_is_told_as_such(api: HubApi, neon: str) -> None:
    with pytest.raises(BadToken, match="give a valid one, or none"):
        api.repo("weaver/neon", None, "hf_nobody_has_this")


def test_a_gated_repo_names_where_to_accept_its_terms(hub: EmulatedHub, api: HubApi) -> None:
    sha = hub.add_repo("weaver/neon", {"neon.safetensors": WEIGHTS}, gated="manual", readers=[ANN])
    hub.add_user("hf_of_bob")
    with pytest.raises(Gated, match=f"{hub.endpoint}/weaver/neon, then come back with your own Hub token"):
        read(api, sha)
    with pytest.raises(Gated, match="wait until its author has accepted you"):
        api.may_read("weaver/neon", sha, "neon.safetensors", "hf_of_bob")
    api.may_read("weaver/neon", sha, "neon.safetensors", ANN)


def test_a_renamed_repo_names_its_new_name(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    hub.rename("weaver/neon", "weaver/neon-lights")
    with pytest.raises(Renamed, match="weaver/neon-lights"):
        api.repo("weaver/neon", None, None)


def test_a_revision_and_a_file_that_are_not_there_are_told_apart(api: HubApi, neon: str) -> None:
    with pytest.raises(RevisionGone, match="without it"):
        api.repo("weaver/neon", "v9", None)
    with pytest.raises(FileGone):
        api.part_of("weaver/neon", neon, "other.safetensors", 0, 10, None)


@pytest.mark.parametrize(
    "fault",
    [faults.status(502), faults.status(503), faults.cut(None), faults.cut(None, reset=True)],
    ids=["502", "503", "cut", "reset"],
)
def test_a_passing_fault_is_met_by_asking_again(hub: EmulatedHub, api: HubApi, neon: str, fault: Any) -> None:
    hub.fail("weaver/neon", fault, times=2)
    assert api.repo("weaver/neon", None, None).sha == neon


def test_a_fault_that_stays_is_told(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    hub.fail("weaver/neon", faults.status(500), times=9)
    with pytest.raises(HubUnreachable, match="error 500"):
        api.repo("weaver/neon", None, None)
    assert len(hub.asked("weaver/neon")) == 1 + len(module.PAUSES)


@pytest.mark.parametrize("fault", [faults.too_many("30"), faults.rate_limited(30)], ids=["Retry-After", "RateLimit"])
def test_where_the_hub_asks_to_wait_nothing_is_asked_meanwhile(
    hub: EmulatedHub, api: HubApi, neon: str, fault: Any
) -> None:
    hub.fail("/api/models", fault)
    for _ in range(3):
        with pytest.raises(HubBusy, match=r"wait (29|30) s"):
            api.repo("weaver/neon", None, None)
    assert len(hub.asked("/api/models")) == 1
    assert read(api, neon) == WEIGHTS  # files have a budget of their own


def test_a_short_wait_is_simply_waited_for(hub: EmulatedHub, neon: str) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    hub.fail("/api/models", faults.too_many("1"))
    assert HubApi(hub.endpoint, sleep).repo("weaver/neon", None, None).sha == neon
    assert 0.5 < sum(slept) <= 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("Fri, 01 Jan 2100 00:00:00 GMT", module.MOST_WAIT), ("Fri, 9999999999999999 Dec", 60), ("soon", 60)],
)
def test_a_retry_after_is_a_date_too_or_whatever(
    hub: EmulatedHub, api: HubApi, neon: str, said: str, seconds: float
) -> None:
    hub.fail("/api/models", faults.too_many(said))
    with pytest.raises(HubBusy, match=f"wait {seconds:.0f} s"):
        api.repo("weaver/neon", None, None)


@pytest.mark.parametrize(
    "fault",
    [
        faults.not_json(),
        faults.html_page(),
        faults.other_content(b"[1, null]"),
        faults.other_content(b'{"id": 7}'),
        faults.sent_to("http://[broken/x"),
        faults.instead(Answer(200, {"Content-Encoding": "gzip", "Content-Type": "application/json"}, b"no gzip")),
    ],
    ids=["not JSON", "HTML", "a list", "no name", "a broken address", "no gzip"],
)
def test_an_answer_that_makes_no_sense_is_told(hub: EmulatedHub, api: HubApi, neon: str, fault: Any) -> None:
    hub.fail("/api/models/weaver/neon", fault)
    with pytest.raises(HubUnreachable, match="makes no sense"):
        api.repo("weaver/neon", None, None)


def test_an_answer_without_end_is_given_up(hub: EmulatedHub, api: HubApi, neon: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LARGEST_ANSWER", 100_000)
    hub.fail("/api/models/weaver/neon", faults.endless())
    with pytest.raises(HubUnreachable, match="does not end"):
        api.repo("weaver/neon", None, None)


@pytest.mark.parametrize(
    "fault",
    [faults.cut(1000), faults.cut(1000, reset=True), faults.lying_length(100)],
    ids=["cut", "reset", "a lying length"],
)
def test_a_cut_body_is_broken(hub: EmulatedHub, api: HubApi, neon: str, fault: Any) -> None:
    hub.fail("neon.safetensors", fault)
    with pytest.raises(Broken, match="cut"):
        read(api, neon)


def test_a_stalled_hub_is_given_up(hub: EmulatedHub, api: HubApi, neon: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    hub.fail("/api/models/weaver/neon", faults.stalled(5), times=9)
    with pytest.raises(HubUnreachable, match="in time"):
        api.repo("weaver/neon", None, None)
    hub.fail("neon.safetensors", faults.stalled(5, after=100))
    with pytest.raises(Broken, match="stopped sending"):
        read(api, neon)


def test_a_hub_that_is_down_is_told_without_its_address(hub: EmulatedHub) -> None:
    api = HubApi("http://127.0.0.1:9", sleep=lambda seconds: None)
    for _ in range(2):
        with pytest.raises(HubUnreachable, match="cannot be reached from here") as told:
            api.repo("weaver/neon", None, None)
        assert "127.0.0.1" not in str(told.value)


def test_a_small_file_may_not_grow(hub: EmulatedHub, api: HubApi, neon: str) -> None:
    with pytest.raises(TooLarge):
        api.picture("weaver/neon", "neon.safetensors", 1000)


def test_a_picture_is_asked_for_once_and_not_waited_for_long(
    hub: EmulatedHub, api: HubApi, neon: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "_HASTE", 0.2)
    monkeypatch.setattr(module, "SLOWEST_PICTURE", 0.3)
    hub.fail("neon.safetensors", faults.status(503), times=1)
    with pytest.raises(HubUnreachable):
        api.picture("weaver/neon", "neon.safetensors", 10**7)
    hub.fail("neon.safetensors", faults.stalled(5), times=1)
    with pytest.raises(HubUnreachable):
        api.picture("weaver/neon", "neon.safetensors", 10**7)
    hub.fail("neon.safetensors", faults.throttled(100_000), times=1)
    with pytest.raises(Broken, match="too slowly"):
        api.picture("weaver/neon", "neon.safetensors", 10**7)
    assert api.picture("weaver/neon", "neon.safetensors", 10**7) == WEIGHTS  # and silences nothing else


def test_a_hub_that_is_down_or_stalls_is_not_tried_by_everyone(
    hub: EmulatedHub, api: HubApi, neon: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", 0.2)
    hub.fail("/api/models/weaver/neon", faults.stalled(5), times=9)
    for _ in range(5):
        with pytest.raises(HubUnreachable, match="in time"):
            api.repo("weaver/neon", None, None)
    assert len(hub.asked("/api/models/weaver/neon")) == 1
