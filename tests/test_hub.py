"""The emulated Hub, asked by the real huggingface_hub client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import httpx2
import numpy as np
import pytest
from huggingface_hub import HfApi, HfFileMetadata, ModelInfo, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import save

from tests.hub import EmulatedHub

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
WEIGHTS = save({f"layer{i}.lora_A.weight": np.full((4, 320), i, np.float16) for i in range(50)})
CARD = {
    "base_model": SDXL,
    "license": "mit",
    "tags": ["lora", "text-to-image"],
    "instance_prompt": "neon lights",
    "widget": [{"text": "a neon cat", "output": {"url": "images/1.png"}}],
}
FILES = {"neon.safetensors": WEIGHTS, "notes/a.txt": b"hello", "images/1.png": b"\x89PNG"}
Token = str | Literal[False]
SIZE = len(WEIGHTS)
FILE = "/weaver/neon/resolve/main/neon.safetensors"


@pytest.fixture
def hub() -> Iterator[EmulatedHub]:
    """One LoRA of the usual kind."""
    hub = EmulatedHub()
    with hub.running():
        hub.add_repo("weaver/neon", FILES, CARD, downloads=12, likes=3, security={"neon.safetensors": "unsafe"})
        yield hub


@pytest.fixture
def api(hub: EmulatedHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def http(hub: EmulatedHub) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=hub.endpoint, timeout=5) as client:
        yield client


def named(models: Iterable[ModelInfo]) -> list[str]:
    return [model.id for model in models]


def download(hub: EmulatedHub, folder: Path, file: str = "neon.safetensors", token: Token = False) -> bytes:
    return Path(hf_hub_download("weaver/neon", file, endpoint=hub.endpoint, cache_dir=folder, token=token)).read_bytes()


def metadata_of(
    hub: EmulatedHub,
    repo: str = "weaver/neon",
    file: str = "neon.safetensors",
    token: Token = False,
    revision: str | None = None,
) -> HfFileMetadata:
    return get_hf_file_metadata(hf_hub_url(repo, file, revision=revision, endpoint=hub.endpoint), token=token)


def tokens(refused: int) -> list[tuple[Token, int]]:
    """Without a token the Hub says 401, and `refused` to Bob, who may not read either."""
    return [(False, 401), ("hf_bob", refused)]


def test_a_listing_gives_what_the_card_says(api: HfApi) -> None:
    (model,) = api.list_models(filter=[f"base_model:adapter:{SDXL}", "license:mit", "lora"], full=True, cardData=True)
    assert (model.downloads, model.likes, model.gated, model.private) == (12, 3, False, False)
    assert model.card_data is not None
    assert model.card_data["instance_prompt"] == "neon lights"
    assert model.card_data["widget"][0]["output"]["url"] == "images/1.png"
    assert {sibling.rfilename for sibling in model.siblings or []} >= {"neon.safetensors", "README.md"}


def test_filters_search_and_author_must_all_hold(hub: EmulatedHub, api: HfApi) -> None:
    hub.add_repo("other/neon-city", FILES, {"license": "mit"})
    assert named(api.list_models(filter="license:mit", search="NEON", author="weaver")) == ["weaver/neon"]
    assert named(api.list_models(filter=["license:mit", "lora"])) == ["weaver/neon"]
    assert named(api.list_models(filter="license:openrail")) == []


def test_a_long_listing_comes_in_pages_in_the_order_that_was_asked() -> None:
    pages = EmulatedHub(page=10)
    for number in range(35):
        pages.add_repo(f"weaver/lora-{number}", tags=["lora"], downloads=number * 11 % 35, likes=number)
    with pages.running() as endpoint:
        api = HfApi(endpoint=endpoint, token=False)
        found = list(api.list_models(filter="lora", sort="downloads"))
        assert [model.downloads for model in found] == list(range(34, -1, -1))
        assert len(pages.asked("/api/models")) == 4
        assert [model.likes for model in api.list_models(sort="likes", limit=3)] == [34, 33, 32]


def test_expand_gives_only_what_was_asked_and_refuses_what_it_does_not_know(hub: EmulatedHub, api: HfApi) -> None:
    (model,) = api.list_models(expand=["downloads", "cardData", "siblings", "gated"])
    assert model.downloads == 12
    assert model.card_data is not None
    assert model.likes is None
    with pytest.raises(HfHubHTTPError, match="does not know colour"):
        list(api.list_models(expand=["colour"]))  # type: ignore[list-item]


def test_an_unchanged_listing_is_not_sent_again(hub: EmulatedHub, http: httpx2.Client) -> None:
    etag = http.get("/api/models").headers["ETag"]
    again = http.get("/api/models", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    hub.repo("weaver/neon").likes += 1
    assert http.get("/api/models", headers={"If-None-Match": etag}).status_code == 200


def test_info_gives_sizes_hashes_and_the_scan(api: HfApi) -> None:
    model = api.model_info("weaver/neon", files_metadata=True, securityStatus=True)
    files = {sibling.rfilename: sibling for sibling in model.siblings or []}
    lfs = files["neon.safetensors"].lfs
    assert lfs is not None
    assert (lfs.size, len(lfs.sha256)) == (len(WEIGHTS), 64)
    assert (files["notes/a.txt"].size, files["notes/a.txt"].lfs) == (5, None)
    assert files["notes/a.txt"].blob_id == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # as git hash-object says
    assert model.security_repo_status == {
        "scansDone": True,
        "filesWithIssues": [{"path": "neon.safetensors", "level": "unsafe"}],
    }


def test_trees_and_paths_tell_files_from_folders(api: HfApi) -> None:
    assert {entry.path for entry in api.list_repo_tree("weaver/neon")} == {
        "README.md", "images", "neon.safetensors", "notes",
    }  # fmt: skip
    assert {"notes", "notes/a.txt"} <= {entry.path for entry in api.list_repo_tree("weaver/neon", recursive=True)}
    (file, folder) = api.get_paths_info("weaver/neon", ["neon.safetensors", "notes", "absent"], expand=True)
    assert file.security.status == "unsafe"  # type: ignore[union-attr]
    assert folder.path == "notes"
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("weaver/neon", "absent"))


def test_a_file_is_downloaded_once_per_commit(hub: EmulatedHub, tmp_path: Path) -> None:
    assert download(hub, tmp_path) == WEIGHTS
    assert download(hub, tmp_path) == WEIGHTS
    assert len(hub.asked("/resolve/", "GET")) == 1


def test_with_the_cdn_files_come_from_another_host_and_the_token_stays_here(hub: EmulatedHub, tmp_path: Path) -> None:
    hub.add_user("hf_ann", "ann")
    hub.cdn = True
    assert download(hub, tmp_path, token="hf_ann") == WEIGHTS
    assert download(hub, tmp_path, "notes/a.txt", token="hf_ann") == b"hello"
    (asked,) = hub.asked(site="cdn")
    assert asked.token is None
    assert hub.asked("/api/resolve-cache/")
    assert httpx2.get(f"{hub.cdn_address}{asked.path}").status_code == 403  # without its signature


def test_a_header_is_read_without_the_weights(hub: EmulatedHub, api: HfApi) -> None:
    big = save({f"layer{i}.{'long' * 20}": np.zeros(1000, np.float16) for i in range(1500)})
    hub.add_repo("weaver/big", {"big.safetensors": big})
    found = api.parse_safetensors_file_metadata("weaver/big", "big.safetensors")
    assert len(found.tensors) == 1500
    assert [asked.headers["range"].partition("-")[0] for asked in hub.asked("big", "GET")] == ["bytes=0", "bytes=8"]
    assert sum(asked.sent for asked in hub.requests) < 400_000 < len(big)


@pytest.mark.parametrize(
    ("asked", "status", "part", "place"),
    [
        ("bytes=0-9", 206, WEIGHTS[:10], f"bytes 0-9/{SIZE}"),
        ("bytes=-5", 206, WEIGHTS[-5:], f"bytes {SIZE - 5}-{SIZE - 1}/{SIZE}"),
        (f"bytes={SIZE - 1}-99999999", 206, WEIGHTS[-1:], f"bytes {SIZE - 1}-{SIZE - 1}/{SIZE}"),
        (f"bytes={SIZE}-", 416, b"", f"bytes */{SIZE}"),
        ("bytes=a-b", 200, WEIGHTS, None),
    ],
)  # fmt: skip
def test_ranges_are_kept(http: httpx2.Client, asked: str, status: int, part: bytes, place: str | None) -> None:
    answer = http.get(FILE, headers={"Range": asked})
    assert (answer.status_code, answer.content, answer.headers.get("Content-Range")) == (status, part, place)
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_a_branch_a_tag_and_a_commit_are_revisions_until_they_are_dropped(hub: EmulatedHub, api: HfApi) -> None:
    first = hub.repo("weaver/neon").head.sha
    second = hub.commit("weaver/neon", {"neon.safetensors": WEIGHTS + b"2", "notes/a.txt": None})
    hub.tag("weaver/neon", "v1", first)
    hub.commit("weaver/neon", {"x.txt": b"x"}, branch="refs/pr/1")
    assert api.model_info("weaver/neon").sha == second
    assert api.model_info("weaver/neon", revision="v1").sha == first
    assert {s.rfilename for s in api.model_info("weaver/neon", revision="refs/pr/1").siblings or []} == {"x.txt"}
    assert not api.file_exists("weaver/neon", "notes/a.txt", revision=second)
    hub.drop_revision("weaver/neon", "v1")
    hub.drop_revision("weaver/neon", first)
    for revision in ("v1", first, "nonsense"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("weaver/neon", revision=revision)
        with pytest.raises(RevisionNotFoundError):
            metadata_of(hub, revision=revision)


def test_missing_and_private_repos_look_alike(hub: EmulatedHub, api: HfApi) -> None:
    hub.add_repo("ann/secret", FILES, tags=["lora"], private=True, readers={"hf_ann"})
    hub.add_user("hf_bob", "bob")
    for repo in ("ann/secret", "ann/nothing"):
        for token, status in tokens(404):
            with pytest.raises(RepositoryNotFoundError) as caught:
                api.model_info(repo, token=token)
            assert caught.value.response.status_code == status
            with pytest.raises(RepositoryNotFoundError):
                metadata_of(hub, repo, token=token)
    assert api.model_info("ann/secret", token="hf_ann").private
    assert metadata_of(hub, "ann/secret", token="hf_ann")
    assert "ann/secret" not in named(api.list_models(token="hf_bob"))
    assert "ann/secret" in named(api.list_models(token="hf_ann"))


def test_of_a_gated_repo_all_see_what_it_is_and_readers_get_its_files(hub: EmulatedHub, api: HfApi) -> None:
    hub.add_repo("ann/gated", FILES, CARD, gated="manual", readers={"hf_ann"})
    hub.add_user("hf_bob", "bob")
    assert api.model_info("ann/gated").gated == "manual"
    assert "ann/gated" in named(api.list_models(gated=True))
    for token, status in tokens(403):
        with pytest.raises(GatedRepoError) as caught:
            metadata_of(hub, "ann/gated", token=token)
        assert caught.value.response.status_code == status
    assert metadata_of(hub, "ann/gated", token="hf_ann")


def test_a_token_nobody_has_is_refused_even_for_what_is_public(hub: EmulatedHub, api: HfApi) -> None:
    hub.add_user("hf_ann", "ann")
    assert api.whoami(token="hf_ann")["name"] == "ann"
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        api.model_info("weaver/neon", token="hf_old")


def test_a_renamed_repo_is_found_under_both_names(hub: EmulatedHub, api: HfApi, tmp_path: Path) -> None:
    hub.rename("weaver/neon", "weaver/neon-lights")
    assert api.model_info("weaver/neon", files_metadata=True).id == "weaver/neon-lights"
    assert download(hub, tmp_path) == WEIGHTS
    plain = httpx2.get(f"{hub.endpoint}{FILE}")
    assert (plain.status_code, plain.headers["Location"]) == (307, FILE.replace("neon/", "neon-lights/"))


def test_a_missing_file_and_a_deleted_repo_are_told_apart(hub: EmulatedHub) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        metadata_of(hub, file="absent.safetensors")
    hub.delete("weaver/neon")
    with pytest.raises(RepositoryNotFoundError):
        metadata_of(hub)


def test_datasets_are_served_like_models(hub: EmulatedHub, api: HfApi, tmp_path: Path) -> None:
    hub.add_repo("ann/log", {"data/1.parquet": b"PAR1"}, kind="datasets")
    assert [found.id for found in api.list_datasets()] == ["ann/log"]
    assert api.dataset_info("ann/log").id == "ann/log"
    path = hf_hub_download("ann/log", "data/1.parquet", repo_type="dataset", endpoint=hub.endpoint, cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"PAR1"
