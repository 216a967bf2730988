"""How LoRA files name their tensors: a key taken apart, and the layer of a model that it speaks of.

Sources: diffusers loaders/lora_conversion_utils.py, kohya-ss/sd-scripts networks/, KohakuBlueleaf/LyCORIS
lycoris/modules/, Nerogar/OneTrainer modules/util/load_lora_util.py, ComfyUI comfy/lora.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from lora_catalog.families.table import Model
from lora_catalog.families.weights import Architecture, Shape

Writing = Literal["diffusers", "old", "peft", "kohya", "loha", "lokr", "full", "norm", "any", "unread"]

# The end of a key, from its last dots on: who writes so, and what the tensor is.
# `down` and `up` are LoRA's two factors (rank × in and out × rank), `mid` LoCon's core between them (Tucker form);
# w1_a … t2 are LyCORIS' own names; `magnitude` is DoRA's; `diff` a whole weight's change, `diff_b` a bias'.
_ENDS: Mapping[str, tuple[Writing, str]] = {
    ".lora_A.weight": ("diffusers", "down"),
    ".lora_B.weight": ("diffusers", "up"),
    ".lora_B.bias": ("diffusers", "up_bias"),
    ".lora_A.default.weight": ("peft", "down"),
    ".lora_B.default.weight": ("peft", "up"),
    # diffusers before PEFT; what stands before `.down` is `lora`, `lora_linear_layer` or, in processors, `to_q_lora`
    ".down.weight": ("old", "down"),
    ".up.weight": ("old", "up"),
    ".lora_down.weight": ("kohya", "down"),
    ".lora_up.weight": ("kohya", "up"),
    ".lora_mid.weight": ("kohya", "mid"),
    ".alpha": ("any", "alpha"),
    ".scalar": ("any", "scalar"),
    ".dora_scale": ("any", "magnitude"),
    ".magnitude": ("any", "magnitude"),
    ".lora_magnitude_vector": ("any", "magnitude"),
    ".lora_magnitude_vector.weight": ("any", "magnitude"),
    ".lora_magnitude_vector.default.weight": ("any", "magnitude"),
    **{f".hada_{name}": ("loha", name) for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{name}": ("lokr", name) for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")},
    ".diff": ("full", "diff"),
    ".diff_b": ("full", "diff_b"),
    ".w_norm": ("norm", "diff"),
    ".b_norm": ("norm", "diff_b"),
    **{f".{name}.weight": ("unread", "GLoRA") for name in ("a1", "a2", "b1", "b2")},
    **{f".{name}": ("unread", "OFT") for name in ("oft_blocks", "oft_diag", "oft_R.weight")},
    ".on_input": ("unread", "IA³"),
}
_MOST_DOTS = max(end.count(".") for end in _ENDS)
_OLD_TAILS = ("_lora", ".lora", ".lora_linear_layer")

# The beginning of a layer's name: which part of the model it speaks of. The first that fits counts.
_PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_unet_", "backbone"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("lora_te_", "text_encoder"),
    ("lora_transformer_", "backbone"),  # OneTrainer
    ("lycoris_", "backbone"),  # LyCORIS without a trainer's own names, as SimpleTuner writes it
    ("unet.", "backbone"),
    ("transformer.", "backbone"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder_3.", "text_encoder_3"),
    ("model.diffusion_model.", "backbone"),
    ("diffusion_model.", "backbone"),  # ComfyUI, AI toolkit
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_h.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
)
_WRAPPER = "base_model.model."  # PEFT's own, around whatever it wrapped


class Key(NamedTuple):
    """A key taken apart: `layer` as the file writes it, who writes so, and what the tensor is of the layer's."""

    layer: str
    writing: Writing
    tensor: str


@dataclass(frozen=True, slots=True)
class Target:
    """What a layer's name stands for in a model.

    `component` and `paths` are diffusers' names (several paths where the file's layer is a fused one, such as qkv);
    `rows` says how many rows of the file's layer each path takes, in order; `shape` is that of the whole. `swapped`:
    the two halves of the rows must change places (`Weight.swapped`).
    """

    component: str
    paths: tuple[str, ...]
    rows: tuple[int, ...]
    shape: Shape
    swapped: bool = False


def split_key(key: str) -> Key | None:
    """A tensor's name taken apart; None for a name that no LoRA format uses."""
    end = len(key)
    for _ in range(_MOST_DOTS):
        end = key.rfind(".", 0, end)
        if end <= 0:
            return None
        if (found := _ENDS.get(key[end:])) is not None:
            break
    else:
        return None
    layer, (writing, tensor) = key[:end], found
    if writing == "old":
        for tail in _OLD_TAILS:
            layer = layer.removesuffix(tail)
    return Key(layer, "peft" if writing == "diffusers" and layer.startswith(_WRAPPER) else writing, tensor)


def place(layer: str) -> tuple[str, str]:
    """The part of the model that a layer's name speaks of, and the rest of the name with `_` for every dot.

    The part is `backbone` (`Model.backbone`) or diffusers' name of a text encoder; a name without a known beginning is
    taken for one of the backbone.
    """
    layer = layer.removeprefix(_WRAPPER)
    part = "text_encoder" if layer.startswith("text_model.") else "backbone"
    for prefix, named in _PREFIXES:
        if layer.startswith(prefix):
            layer, part = layer.removeprefix(prefix), named
            break
    if layer.endswith(".to_out"):
        layer += ".0"
    return part, layer.replace(".processor.", ".").replace(".", "_")


def target_of(layer: str, model: Model) -> Target | None:
    """What a layer, as a file writes it (`Key.layer`), stands for in a model; None where the model has no such layer.

    `target_of("lora_unet_joint_blocks_0_x_block_attn_qkv", MODEL_OF["sd3-medium"])` is the transformer's
    `transformer_blocks.0.attn.to_q`, `.to_k` and `.to_v`, 1536 rows each.
    """
    return targets(model).get(place(layer))


@cache
def targets(model: Model) -> Mapping[tuple[str, str], Target]:
    """All that files may name of a model, by what `place` makes of the name."""
    found = {}
    for component, architecture in model.parts.items():
        part = "backbone" if component == model.backbone else component
        parts = [part, *(name for name, meant in model.also.items() if meant == component)]
        for name, target in _named(component, architecture):
            for part in parts:
                found[part, name.replace(".", "_")] = target
    return found


def _named(component: str, architecture: Architecture) -> Iterator[tuple[str, Target]]:
    for weight in architecture.weights():
        for path, shape in zip(weight.paths, weight.shapes, strict=True):
            yield path, Target(component, (path,), (shape[0],), shape)
        rows = tuple(shape[0] for shape in weight.shapes)
        whole = Target(component, weight.paths, rows, (sum(rows), *weight.shapes[0][1:]), weight.swapped)
        for original in weight.originals:
            yield original, whole
