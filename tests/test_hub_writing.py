"""The emulated Hub's writing side, as the real huggingface_hub client meets it."""

from __future__ import annotations

import json

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from tests.hub import EmulatedHub, faults

LOG = "ann/log"
CARD = b"---\nlicense: mit\ntags: [lora]\n---\n# Log\n"


@pytest.fixture
def api(hub: EmulatedHub) -> HfApi:
    """Ann's."""
    hub.add_user("hf_ann", "ann")
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


@pytest.fixture
def log(api: HfApi) -> HfApi:
    """Ann's, who has a dataset now."""
    api.create_repo(LOG, repo_type="dataset", private=True)
    return api


def add(api: HfApi, files: dict[str, bytes], parent: str | None = None, gone: tuple[str, ...] = ()) -> str:
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    deleted = [CommitOperationDelete(path) for path in gone]
    info = api.create_commit(
        LOG, [*operations, *deleted], commit_message="x", repo_type="dataset", parent_commit=parent
    )
    return info.oid


def head(hub: EmulatedHub) -> dict[str, bytes]:
    return {path: file.data for path, file in hub.repo(LOG, "datasets").head.files.items()}


def refused(caught: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return caught.value.response.status_code


def test_a_new_repo_is_private_and_is_not_made_twice(hub: EmulatedHub, log: HfApi) -> None:
    assert log.repo_info(LOG, repo_type="dataset").private
    log.create_repo(LOG, repo_type="dataset", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as caught:
        log.create_repo(LOG, repo_type="dataset")
    assert refused(caught) == 409
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.endpoint, token=False).repo_info(LOG, repo_type="dataset")


def test_nobody_makes_a_repo_in_anothers_name(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("bob/log", repo_type="dataset")
    assert refused(caught) == 403


def test_a_commit_brings_text_and_large_files_and_takes_others_away(hub: EmulatedHub, log: HfApi) -> None:
    first = add(log, {"README.md": CARD, "data/1.parquet": b"PAR1 one", "note.txt": b"x"})
    assert log.repo_info(LOG, repo_type="dataset").sha == first
    assert hub.repo(LOG, "datasets").tags[:2] == ["lora", "license:mit"]
    assert [asked.method for asked in hub.asked(site="cdn")] == ["PUT"]
    add(log, {"data/2.parquet": b"PAR1 two"}, gone=("data/1.parquet",))
    assert {*head(hub)} == {".gitattributes", "README.md", "note.txt", "data/2.parquet"}
    (facts,) = log.get_paths_info(LOG, ["data/2.parquet"], repo_type="dataset")
    assert facts.lfs.size == 8  # type: ignore[union-attr]


def test_what_is_there_already_is_neither_uploaded_nor_committed_again(hub: EmulatedHub, log: HfApi) -> None:
    first = add(log, {"data/1.parquet": b"PAR1 one"})
    assert add(log, {"data/1.parquet": b"PAR1 one"}) == first
    add(log, {"data/copy.parquet": b"PAR1 one"})
    assert len(hub.asked(site="cdn", method="PUT")) == 1


def test_a_commit_on_an_old_parent_is_refused(log: HfApi) -> None:
    first = add(log, {"a.txt": b"a"})
    add(log, {"b.txt": b"b"}, parent=first)
    with pytest.raises(HfHubHTTPError) as caught:
        add(log, {"c.txt": b"c"}, parent=first)
    assert refused(caught) == 412


def test_a_commit_comes_whole_or_not_at_all(hub: EmulatedHub, log: HfApi) -> None:
    before = head(hub)
    with pytest.raises(EntryNotFoundError):
        add(log, {"a.txt": b"a"}, gone=("absent.txt",))
    unstored = {"path": "data/1.parquet", "algo": "sha256", "oid": "0" * 64, "size": 3}
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "lfsFile", "value": unstored}]
    body = "\n".join(json.dumps(line) for line in lines)
    headers = {"Authorization": "Bearer hf_ann"}
    answer = httpx2.post(f"{hub.endpoint}/api/datasets/{LOG}/commit/main", content=body, headers=headers)
    assert (answer.status_code, "missing object" in answer.text) == (400, True)
    assert head(hub) == before


def test_a_torn_card_is_refused_before_anything_is_sent(hub: EmulatedHub, log: HfApi) -> None:
    with pytest.raises((BadRequestError, ValueError), match="Invalid metadata"):
        add(log, {"README.md": b"---\nlicense: [mit\n---\n"})
    assert hub.asked("/commit/") == []


@pytest.mark.parametrize(("token", "status"), [("hf_bob", 403), (False, 401)])
def test_only_who_may_write_does(hub: EmulatedHub, log: HfApi, token: str | bool, status: int) -> None:
    hub.repo(LOG, "datasets").private = False
    hub.add_user("hf_bob", "bob")
    with pytest.raises(HfHubHTTPError) as caught:
        add(HfApi(endpoint=hub.endpoint, token=token), {"a.txt": b"a"})
    assert refused(caught) == status
    assert "a.txt" not in head(hub)


def test_the_storage_takes_the_bytes_that_were_announced_and_no_token(hub: EmulatedHub, log: HfApi) -> None:
    add(log, {"data/1.parquet": b"PAR1 one"})
    (put,) = hub.asked(site="cdn", method="PUT")
    address = f"{hub.cdn_address}{put.target}"
    assert httpx2.put(address, content=b"PAR1 two").status_code == 400
    assert httpx2.put(address, content=b"PAR1 one", headers={"Authorization": "Bearer hf_ann"}).status_code == 403
    assert httpx2.put(address.partition("?")[0], content=b"PAR1 one").status_code == 403


def test_a_squash_leaves_the_files_and_no_history(hub: EmulatedHub, log: HfApi) -> None:
    first = add(log, {"a.txt": b"a", "b.txt": b"b"})
    add(log, {"c.txt": b"c"}, gone=("a.txt",))
    before = head(hub)
    log.super_squash_history(LOG, repo_type="dataset")
    assert head(hub) == before
    assert len(hub.repo(LOG, "datasets").commits) == 1
    assert not log.file_exists(LOG, "a.txt", repo_type="dataset", revision=first)


def test_a_lost_answer_leaves_what_was_done_unless_it_is_planned_otherwise(hub: EmulatedHub, log: HfApi) -> None:
    for name, done in (("a.txt", True), ("b.txt", False)):
        hub.fail("/commit/", faults.status(503), done=done)
        with pytest.raises(HfHubHTTPError):
            add(log, {name: b"x"})
    assert {"a.txt", "b.txt"} & {*head(hub)} == {"a.txt"}
