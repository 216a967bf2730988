"""The autoencoder's latents end with mean 0 and deviation 1, and are encoded once."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from training.autoencoder import reconstruction_loss, whiten
from training.folder import CaptionedFolder
from training.latents import encoded

SIDE = 64


@torch.no_grad()
def posterior(vae: AutoencoderKL, folder: CaptionedFolder) -> tuple[torch.Tensor, torch.Tensor]:
    found = vae.encode(torch.stack([folder.pixels(i, SIDE, SIDE) for i in range(32)])).latent_dist
    return found.mean, found.std


def test_whitened_latents_have_mean_0_and_deviation_1_in_every_channel(
    vae: AutoencoderKL, folder: CaptionedFolder
) -> None:
    whiten(vae, folder, SIDE)
    means, _ = posterior(vae, folder)
    assert means.mean((0, 2, 3)).abs().max() < 1e-3
    assert (means.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_whitening_scales_the_posteriors_noise_with_its_mean(vae: AutoencoderKL, folder: CaptionedFolder) -> None:
    means, noise = posterior(vae, folder)
    whiten(vae, folder, SIDE)
    wanted = noise / means.std((0, 2, 3))[None, :, None, None]
    assert torch.allclose(posterior(vae, folder)[1], wanted, rtol=1e-3)


@torch.no_grad()
def test_whitening_leaves_what_the_decoder_reads_as_it_was_but_for_the_border(
    vae: AutoencoderKL, folder: CaptionedFolder
) -> None:
    before = vae.decoder.conv_in(posterior(vae, folder)[0])
    whiten(vae, folder, SIDE)
    after = vae.decoder.conv_in(posterior(vae, folder)[0])
    assert torch.allclose(before[..., 1:-1, 1:-1], after[..., 1:-1, 1:-1], atol=1e-4)


def test_a_blurred_edge_costs_more_than_the_same_error_spread_evenly() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    blurred = step.clone()
    blurred[..., 3:5] = 0.5
    assert reconstruction_loss(blurred, step) > reconstruction_loss(step + (blurred - step).abs().mean(), step)
    assert reconstruction_loss(step, step) == 0


def test_latents_are_scaled_as_the_model_says_and_then_read_from_the_cache(
    vae: AutoencoderKL, folder: CaptionedFolder, tmp_path: Path
) -> None:
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    cache = tmp_path / "run" / "latents.safetensors"
    found = encoded(vae, folder, SIDE, cache, batch=16)
    exact = (posterior(vae, folder)[0] - 0.25) * 0.5
    assert (found - exact).abs().mean() < 0.01  # encoded in bfloat16
    torch.nn.init.zeros_(vae.encoder.conv_out.weight)
    assert torch.equal(encoded(vae, folder, SIDE, cache), found)


def test_a_cache_of_other_pictures_is_not_read(vae: AutoencoderKL, folder: CaptionedFolder, tmp_path: Path) -> None:
    cache = tmp_path / "latents.safetensors"
    encoded(vae, folder, SIDE, cache)
    fewer = copy.copy(folder)
    fewer.items = folder.items[:2]
    assert len(encoded(vae, fewer, SIDE, cache)) == 2
