"""A checkpoint in one file: which model of the table it is, and which of its parts it holds, by its header alone.

The names are those of CompVis' and Stability's code, as diffusers' loaders/single_file_utils.py reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.base_models import BASE_MODELS, BaseModel
from lora_catalog.families.others import OTHERS
from lora_catalog.families.table import MODELS, Model
from lora_catalog.families.weights import Shape
from lora_catalog.header import Header, TensorFacts

DENOISER = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
_PLAIN = {"F16", "BF16", "F32"}
_CLIP_MARK, _OPEN_CLIP_MARK = "text_model.embeddings.position_embedding.weight", "positional_embedding"


@dataclass(frozen=True)
class Place:
    """Where a component stands in a file: how its tensors' names begin, and the rest of one that it must have."""

    prefix: str
    mark: str


_VAE = tuple(Place(prefix, "decoder.conv_in.weight") for prefix in VAE)
# By pipeline and component: the places where it may stand.
PLACES: Mapping[str, Mapping[str, tuple[Place, ...]]] = MappingProxyType(
    {
        "StableDiffusion3Pipeline": {
            "text_encoder": (Place("text_encoders.clip_l.transformer.", _CLIP_MARK),),
            "text_encoder_2": (Place("text_encoders.clip_g.transformer.", _CLIP_MARK),),
            "text_encoder_3": (Place("text_encoders.t5xxl.transformer.", "shared.weight"),), "vae": _VAE,
        },
        "StableDiffusionXLPipeline": {
            "text_encoder": (Place("conditioner.embedders.0.transformer.", _CLIP_MARK),),
            "text_encoder_2": (Place("conditioner.embedders.1.model.", _OPEN_CLIP_MARK),), "vae": _VAE,
        },
        "StableDiffusionPipeline": {
            "text_encoder": (
                Place("cond_stage_model.transformer.", _CLIP_MARK), Place("cond_stage_model.model.", _OPEN_CLIP_MARK),
            ),
            "vae": _VAE,
        },
    }
)  # fmt: skip

_LORA = re.compile(r"lora_(up|down|[AB])\b|\.lora\.|\.(hada_w|lokr_w|dora_scale)|^lora_(unet|te)")
# What a file is that holds no denoiser, by the name of any of its tensors.
_WHAT = (
    (re.compile(r"^control(_model|net)|^input_hint_block|controlnet_"), "it is a ControlNet"),
    (re.compile(r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|mid|up|down)"), "it is a VAE alone"),
    (re.compile(r"text_model\.|^encoder\.block\.|resblocks\."), "it is a text encoder alone"),
    (re.compile(r"^(clip_[lg]|emb_params|string_to_param)"), "it is a textual inversion"),
)  # fmt: skip
_CHANNELS = {9: "it is made for inpainting (its UNet takes 9 channels)", 8: "it edits by instructions (8 channels)"}
_DRAWN_OTHERWISE = {
    "v_pred": "it was trained to predict velocity (v_pred), which its model here is not",
    "edm_mean": "it is Playground 2.5, whose noise is not the one of SDXL",
}


class NoCheckpoint(Exception):
    """Why a file is not drawn with, as a clause."""


@dataclass(frozen=True)
class Contents:
    """The model of the table that a file is, and which components are in it, the denoiser first."""

    base: BaseModel
    inside: tuple[str, ...]


def contents_of(header: Header) -> Contents:
    """Raises NoCheckpoint, which says what the file is instead."""
    tensors = header.tensors
    if any(_LORA.search(name) for name in tensors):
        raise NoCheckpoint("it is a LoRA: add it to the blend instead")
    if found := next((why for name, why in _DRAWN_OTHERWISE.items() if name in tensors), None):
        raise NoCheckpoint(found)
    own = denoiser_in(tensors)
    model = _model(own, tensors)
    base = next((entry for entry in BASE_MODELS.listed() if _is_base(entry, model)), None)
    if base is None:
        raise NoCheckpoint(f"it is {model.title}, which is not among the models here")
    if any(not _plain(facts) for facts in own.values()):
        raise NoCheckpoint("its weights are quantised (fp8 or less): choose its file in 16 bits")
    places = ((name, place_in(tensors, places, name)) for name, places in PLACES[base.pipeline].items())
    return Contents(base, (model.backbone, *(name for name, place in places if place is not None)))


def denoiser_in(tensors: Mapping[str, TensorFacts]) -> dict[str, TensorFacts]:
    """Those of the denoiser, by their names in it; of a file without other parts all."""
    own = {name.removeprefix(DENOISER): facts for name, facts in tensors.items() if name.startswith(DENOISER)}
    return own or dict(tensors)


def place_in(tensors: Mapping[str, TensorFacts], places: tuple[Place, ...], name: str) -> Place | None:
    """Where a component stands, None where it does not or is quantised: then it is taken from the base's own repo."""
    for place in places:
        own = {name: facts for name, facts in tensors.items() if name.startswith(place.prefix)}
        if own and place.prefix + place.mark not in own:
            raise NoCheckpoint(f"its {name} is laid out in a way that is not read here")
        if own:
            return place if all(map(_plain, own.values())) else None
    return None


def _plain(facts: TensorFacts) -> bool:
    """Numbers as they are; whole ones are positions."""
    return facts.dtype in _PLAIN or facts.dtype in ("I32", "I64")


def _is_base(entry: BaseModel, model: Model) -> bool:
    return entry.family == model.family and not entry.embedded and entry.accelerator is None


def _model(own: Mapping[str, TensorFacts], tensors: Mapping[str, TensorFacts]) -> Model:
    layers = {
        name.removesuffix(".weight"): facts.shape
        for name, facts in own.items()
        if name.endswith(".weight") and len(facts.shape) > 1
    }
    for model in MODELS:
        if layers in (dict(_original(model)), dict(_ours(model))):
            return model
    channels = next((layers[name] for name in ("input_blocks.0.0", "conv_in") if name in layers), (0, 0))[1]
    if channels in _CHANNELS:
        raise NoCheckpoint(_CHANNELS[channels])
    if any(name.endswith((".absmax", ".quant_map")) or facts.dtype == "U8" for name, facts in own.items()):
        raise NoCheckpoint("its weights are quantised: choose its file in 16 bits")
    flat = [(name.replace(".", "_"), shape) for name, shape in layers.items()]
    for other in OTHERS:
        if any(other.names.search(name) and other.rows in (None, shape[0]) for name, shape in flat):
            raise NoCheckpoint(f"it is {other.title}, which is not among the models here")
    for pattern, what in _WHAT:
        if any(pattern.search(name) for name in tensors):
            raise NoCheckpoint(what)
    raise NoCheckpoint("its layers are those of no model that is known here")


def _original(model: Model) -> Iterator[tuple[str, Shape]]:
    """The denoiser's layers as its authors name them; what diffusers has split is one there."""
    for weight in model.parts[model.backbone].weights():
        rows = sum(shape[0] for shape in weight.shapes)
        yield (weight.originals or weight.paths)[0], (rows, *weight.shapes[0][1:])


def _ours(model: Model) -> Iterator[tuple[str, Shape]]:
    """The same as diffusers names them."""
    for weight in model.parts[model.backbone].weights():
        yield from zip(weight.paths, weight.shapes, strict=True)
