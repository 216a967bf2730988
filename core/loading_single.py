"""The components that a checkpoint in one file holds, each built by the settings in its base model's own repo."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError, convert_open_clip_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file

from core.base_models import BaseModel
from core.checkpoints import sha256_of
from core.errors import ModelUnavailable
from core.fetching import hub_file
from core.single_file import DENOISER, PLACES, VAE


class _Incomplete(Exception):
    """Tensors lack."""


# What diffusers and transformers raise where a file's tensors are not those of the settings, the last for tensors that
# were given no values. Only around their calls: from a line of ours each of these would be a bug.
_UNFIT = (SingleFileComponentError, KeyError, IndexError, ValueError, TypeError, NotImplementedError)
Tensors = Mapping[str, torch.Tensor]

_DENOISERS = {"unet": "UNet2DConditionModel", "transformer": "SD3Transformer2DModel"}
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
_OPEN_CLIP = "positional_embedding"


@contextmanager
def _told_by_the_libraries() -> Iterator[None]:
    try:
        yield
    except _UNFIT as error:
        raise _Incomplete from error


def checkpoint_of(entry: BaseModel, revision: str | None) -> tuple[Path, str]:
    """The file, and what names its weights: the Hub's commit, or the sha256 of this machine's own."""
    if entry.own is None:
        path = hub_file(entry, revision)
        return path, path.parents[len(PurePosixPath(str(entry.file)).parts) - 1].name
    try:
        return entry.own, sha256_of(entry.own)
    except OSError as error:
        raise ModelUnavailable(
            f"{entry.title} is not in DATA_DIR/checkpoints any more: put it back there, or choose another model."
        ) from error


def components_in(
    path: Path, entry: BaseModel, folder: Path, names: tuple[str, ...], dtype: torch.dtype,
    packing: Callable[[str, str], Any],
) -> dict[str, Any]:  # fmt: skip
    """Those of `names` that are in the file; `folder` has their settings, `packing` gives bitsandbytes' by component
    and library. Raises ModelUnavailable where a tensor lacks or has another shape than the settings say."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    try:
        tensors = load_file(path)
        return {
            name: _encoder(tensors, entry, folder, name, str(index[name][1]), dtype, packing(name, "transformers"))
            if name.startswith("text_encoder")
            else _drawing(tensors, folder, name, dtype, packing(name, "diffusers"))
            for name in names
        }
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{entry.title} could not be loaded: its file on this machine is torn.") from error
    except _Incomplete as error:
        raise ModelUnavailable(
            f"{entry.title} could not be loaded: tensors lack in it, or are of another shape than its model has."
        ) from error


def _drawing(tensors: Tensors, folder: Path, name: str, dtype: torch.dtype, packing: Any) -> torch.nn.Module:
    """The denoiser or the VAE, by diffusers' own loader."""
    kind = getattr(diffusers, _DENOISERS.get(name, "AutoencoderKL"))
    prefixes = VAE if name == "vae" else (DENOISER,)
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)} or dict(tensors)
    if name == "unet" and "input_blocks.0.0.weight" in own:
        own = {DENOISER + key: tensor for key, tensor in own.items()}  # diffusers finds the original's names by this
    more = {} if packing is None else {"quantization_config": packing}
    with _told_by_the_libraries():
        model: torch.nn.Module = kind.from_single_file(
            own, config=str(folder), subfolder=name, dtype=dtype, local_files_only=True, **more
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise _Incomplete
    return model


def _encoder(
    tensors: Tensors, entry: BaseModel, folder: Path, name: str, kind: str, dtype: torch.dtype, packing: Any
) -> torch.nn.Module:
    """A text encoder. transformers builds it, not diffusers' single-file loader, which cannot pack T5."""
    if kind not in _ENCODERS:
        raise _Incomplete
    model_class = getattr(transformers, kind)
    config = model_class.config_class.from_pretrained(folder / name, local_files_only=True)
    places = PLACES[entry.pipeline][name]
    place = next((place for place in places if place.prefix + place.mark in tensors), None)
    if place is None:
        raise _Incomplete
    if place.mark == _OPEN_CLIP:
        # it asks the model for nothing but its width, where the file has no projection
        with _told_by_the_libraries():
            own = convert_open_clip_checkpoint(_Widths(config), tensors, prefix=place.prefix)
    else:
        own = {k.removeprefix(place.prefix): t for k, t in tensors.items() if k.startswith(place.prefix)}
    if place.prefix == "text_encoders.clip_l.transformer.":
        # Stability's sd3-ref reads CLIP-L before its projection; diffusers projects, and loads an identity for it
        own["text_projection.weight"] = torch.eye(config.hidden_size)
    if kind == "CLIPTextModel":  # transformers 5 has no text_model in it, published files do
        own = {key.removeprefix("text_model."): tensor for key, tensor in own.items()}
    more = {} if packing is None else {"quantization_config": packing}
    with _told_by_the_libraries():
        model, told = model_class.from_pretrained(
            None, config=config, state_dict=own, dtype=dtype, output_loading_info=True, **more
        )
    if told["missing_keys"] or told.get("mismatched_keys"):
        raise _Incomplete
    found: torch.nn.Module = model
    return found


class _Widths:
    def __init__(self, config: Any) -> None:
        self.config = config
