"""A folder's pictures as latents, encoded once and kept beside the run."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file

from training.folder import CaptionedFolder

log = logging.getLogger(__name__)


@torch.no_grad()
def encoded(vae: AutoencoderKL, folder: CaptionedFolder, side: int, cache: Path, batch: int = 32) -> torch.Tensor:
    """Scaled latents of all pictures as (n, channels, side/8, side/8) half floats.

    Read from `cache` if they were made there of this very folder at this size, else encoded and written to it.
    """
    origin = hashlib.sha256(f"{side}\n{folder.items}".encode()).hexdigest()
    if cache.is_file():
        with safe_open(cache, "pt") as stored:
            if (stored.metadata() or {}).get("origin") == origin:
                latents: torch.Tensor = stored.get_tensor("latents")
                return latents
    parts = []
    for start in range(0, len(folder), batch):
        numbers = range(start, min(start + batch, len(folder)))
        pixels = torch.stack([folder.pixels(i, side, side) for i in numbers]).to(vae.device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            means = vae.encode(pixels).latent_dist.mean.float()
        parts.append(((means - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor).half().cpu())
        if start % (100 * batch) == 0:
            log.info("%s: %d of %d pictures encoded", cache.parent.name, start, len(folder))
    latents = torch.cat(parts)
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents}, cache, {"origin": origin})
    return latents
