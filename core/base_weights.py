"""A model's own weights as they lie on this disk, read one by one without loading the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from core.base_models import BaseModel


class BaseWeights:
    """Of one model. Nothing is fetched: what is not on this machine counts as unknown. Not thread-safe."""

    def __init__(self, entry: BaseModel) -> None:
        self._files: dict[str, Any] = {}  # by layer, as the blend names it, with the end that its tensor has
        self._norms: dict[str, float | None] = {}
        folder = _folder_of(entry)
        files = sorted(folder.glob("*/*.safetensors")) if folder else []
        # Where two precisions of a component lie side by side, the one that is drawn with is opened last and counts.
        for path in sorted(files, key=lambda path: f".{entry.variant}." in path.name):
            try:
                file = safe_open(path, "pt")
            except (SafetensorError, OSError):
                continue
            self._files |= {f"{path.parent.name}.{name}": (file, name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118

    @property
    def found(self) -> bool:
        """Whether any of it is on this machine."""
        return bool(self._files)

    def of(self, layer: str) -> torch.Tensor | None:
        """The weight, or the bias where the layer's name ends so."""
        file, name = self._files.get(layer if layer.endswith(".bias") else f"{layer}.weight", (None, ""))
        return None if file is None else file.get_tensor(name)

    def squared_norm(self, layer: str) -> float | None:
        """‖W0‖², kept once it was asked for."""
        if layer not in self._norms:
            weight = self.of(layer)
            self._norms[layer] = None if weight is None else float(torch.linalg.vector_norm(weight.float())) ** 2
        return self._norms[layer]


def _folder_of(entry: BaseModel) -> Path | None:
    if entry.folder is not None:
        return entry.folder
    if entry.file is not None:
        return None  # its layers go by other names
    try:
        return Path(snapshot_download(entry.repo, revision=entry.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
