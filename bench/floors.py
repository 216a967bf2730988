"""The least time that pictures can take: the arithmetic of their forwards, counted, over what a GPU does at most."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

# Dense bf16 TFLOP/s of data sheets, and for the H200 what long matrix products were seen to reach.
PEAKS = {
    "H200": 790.0, "H100": 790.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0,
    "RTX PRO 6000": 503.0, "RTX 5090": 209.0, "RTX 4090": 165.0,
}  # fmt: skip


def peak_of(name: str) -> float | None:
    """By torch's name of a device, TFLOP/s; None for one that is not in the table."""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def forward_tflop(denoiser: torch.nn.Module, side: int, text: int) -> float:
    """Of one forward for one picture of side × side pixels and `text` tokens; a model on the meta device will do."""
    config: Any = denoiser.config
    latents = torch.empty(1, config.in_channels, side // 8, side // 8, device="meta")
    common = {"timestep": torch.empty(1, device="meta"), "return_dict": False}
    if "joint_attention_dim" in config:
        given = common | {
            "hidden_states": latents,
            "encoder_hidden_states": torch.empty(1, text, config.joint_attention_dim, device="meta"),
            "pooled_projections": torch.empty(1, config.pooled_projection_dim, device="meta"),
        }
    else:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given = common | {
            "sample": latents,
            "encoder_hidden_states": torch.empty(1, text, config.cross_attention_dim, device="meta"),
            "added_cond_kwargs": {
                "text_embeds": torch.empty(1, pooled, device="meta"), "time_ids": torch.empty(1, 6, device="meta"),
            },
        }  # fmt: skip
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        denoiser(**given)
    return float(counted.get_total_flops()) / 1e12


def decode_tflop(vae: torch.nn.Module, side: int) -> float:
    """Of decoding one picture."""
    config: Any = vae.config
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        vae.decode(torch.empty(1, config.latent_channels, side // 8, side // 8, device="meta"))  # type: ignore[operator]
    return float(counted.get_total_flops()) / 1e12
