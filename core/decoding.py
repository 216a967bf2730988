"""Decoding: from latents to a picture, once more in floats where halves overflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from core.errors import LoomError
from core.messages import Raster

log = logging.getLogger(__name__)


class Decoder:
    """One VAE, which it keeps in the dtype that it decodes in."""

    def __init__(self, vae: Any) -> None:
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            vae.to(torch.float32)  # SDXL's decoder overflows in halves: black pictures
        self._vae, self._dtype = vae, vae.dtype

    def picture(self, latents: torch.Tensor) -> Raster:
        """Of `latents` (1, channels, height, width) as the denoiser has them: scaled. Raises LoomError for a picture
        that is not finite in floats either."""
        if self._vae.dtype != self._dtype:
            self._vae.to(self._dtype)  # SDXL's img2img leaves it in halves
        pixels = self._decoded(latents)
        if not _finite(pixels) and self._dtype != torch.float32 and _finite(latents):
            log.warning("A picture overflowed in %s: it was decoded once more in float32", self._dtype)
            with self._in_floats():
                pixels = self._decoded(latents)
        if not _finite(pixels):
            raise LoomError("The picture came out as noise without end (not finite): lower the LoRA weights.")
        return raster_of(pixels)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        config = self._vae.config
        unscaled = latents.to(self._vae.dtype) / config.scaling_factor + (config.shift_factor or 0.0)
        pixels: torch.Tensor = self._vae.decode(unscaled, return_dict=False)[0][0].float()
        return pixels

    @contextmanager
    def _in_floats(self) -> Iterator[None]:
        """For this picture only: what another one looks like must not depend on what was drawn before it."""
        self._vae.to(torch.float32)
        try:
            yield
        finally:
            self._vae.to(self._dtype)


def raster_of(pixels: torch.Tensor) -> Raster:
    """Of `pixels` (3, height, width), floats from -1 to 1."""
    rows = (pixels.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
    return Raster(rows.shape[1], rows.shape[0], rows.numpy().tobytes())


def _finite(values: torch.Tensor) -> bool:
    return bool(torch.isfinite(values).all())
