"""The names of normalisations, which `lora_catalog.families` leaves out: each is found beside a layer that it has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import product

from lora_catalog.families.keys import Target, place
from lora_catalog.families.table import Model

# The end of a layer's name and of the normalisation's beside it: in diffusers, and in the original code.
_BESIDE = (
    ("conv1", "norm1", "in_layers.2", "in_layers.0"),
    ("conv2", "norm2", "out_layers.3", "out_layers.0"),
    ("proj_in", "norm", "proj_in", "norm"),
    ("attn1.to_q", "norm1", "attn1.to_q", "norm1"),
    ("attn2.to_q", "norm2", "attn2.to_q", "norm2"),
    ("ff.net.0.proj", "norm3", "ff.net.0.proj", "norm3"),
    ("conv_out", "conv_norm_out", "out.2", "out.0"),
    ("attn.to_q", "attn.norm_q", "attn.qkv", "attn.ln_q"),
    ("attn.to_k", "attn.norm_k", "attn.qkv", "attn.ln_k"),
    ("attn2.to_q", "attn2.norm_q", "attn2.qkv", "attn2.ln_q"),
    ("attn2.to_k", "attn2.norm_k", "attn2.qkv", "attn2.ln_k"),
    ("attn.add_q_proj", "attn.norm_added_q", "attn.qkv", "attn.ln_q"),
    ("attn.add_k_proj", "attn.norm_added_k", "attn.qkv", "attn.ln_k"),
    ("self_attn.q_proj", "layer_norm1", "self_attn.q_proj", "layer_norm1"),
    ("mlp.fc1", "layer_norm2", "mlp.fc1", "layer_norm2"),
    ("encoder.layers.0.mlp.fc1", "final_layer_norm", "encoder.layers.0.mlp.fc1", "final_layer_norm"),
    ("SelfAttention.q", "layer_norm", "SelfAttention.q", "layer_norm"),
    ("DenseReluDense.wo", "layer_norm", "DenseReluDense.wo", "layer_norm"),
    ("block.0.layer.0.SelfAttention.q", "final_layer_norm", "block.0.layer.0.SelfAttention.q", "final_layer_norm"),
)


def norm_of(layer: str, model: Model) -> Target | None:
    """What a normalisation's name, as a file writes it, stands for in a model; None for any other name.

    Its width is left open, and some that are named here have no weights in some models: whoever holds the model knows.
    """
    return _norms(model).get(place(layer))


@cache
def _norms(model: Model) -> Mapping[tuple[str, str], Target]:
    found: dict[tuple[str, str], Target] = {}
    for component, architecture in model.parts.items():
        part = "backbone" if component == model.backbone else component
        for weight in architecture.weights():
            for path, (beside, norm, original_beside, original_norm) in product(weight.paths, _BESIDE):
                if path.endswith(beside):
                    ours = path.removesuffix(beside) + norm
                    originals = (name for name in weight.originals if name.endswith(original_beside))
                    theirs = (name.removesuffix(original_beside) + original_norm for name in originals)
                    for name in (ours, *theirs):
                        found.setdefault((part, name.replace(".", "_")), Target(component, (ours,), (), ()))
    return found
