"""Early looks: what latents will show, by a linear map from their channels to colours in place of the VAE's decoder."""

from __future__ import annotations

import functools
from typing import Any

import torch

from core.decoding import raster_of
from core.messages import Raster
from core.samplers import SAMPLERS

COLOURS = 12  # pictures that the map is fitted on
SIDE = 64  # their pixels
PER_CELL = 4  # px of a look for each cell of the latents


class Looks:
    """Fitted by least squares on what this very VAE makes of random smooth colours: no table of published factors, and
    a fine-tune's own VAE is met as it is. (That a few channels carry the colours almost linearly is known since
    https://discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204.)"""

    def __init__(self, vae: Any, device: str) -> None:
        """`device` is where the VAE works, which need not be where it rests. It drives out what an offloading plan has
        there: before a run, never within one."""
        pixels = _colours().to(device, vae.dtype)
        latents = vae.encode(pixels).latent_dist.mean.float()
        scaled = (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
        cells = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), scaled.shape[-2:])
        known, wanted = (_rows(one.cpu()) for one in (scaled, cells))
        self._map = torch.linalg.lstsq(_with_one(known), wanted).solution

    def of(self, latents: torch.Tensor) -> Raster:
        """`latents` (1, channels, height, width) without noise, as the denoiser has them: scaled."""
        height, width = latents.shape[-2:]
        colours = (_with_one(_rows(latents.float().cpu())) @ self._map).reshape(1, height, width, 3).permute(0, 3, 1, 2)
        large = torch.nn.functional.interpolate(colours, scale_factor=PER_CELL, mode="bilinear")
        return raster_of(large[0])


class Clearing:
    """Guesses the end of a run from its last two latents: on the straight line through both, where no noise is left.

    Samplers that put in noise anew leave the line; those tell their own guess beside each step's latents.
    """

    def __init__(self, sampler: str, scheduler: Any) -> None:
        self._form, self._scheduler = SAMPLERS[sampler].latents, scheduler
        if self._form == "renoised":
            self._listen()
        self._sigmas: list[float] | None = None
        self._before: tuple[float, torch.Tensor] | None = None
        self._last: tuple[float, torch.Tensor] | None = None

    def cleared(self, latents: torch.Tensor) -> torch.Tensor:
        """To be asked behind every step."""
        if self._form == "renoised":
            return self._told
        if self._sigmas is None:
            self._sigmas = self._scheduler.sigmas.tolist()  # once: to ask a GPU at every step is to wait for it
        sigma = self._sigmas[self._scheduler.step_index]
        # DPM++ and UniPC keep the variance: their latents are the others' over sqrt(1 + sigma²)
        straight = latents * (1 + sigma**2) ** 0.5 if self._form == "vp" else latents
        if self._last is not None and self._last[0] != sigma:  # a second order asks twice at one sigma
            self._before = self._last
        self._last = (sigma, straight)
        if self._before is None:
            return latents
        before, there = self._before
        line: torch.Tensor = straight - sigma * (straight - there) / (sigma - before)
        return line

    def _listen(self) -> None:
        step = self._scheduler.step

        @functools.wraps(step)  # pipelines look at its signature
        def listened(*args: Any, **options: Any) -> Any:
            answer = step(*args, **options)
            self._told: torch.Tensor = answer[1]
            return answer

        self._scheduler.step = listened


def _colours() -> torch.Tensor:
    """Smooth random colours from -1 to 1."""
    few = torch.rand(COLOURS, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    return torch.nn.functional.interpolate(few, size=(SIDE, SIDE), mode="bicubic").clamp(-1, 1)


def _rows(planes: torch.Tensor) -> torch.Tensor:
    return planes.permute(0, 2, 3, 1).reshape(-1, planes.shape[1])


def _with_one(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
