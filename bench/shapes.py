"""Models with the modules of SD3.5 large and SDXL, narrow or at real width, with random weights, and LoRAs for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file

from lora_catalog.card import Family

# Where the trainers of both model kinds put LoRAs unless asked otherwise: every projection of every attention.
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
RANK = 8  # of two, a quarter of the narrowest layer: more, and our rounding would not set in (core/lora/rounding.py)


@dataclass(frozen=True)
class Shape:
    """`build` takes whether the widths shall be the real ones; depths and modules always are."""

    title: str
    family: Family
    component: str
    build: Callable[[bool], torch.nn.Module]
    pipeline: Callable[[torch.nn.Module], Any]

    def layers(self, model: torch.nn.Module) -> dict[str, torch.Size]:
        """The weights that LoRAs for it change, by path."""
        return {
            path: module.weight.shape
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and path.endswith(TARGETS)
        }

    def files(self, folder: Path, count: int, full: bool, share: float = 0.02) -> list[Path]:
        """Random LoRAs in diffusers' format; ΔW has about that share of W's norm, for weights as torch makes them."""
        with torch.device("meta"):
            layers = self.layers(self.build(full))
        generator = torch.Generator().manual_seed(0)
        paths = [folder / f"{self.title} {number}.safetensors" for number in range(count)]
        for path in paths:
            tensors = {}
            for layer, (rows, columns) in layers.items():
                # torch's Linear is uniform within 1/√columns; a product of rank r of unit numbers has √r in each place
                size = share / math.sqrt(3 * columns * RANK)
                down = torch.randn(RANK, columns, generator=generator)
                up = torch.randn(rows, RANK, generator=generator) * size
                tensors[f"{self.component}.{layer}.lora_A.weight"] = down.half()
                tensors[f"{self.component}.{layer}.lora_B.weight"] = up.half()
            save_file(tensors, path)
        return paths


@dataclass(frozen=True)
class Numbers:
    """How many numbers all the layers that LoRAs change hold, and one LoRA's factors for them."""

    weights: int
    factors: int


def real_numbers(shape: Shape) -> Numbers:
    with torch.device("meta"):
        layers = shape.layers(shape.build(True)).values()
    return Numbers(sum(map(math.prod, layers)), sum(RANK * sum(layer) for layer in layers))


def _sd3(full: bool, blocks: int = 38) -> SD3Transformer2DModel:
    heads, head = (38, 64) if full else (2, 32)
    words = 4096 if full else 64
    return SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=blocks, attention_head_dim=head,
        num_attention_heads=heads, joint_attention_dim=words, caption_projection_dim=heads * head,
        pooled_projection_dim=2048 if full else 32, pos_embed_max_size=192, qk_norm="rms_norm",
    )  # fmt: skip


def _sd3_pipeline(model: torch.nn.Module) -> StableDiffusion3Pipeline:
    absent = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    return StableDiffusion3Pipeline(transformer=model, scheduler=FlowMatchEulerDiscreteScheduler(), **absent)


def _sdxl(full: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280) if full else (32, 64, 128), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20) if full else (1, 2, 4),
        cross_attention_dim=2048 if full else 64, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, norm_num_groups=32,
    )  # fmt: skip


def _sdxl_pipeline(model: torch.nn.Module) -> StableDiffusionXLPipeline:
    absent = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return StableDiffusionXLPipeline(unet=model, scheduler=EulerDiscreteScheduler(), add_watermarker=False, **absent)


SD35_LARGE = Shape("SD3.5 large", "sd3.5-large", "transformer", _sd3, _sd3_pipeline)
SDXL = Shape("SDXL", "sdxl", "unet", _sdxl, _sdxl_pipeline)
# Three of SD3.5 large's blocks, for what must be done ten thousand times.
SHORT = Shape("SD3.5, 3 blocks", "sd3.5-large", "transformer", lambda full: _sd3(full, blocks=3), _sd3_pipeline)
