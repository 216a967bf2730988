"""The real models' parts at full size, without weights: diffusers' and transformers' classes on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel


def _sd3(blocks: int, heads: int, positions: int, **more: Any) -> Any:
    return SD3Transformer2DModel(
        num_layers=blocks, num_attention_heads=heads, attention_head_dim=64, caption_projection_dim=64 * heads,
        pos_embed_max_size=positions, joint_attention_dim=4096, pooled_projection_dim=2048, in_channels=16,
        out_channels=16, patch_size=2, sample_size=128, **more,
    )  # fmt: skip


def _sdxl(**depths: Any) -> Any:
    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(320, 640, 1280),
        attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        **depths,
    )  # fmt: skip


def _clip(kind: Any, width: int, layers: int, projection: int = 0) -> Any:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return kind(CLIPTextConfig(**sizes, num_attention_heads=width // 64, projection_dim=projection or width))


def _t5() -> Any:
    sizes = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def _vae(channels: int) -> Any:
    convolutions = {"use_quant_conv": channels == 4, "use_post_quant_conv": channels == 4}
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels, **convolutions,
    )  # fmt: skip


SEGMIND = {"mid_block_type": "UNetMidBlock2D", "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]}
_SD3_ENCODERS: dict[str, Callable[[], Any]] = {
    "text_encoder": lambda: _clip(CLIPTextModelWithProjection, 768, 12),
    "text_encoder_2": lambda: _clip(CLIPTextModelWithProjection, 1280, 32),
    "text_encoder_3": _t5,
    "vae": lambda: _vae(16),
}
_SDXL_ENCODERS: dict[str, Callable[[], Any]] = {
    "text_encoder": lambda: _clip(CLIPTextModel, 768, 12),
    "text_encoder_2": lambda: _clip(CLIPTextModelWithProjection, 1280, 32),
    "vae": lambda: _vae(4),
}
_OLD: dict[str, Any] = {"vae": lambda: _vae(4)}

# By family and component, as the config.json files of the repos in core/base_models.py have them.
PUBLISHED: dict[str, dict[str, Callable[[], Any]]] = {
    "sd3.5-large": {"transformer": lambda: _sd3(38, 38, 192, qk_norm="rms_norm"), **_SD3_ENCODERS},
    "sd3.5-medium": {
        "transformer": lambda: _sd3(24, 24, 384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
        **_SD3_ENCODERS,
    },
    "sd3-medium": {"transformer": lambda: _sd3(24, 24, 192), **_SD3_ENCODERS},
    "sdxl": {"unet": lambda: _sdxl(transformer_layers_per_block=(1, 2, 10)), **_SDXL_ENCODERS},
    "ssd-1b": {"unet": lambda: _sdxl(transformer_layers_per_block=(1, 2, 4), **SEGMIND), **_SDXL_ENCODERS},
    "sd1": {
        "unet": lambda: UNet2DConditionModel(cross_attention_dim=768),
        "text_encoder": lambda: _clip(CLIPTextModel, 768, 12), **_OLD,
    },
    "sd2": {
        "unet": lambda: UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        ),
        "text_encoder": lambda: _clip(CLIPTextModel, 1024, 23), **_OLD,
    },
}  # fmt: skip
