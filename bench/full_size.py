"""SD3.5 large and medium and SDXL, whole and at their published sizes but with random weights, and LoRAs for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from bench.shapes import SD35_LARGE, SDXL, TARGETS
from core.base_models import BASE_MODELS, POCKET, BaseModel

RANKS = (4, 8, 16, 16, 32, 32, 64, 128)  # of the LoRAs, in turn


@dataclass(frozen=True)
class FullSize:
    """A base model: the speed modes that are drawn with it, and its denoiser; `tiny` ones are for machines without a
    GPU, to see that the bench itself runs."""

    title: str
    modes: tuple[str, ...]
    denoiser: Callable[[bool], torch.nn.Module]

    @property
    def entry(self) -> BaseModel:
        return BASE_MODELS[self.modes[0]]

    @property
    def component(self) -> str:
        return "unet" if self.entry.family == "sdxl" else "transformer"

    def pipeline(self, device: str, tiny: bool, shared: dict[str, Any]) -> Any:
        """One with a denoiser of its own; text encoders and VAE are made once, into `shared`."""
        dtype = torch.float32 if tiny else getattr(torch, self.entry.dtype)
        if not shared:
            shared |= _on(device, dtype, lambda: _around(self.component == "transformer", tiny))
        parts = {self.component: _on(device, dtype, lambda: self.denoiser(not tiny)), **shared}
        if self.component == "transformer":
            pipeline: Any = StableDiffusion3Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **parts)
        else:
            scheduler = EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            )
            pipeline = StableDiffusionXLPipeline(scheduler=scheduler, add_watermarker=False, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def loras(self, folder: Path, count: int, tiny: bool) -> list[Path]:
        """In diffusers' format, of `RANKS` in turn, with ΔW far below W, so that nothing overflows."""
        with torch.device("meta"):
            modules = dict(self.denoiser(not tiny).named_modules())
        layers = {
            path: m.weight.shape for path, m in modules.items() if path.endswith(TARGETS) and hasattr(m, "weight")
        }
        generator = torch.Generator().manual_seed(0)
        paths = []
        for number in range(count):
            rank = RANKS[number % len(RANKS)] if not tiny else 4
            tensors = {}
            for layer, (rows, columns) in layers.items():
                size = 0.02 / math.sqrt(3 * columns * rank)
                down, up = (torch.randn(*shape, generator=generator) for shape in ((rank, columns), (rows, rank)))
                tensors[f"{self.component}.{layer}.lora_A.weight"] = down.half()
                tensors[f"{self.component}.{layer}.lora_B.weight"] = (up * size).half()
            paths.append(folder / f"{self.component}-{number:02}.safetensors")
            save_file(tensors, paths[-1])
        return paths


def _on(device: str, dtype: torch.dtype, build: Callable[[], Any]) -> Any:
    """Built where it stays and in its own type: 27 GB are not moved."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            built = build()
    finally:
        torch.set_default_dtype(before)
    for part in built.values() if isinstance(built, dict) else [built]:
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval()
    return built


def _around(sd3: bool, tiny: bool) -> dict[str, Any]:
    """Text encoders, tokenizers and VAE. The words are those of the pocket models: only their number counts here."""
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "pocket-sd3" / "tokenizer", model_max_length=77)
    first, second = (64, 64) if tiny else (768, 1280)
    parts = {
        "text_encoder": _clip(tokenizer, first, 2 if tiny else 12, projected=sd3),
        "text_encoder_2": _clip(tokenizer, second, 2 if tiny else 32, projected=True),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "vae": _vae(16 if sd3 else 4, tiny),
    }
    if sd3:
        width = 128 if tiny else 4096
        config = T5Config(
            vocab_size=32128, d_model=width, d_kv=64, d_ff=2 * width if tiny else 10240, num_layers=2 if tiny else 24,
            num_heads=width // 64, feed_forward_proj="gated-gelu",
        )  # fmt: skip
        parts |= {"text_encoder_3": T5EncoderModel(config), "tokenizer_3": tokenizer}
    return parts


def _clip(tokenizer: Any, width: int, layers: int, projected: bool) -> Any:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, projection_dim=width, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _vae(channels: int, tiny: bool) -> AutoencoderKL:
    widths = (32, 32, 32, 32) if tiny else (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=widths, layers_per_block=1 if tiny else 2, latent_channels=channels, sample_size=1024,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=1.5305 if channels == 16 else 0.13025, shift_factor=0.0609 if channels == 16 else None,
        force_upcast=channels == 4, use_quant_conv=channels == 4, use_post_quant_conv=channels == 4,
    )  # fmt: skip


def _large(full: bool) -> torch.nn.Module:
    return SD35_LARGE.build(True) if full else _transformer(2, 2, (), 192, 128)


def _medium(full: bool) -> torch.nn.Module:
    dual = tuple(range(13))
    return _transformer(24, 24, dual, 384, 4096) if full else _transformer(2, 2, (0,), 384, 128)


def _transformer(layers: int, heads: int, dual: Sequence[int], positions: int, words: int) -> torch.nn.Module:
    full = words == 4096
    built: torch.nn.Module = SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=layers, attention_head_dim=64,
        num_attention_heads=heads, joint_attention_dim=words if full else 64 * heads,
        caption_projection_dim=64 * heads, pooled_projection_dim=2048 if full else 128, pos_embed_max_size=positions,
        dual_attention_layers=tuple(dual), qk_norm="rms_norm",
    )  # fmt: skip
    return built


def _unet(full: bool) -> torch.nn.Module:
    if full:
        return SDXL.build(True)
    built: torch.nn.Module = UNet2DConditionModel(
        sample_size=128, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1, attention_head_dim=(1, 2), cross_attention_dim=128,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8, norm_num_groups=16,
    )  # fmt: skip
    return built


LARGE = FullSize("SD3.5 large", ("sd3.5-large", "sd3.5-large-turbo"), _large)
MEDIUM = FullSize("SD3.5 medium", ("sd3.5-medium",), _medium)
XL = FullSize("SDXL", ("sdxl", "sdxl-lcm"), _unet)
