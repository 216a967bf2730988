"""The table of other architectures: names by which a LoRA is surely for none of the families measured here.

Sources: diffusers models/transformers/ and loaders/lora_conversion_utils.py; kohya-ss/sd-scripts networks/;
invoke-ai/InvokeAI backend/patches/lora_conversions/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Other:
    """`names` is searched in a layer's name with `_` for every dot; `rows`, where given, are the weight's own."""

    title: str
    names: re.Pattern[str]
    rows: int | None = None


def _other(title: str, names: str, rows: int | None = None) -> Other:
    return Other(title, re.compile(names), rows)


OTHERS: tuple[Other, ...] = (
    _other("Stable Cascade", r"^lora_prior_(unet|te)_|^prior_|^down_blocks_\d+_\d+_attention_attn_"),
    _other("a video model's motion", r"(^|_)(motion_modules|temporal_transformer_blocks)_"),
    # diffusers transformer_wan.py and the original's names; HunyuanDiT and others build on the same blocks
    _other("Wan", r"^blocks_\d+_((self|cross)_attn_([qkvo]|[kv]_img)$|ffn_|attn[12]_(to|add)_)"),
    _other("Cosmos or Anima", r"^blocks_\d+_((self|cross)_attn_\w+_proj|adaln_modulation_|mlp_layer[12])"),
    _other("Krea 2", r"^(blocks_\d+_attn_(w[qkvo]|gate)$|text_fusion|txtfusion)"),
    _other("HunyuanVideo", r"^(double_blocks_\d+_(img|txt)_mlp_fc[12]|single_blocks_\d+_modulation_linear)$"),
    _other("HunyuanVideo", r"_mod_linear$|individual_token_refiner|^context_embedder_token_refiner"),
    _other("FLUX.2", r"_to_qkv_mlp_proj$|_ff(_context)?_linear_(in|out)$|^(double|single)_stream_modulation"),
    _other("FLUX.2", r"^double_blocks_\d+_img_attn_qkv$", rows=3 * 4096),
    _other("FLUX.2", r"^double_blocks_\d+_img_attn_qkv$", rows=3 * 6144),
    _other("FLUX.2", r"^double_blocks_\d+_(img|txt)_mlp_0$", rows=2 * 3 * 3072),
    _other("Chroma", r"^distilled_guidance_layer_"),
    _other("Qwen-Image", r"^transformer_blocks_\d+_(img|txt)_(mlp|mod)_"),
    # FLUX.1 has 19 such blocks as wide; Qwen-Image has 60, HunyuanVideo 20
    _other("Qwen-Image or HunyuanVideo", r"^transformer_blocks_(19|[2-9]\d)_attn_\w+$", rows=3072),
    _other("AuraFlow", r"^(joint_transformer_blocks|double_layers|single_layers)_\d+_"),
    _other("HiDream", r"^(double|single)_stream_blocks_\d+_"),
    _other("Lumina or Z-Image", r"^(_?layers|noise_refiner|context_refiner)_\d+_(attention|attn|feed_forward)_"),
    _other("a language model", r"^(model_)?layers_\d+_(self_attn|mlp)_\w+_proj$"),
    # PixArt, LTX, CogVideoX, Sana, Mochi and more: blocks as in diffusers' BasicTransformerBlock, without a UNet
    _other("a transformer such as PixArt, LTX-Video or Sana", r"^transformer_blocks_\d+_attn1_"),
)
