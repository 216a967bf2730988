"""RepoFacts: a repo of the Hub at one commit: who may see it, its files, and which of them are LoRAs."""

from __future__ import annotations

from typing import Annotated, Any

from huggingface_hub import ModelInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_catalog.card import LoraCard
from lora_catalog.errors import FileGone, HubUnreachable, NoSafetensors, SeveralFiles
from lora_catalog.hub.cards import card_of

MOST_FILES = 20_000
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# What diffusers and transformers call whole models; none of these is a LoRA.
_WHOLE_MODELS = ("model.safetensors", "model.fp16.safetensors", "diffusion_pytorch_model")
_REFUSED = ("unsafe", "suspicious")  # verdicts of https://huggingface.co/docs/hub/security-malware


class RepoFile(BaseModel):
    """A file; size in bytes, sha256 (hex) for files in LFS, and the scan's verdict where it found something."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    size: Annotated[int, Field(ge=0)] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    verdict: str | None


class RepoFacts(BaseModel):
    """Plain values, so that they can be kept for when the Hub is down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
    private: bool
    gated: bool
    files: Annotated[tuple[RepoFile, ...], Field(max_length=MOST_FILES)]
    card: LoraCard

    @property
    def open_to_all(self) -> bool:
        return not self.private and not self.gated

    @property
    def lora_files(self) -> tuple[str, ...]:
        """Every safetensors file, less those that are whole models by their names."""
        names = (file.name for file in self.files)
        return tuple(sorted(name for name in names if name.endswith(".safetensors") and not _is_whole_model(name)))

    def file(self, asked: str | None) -> RepoFile:
        """The file that is asked for, or the only one that may be a LoRA.

        Raises FileGone, SeveralFiles or NoSafetensors.
        """
        by_name = {file.name: file for file in self.files}
        if asked is not None:
            if asked not in by_name:
                raise FileGone(self.repo, asked, self.lora_files)
            return by_name[asked]
        found = self.lora_files or tuple(sorted(name for name in by_name if name.endswith(".safetensors")))
        if not found:
            raise NoSafetensors(self.repo, pickled=any(name.casefold().endswith(_PICKLED) for name in by_name))
        if len(found) > 1:
            raise SeveralFiles(self.repo, found)
        return by_name[found[0]]


def facts_of(info: ModelInfo) -> RepoFacts:
    """Raises HubUnreachable where the answer lacks what a repo must have."""
    card = card_of(info)
    verdicts = _verdicts(info.security_repo_status)
    try:
        return RepoFacts(
            repo=info.id,
            commit=info.sha,
            private=bool(info.private),
            gated=bool(info.gated),
            files=tuple(
                RepoFile(
                    name=sibling.rfilename,
                    size=sibling.lfs.size if sibling.lfs else sibling.size,
                    sha256=sibling.lfs.sha256 if sibling.lfs else None,
                    verdict=verdicts.get(sibling.rfilename),
                )
                for sibling in info.siblings or ()
            ),
            card=card,
        )
    except (ValidationError, TypeError) as error:
        raise HubUnreachable("its answer makes no sense") from error


def _verdicts(status: Any) -> dict[str, str]:
    """The scan's verdicts that forbid a fetch, by file."""
    issues = status.get("filesWithIssues") if isinstance(status, dict) else None
    found = [issue for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []
    return {str(issue.get("path")): issue["level"] for issue in found if issue.get("level") in _REFUSED}


def _is_whole_model(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(_WHOLE_MODELS) or "-of-0" in last
