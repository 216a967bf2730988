"""Decoding: what overflows in halves is decoded once more in floats, and what is not finite is said in words."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from core.base_models import BASE_MODELS
from core.decoding import Decoder
from core.engine import LocalEngine
from core.errors import LoomError
from core.machine import Machine
from core.messages import Done, Failed, Job, Raster
from core.request import request_from
from training.pocket import models

LATENTS = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)) * 2


def autoencoder(scale: float, dtype: torch.dtype) -> AutoencoderKL:
    """A real decoder with values `scale` times as large on the way as they come out, as SDXL's published one has
    them: its last normalisation takes them back."""
    torch.manual_seed(0)
    vae = models.autoencoder()
    vae.decoder.conv_norm_out.eps = 0.0
    with torch.no_grad():
        last = vae.decoder.up_blocks[-1].resnets[-1]
        last.conv2.weight.mul_(scale)
        last.conv2.bias.mul_(scale)
    vae.register_to_config(force_upcast=False)
    return vae.to(dtype).eval()


def pixels(raster: Raster) -> np.ndarray:
    return np.frombuffer(raster.data, np.uint8).astype(int)


@torch.inference_mode()
def test_a_picture_that_overflows_in_halves_is_the_one_that_floats_decode() -> None:
    halves = autoencoder(2e5, torch.float16)
    assert not torch.isfinite(halves.decode(LATENTS.half(), return_dict=False)[0]).all()
    decoder, floats = Decoder(halves), Decoder(autoencoder(2e5, torch.float32))
    found, expected = decoder.picture(LATENTS.half()), floats.picture(LATENTS.half().float())
    assert abs(pixels(found) - pixels(expected)).max() <= 3  # the weights were rounded to halves
    assert len(set(found.data)) > 10
    assert halves.dtype == torch.float16


@torch.inference_mode()
def test_the_next_picture_is_decoded_in_halves_again() -> None:
    vae = autoencoder(2e5, torch.float16)
    decoder, plain = Decoder(vae), Decoder(autoencoder(1.0, torch.float16))
    first = plain.picture(LATENTS.half())
    decoder.picture(LATENTS.half())
    vae.load_state_dict(plain._vae.state_dict())
    assert decoder.picture(LATENTS.half()) == first


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_not_finite_in_floats_either_is_a_sentence_and_the_vae_is_as_before(dtype: torch.dtype) -> None:
    vae = autoencoder(1.0, dtype)
    decoder = Decoder(vae)
    before = decoder.picture(LATENTS.to(dtype))
    with pytest.raises(LoomError, match="not finite"):
        decoder.picture(torch.full((1, 16, 8, 8), float("nan"), dtype=dtype))
    bias = vae.decoder.conv_out.bias.data.clone()
    vae.decoder.conv_out.bias.data.fill_(float("inf"))
    with pytest.raises(LoomError, match="not finite"):
        decoder.picture(LATENTS.to(dtype))
    vae.decoder.conv_out.bias.data.copy_(bias)
    assert vae.dtype == dtype
    assert decoder.picture(LATENTS.to(dtype)) == before


def test_a_published_decoder_that_overflows_is_kept_in_floats() -> None:
    vae = autoencoder(1.0, torch.float16)
    vae.register_to_config(force_upcast=True)
    Decoder(vae)
    assert vae.dtype == torch.float32


@pytest.mark.usefixtures("random_pocket")
def test_after_a_picture_that_is_not_finite_the_next_request_works() -> None:
    engine = LocalEngine(Machine("cpu"))
    assert BASE_MODELS["pocket-sd3"].embedded
    request = request_from({"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64}, "pocket-sd3")

    def last() -> Done | Failed:
        *_, message = engine.run(Job(request), threading.Event())
        assert isinstance(message, Done | Failed)
        return message

    before = last()
    assert engine._easel is not None
    bias = engine._easel.pipeline.vae.decoder.conv_out.bias.data
    kept = bias.clone()
    bias.fill_(float("nan"))
    failed = last()
    assert isinstance(failed, Failed)
    assert "not finite" in str(failed.error)
    bias.copy_(kept)
    after = last()
    assert isinstance(before, Done)
    assert isinstance(after, Done)
    assert after.pictures == before.pictures
