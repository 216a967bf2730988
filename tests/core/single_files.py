"""Pipelines as checkpoints in one file: the names of CompVis' and Stability's code for diffusers' components.

The inverse of diffusers' loaders/single_file_utils.py, as diffusers' scripts/convert_diffusers_to_original_*.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

_RESNET = (("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
           ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"))  # fmt: skip
_UNET = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip


def unet_original(unet: Any) -> Tensors:
    tensors, layers = unet.state_dict(), unet.config.layers_per_block
    attended = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}

    def renamed(name: str) -> str:
        layer, _, end = name.rpartition(".")
        if layer in _UNET:
            return f"{_UNET[layer]}.{end}"
        block = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
        if block is None:
            middle = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name)
            assert middle is not None
            kind, number, inner = middle[1], int(middle[2]), middle[3]
            return f"middle_block.{2 * number if kind == 'resnets' else 1}.{_inner(kind, inner)}"
        way, level, kind, number, inner = block[1], int(block[2]), block[3], int(block[4]), block[5]
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.{inner.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if block[2] in attended else 1}.{inner}"
        place = level * (layers + 1) + number
        home = f"input_blocks.{place + 1}" if way == "down" else f"output_blocks.{place}"
        return f"{home}.{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _inner(kind: str, inner: str) -> str:
    for ours, theirs in _RESNET if kind == "resnets" else ():
        inner = inner.replace(ours, theirs)
    return inner


def vae_original(vae: Any) -> Tensors:
    found, levels = {}, len(vae.config.block_out_channels)
    for name, value in vae.state_dict().items():
        tensor = value
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0", "proj_out")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[name] = tensor
    return found


def clip(encoder: Any) -> Tensors:
    """As published: with text_model, which transformers 5 has in CLIPTextModelWithProjection alone."""
    return {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": tensor
        for name, tensor in encoder.state_dict().items()
    }


def open_clip(encoder: Any) -> Tensors:
    names = clip(encoder)
    found: Tensors = {}
    for name, tensor in names.items():
        short = name.removeprefix("text_model.").replace("embeddings.position_embedding.weight", "positional_embedding")
        short = short.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
        short = re.sub(r"^encoder\.layers\.", "transformer.resblocks.", short)
        short = short.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        short = short.replace("fc1", "c_fc").replace("fc2", "c_proj").replace("self_attn", "attn")
        if short == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif ".q_proj." in short:
            parts = [names[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[short.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in short and ".v_proj." not in short:
            found[short] = tensor
    return found


_MMDIT = {
    "pos_embed.pos_embed": "pos_embed", "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2", "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1", "proj_out": "final_layer.linear",
}  # fmt: skip
_BLOCK = {
    "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q", "attn2.norm_k": "x_block.attn2.ln_k", "attn2.to_out.0": "x_block.attn2.proj",
    "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
    "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
}  # fmt: skip
_QKV = (("attn.to_q", "x_block.attn", "attn.to_{}"), ("attn.add_q_proj", "context_block.attn", "attn.add_{}_proj"),
        ("attn2.to_q", "x_block.attn2", "attn2.to_{}"))  # fmt: skip


def mmdit_original(transformer: Any) -> Tensors:
    tensors, found, last = transformer.state_dict(), {}, transformer.config.num_layers - 1

    def swapped(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat(tensor.chunk(2)[::-1])

    for name, tensor in tensors.items():
        if name in _MMDIT:
            found[_MMDIT[name]] = tensor
            continue
        layer, _, end = name.rpartition(".")
        if layer in _MMDIT:
            found[f"{_MMDIT[layer]}.{end}"] = swapped(tensor) if layer == "norm_out.linear" else tensor
            continue
        _, number, inner = layer.split(".", 2)
        if inner in _BLOCK:
            turned = inner == "norm1_context.linear" and int(number) == last
            found[f"joint_blocks.{number}.{_BLOCK[inner]}.{end}"] = swapped(tensor) if turned else tensor
        for first, home, each in _QKV:
            if inner == first:
                parts = [tensors[f"transformer_blocks.{number}.{each.format(part)}.{end}"] for part in "qkv"]
                found[f"joint_blocks.{number}.{home}.qkv.{end}"] = torch.cat(parts)
    return found


def original(parts: Mapping[str, Any], *, open_first: bool = False) -> Tensors:
    """All parts in one file; `open_first`: the first text encoder is OpenCLIP's, as in Stable Diffusion 2."""
    denoiser = mmdit_original(parts["transformer"]) if "transformer" in parts else unet_original(parts["unet"])
    found = _under("model.diffusion_model.", denoiser)
    if "vae" in parts:
        found |= _under("first_stage_model.", vae_original(parts["vae"]))
    if "transformer" in parts:
        homes = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
        for name, home in homes.items():
            if parts.get(name) is not None:
                own = parts[name].state_dict() if name == "text_encoder_3" else clip(parts[name])
                own.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
                found |= _under(f"text_encoders.{home}.transformer.", own)
        found.pop("text_encoders.clip_l.transformer.text_projection.weight", None)  # Stability's files have none
    elif "text_encoder_2" in parts:
        found |= _under("conditioner.embedders.0.transformer.", clip(parts["text_encoder"]))
        found |= _under("conditioner.embedders.1.model.", open_clip(parts["text_encoder_2"]))
    elif open_first:
        found |= _under("cond_stage_model.model.", open_clip(parts["text_encoder"]))
    elif "text_encoder" in parts:
        found |= _under("cond_stage_model.transformer.", clip(parts["text_encoder"]))
    return found


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {prefix + name: tensor.contiguous() for name, tensor in tensors.items()}
