"""Trains an AutoencoderKL on a folder of pictures, its latents ending with mean 0 and deviation 1."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.folder import CaptionedFolder
from training.loop import Settings, train

KL_WEIGHT = 1e-6
LATENT_NOISE = 0.1  # the decoder learns to forgive what a denoiser leaves behind, in deviations of the latent


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(restored: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Absolute error of pixels plus that of their gradients, which keeps edges sharp without a perceptual network."""
    loss = F.l1_loss(restored, pixels)
    for a, b in zip(_edges(restored), _edges(pixels), strict=True):
        loss = loss + 0.5 * F.l1_loss(a, b)
    return loss


@torch.no_grad()
def whiten(vae: AutoencoderKL, folder: CaptionedFolder, side: int, pictures: int = 512) -> None:
    """Folds the latents' mean and deviation into the convolutions around them.

    After it `scaling_factor` is 1 and `shift_factor` 0, which SD3's and SDXL's pipelines read differently.
    """
    means = torch.cat(
        [
            vae.encode(torch.stack([folder.pixels(i + j, side, side) for j in range(32)])).latent_dist.mean
            for i in range(0, min(pictures, len(folder)) - 31, 32)
        ]
    )
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    channels = len(mean)
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] = (out.bias[:channels] - mean) / deviation
    out.bias[channels:] -= 2 * deviation.log()
    into.bias += (into.weight * mean[None, :, None, None]).sum((1, 2, 3))
    into.weight *= deviation[None, :, None, None]


def train_autoencoder(
    vae: AutoencoderKL, folder: CaptionedFolder, run: Path, settings: Settings, *, side: int, crop: int
) -> None:
    """Trains on random `crop` × `crop` parts of `side` × `side` pictures; whitens half-way and at the end."""
    parameters = dict(vae.named_parameters())

    def loss_of(step: int) -> torch.Tensor:
        if step == settings.steps // 2:
            whiten(vae, folder, side)
        rng = random.Random(settings.seed * 7919 + step)
        pixels = []
        for _ in range(settings.batch):
            picture = folder.pixels(rng.randrange(len(folder)), side, side)
            x, y = rng.randrange(side - crop + 1), rng.randrange(side - crop + 1)
            pixels.append(picture[:, y : y + crop, x : x + crop])
        batch = torch.stack(pixels)
        with torch.autocast(batch.device.type, torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            latents = posterior.sample()
            latents = latents + LATENT_NOISE * latents.detach().float().std() * torch.randn_like(latents)
            restored = vae.decode(latents).sample
        loss: torch.Tensor = reconstruction_loss(restored.float(), batch) + KL_WEIGHT * posterior.kl().float().mean()
        return loss

    train(parameters, loss_of, settings, run)
    whiten(vae, folder, side)
