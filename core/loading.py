"""From an entry of BASE_MODELS to a pipeline on its device, embedded files checked first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline

from core.base_models import POCKET, BaseModel
from core.errors import ModelFileBroken, ModelUnavailable

RESTORE = "restore it with “git checkout -- models/pocket” or from a fresh clone"
# A sampler's name to its scheduler; None keeps the one the model was published with.
SCHEDULERS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "flow-euler": (None, {}),
    "euler": (None, {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "lcm": ("LCMScheduler", {}),
}


def checked_revision(entry: BaseModel) -> str:
    """The hash that names an embedded model's weights, its accelerator's among them, once each is as it was shipped.

    Raises ModelFileBroken naming the first file that is missing or differs.
    """
    listing = POCKET / "files.json"
    try:
        shipped: dict[str, str] = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileBroken(f"models/pocket/files.json is missing or torn: {RESTORE}.") from error
    parts = (f"{entry.repo}/", *([f"loras/{entry.accelerator.removeprefix('bundled:')}/"] if entry.accelerator else []))
    own = {name: sha for name, sha in sorted(shipped.items()) if name.startswith(parts)}
    for name, sha in own.items():
        if not (POCKET / name).is_file():
            raise ModelFileBroken(f"models/pocket/{name} is missing: {RESTORE}.")
        if _sha256(POCKET / name) != sha:
            raise ModelFileBroken(f"models/pocket/{name} is torn or changed: {RESTORE}.")
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _absent(folder: Path) -> dict[str, None]:
    """Components that a saved pipeline says it lacks: diffusers 0.42 wants SD3's missing T5 named again at loading."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return {name: None for name, value in index.items() if value == [None, None]}


def _quiet() -> None:
    """No bars on the terminal, nor a report that SDXL's first encoder leaves a shared file's projection out."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def load_pipeline(entry: BaseModel, device: str = "cpu") -> DiffusionPipeline:
    """The pipeline without its accelerator, frozen and on `device`.

    An embedded model needs no network. Raises ModelFileBroken or ModelUnavailable.
    """
    source: str | Path = entry.repo
    options: dict[str, Any] = {"revision": entry.revision, "variant": entry.variant}
    if entry.folder is not None:
        source, options = entry.folder, {"local_files_only": True, **_absent(entry.folder)}
    # The CPU computes halves slowly or not at all: it takes them up into floats.
    dtype = torch.float32 if device == "cpu" else getattr(torch, entry.dtype)
    pipeline_class = getattr(diffusers, entry.pipeline)
    _quiet()
    try:
        pipeline = pipeline_class.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
    except OSError as error:
        raise ModelUnavailable(
            f"{entry.title} could not be loaded: its files are not on this machine and the Hub did not give them."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    return pipeline.to(device)


def scheduler_for(sampler: str, published: Any) -> Any:
    """A fresh scheduler for one run, configured as the model's published one."""
    name, changes = SCHEDULERS[sampler]
    kind = type(published) if name is None else getattr(diffusers, name)
    return kind.from_config(published.config, **changes)
