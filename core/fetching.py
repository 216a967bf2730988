"""A Hub model's files on this disk, fetched at one commit, with every way in which that fails as a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.base_models import BaseModel
from core.errors import ModelUnavailable
from core.machine import gated


def hub_folder(entry: BaseModel, revision: str | None, without: Iterable[str] = ()) -> Path:
    """The folder of a pipeline's safetensors files, named by its commit; the components `without` are not fetched.

    Asks the Hub which commit `revision` is, and takes what is on the disk already where it does not answer. Raises
    ModelUnavailable.
    """
    try:
        folder = DiffusionPipeline.download(
            entry.repo, revision=revision or entry.revision, variant=entry.variant, use_safetensors=True,
            **dict.fromkeys(without),
        )  # fmt: skip
    except Exception as error:  # diffusers raises what huggingface_hub, httpx and the system do
        raise ModelUnavailable(_why(entry, error)) from error
    return Path(folder)


def hub_file(entry: BaseModel, revision: str | None) -> Path:
    """The file of a checkpoint in one file, kept where the Hub's other files are. Raises ModelUnavailable."""
    try:
        return Path(hf_hub_download(entry.repo, str(entry.file), revision=revision or entry.revision))
    except Exception as error:
        raise ModelUnavailable(_why(entry, error)) from error


def hub_settings(entry: BaseModel, folder: Path, components: Iterable[str]) -> None:
    """Has the settings of components whose weights come from elsewhere in `folder`, which is `hub_folder`'s."""
    wanted = [f"{name}/config.json" for name in components]
    if all((folder / name).is_file() for name in wanted):
        return
    try:
        snapshot_download(entry.repo, revision=folder.name, allow_patterns=wanted)
    except Exception as error:
        raise ModelUnavailable(_why(entry, error)) from error


def _why(entry: BaseModel, error: Exception) -> str:
    causes = list(_causes(error))
    for kind, sentence in (
        (GatedRepoError, f"{gated(entry)} with the account whose token is in HF_TOKEN."),
        (RemoteEntryNotFoundError, f"{entry.title} has moved or is gone: look what its repo "
                                   f"https://huggingface.co/{entry.repo} holds now."),
        (RevisionNotFoundError, f"{entry.title} has no such revision on the Hub any more: leave the revision out."),
        (RepositoryNotFoundError, f"{entry.title} is not at https://huggingface.co/{entry.repo}, or not for this "
                                  "token: look there, and start with an HF_TOKEN that may read it."),
    ):  # fmt: skip
        if any(isinstance(cause, kind) for cause in causes):
            return sentence
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return f"{entry.title} could not be fetched: the disk is full; free some room, or set HF_HOME to another disk."
    if any("safetensors" in str(cause) for cause in causes):
        return f"{entry.title} could not be fetched: its repo holds no safetensors files, and nothing else is loaded."
    return (
        f"{entry.title} could not be fetched: its files are not on this machine and the Hub did not give them; "
        "try again when the network is back."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
