"""The pocket architectures: one zero token stands for many, and untrained denoisers predict nothing yet."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from transformers import CLIPTokenizer

from tests.training.conftest import BUILDERS, Build
from training.lora import part_name
from training.pocket import models
from training.pocket.text import text_encoder


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 256])
def test_one_counted_zero_token_is_as_many_zero_tokens(pocket: Build, count: int) -> None:
    transformer = pocket("sd3").transformer
    assert isinstance(transformer.transformer_blocks[0].attn.processor, JointAttnProcessor2_0)
    torch.manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 16, 8, 8),
        "timestep": torch.tensor([900.0, 300.0]),
        "pooled_projections": torch.randn(2, 320),
    }
    words = torch.randn(2, 32, 320)

    def told(zeros: int) -> torch.Tensor:
        sample: torch.Tensor = transformer(
            encoder_hidden_states=torch.cat([words, torch.zeros(2, zeros, 320)], 1), **inputs
        ).sample
        return sample

    many, one = told(count), told(1)
    counted = models.CountedZeroToken()
    counted.bias = torch.full((2,), math.log(count))
    transformer.set_attn_processor(counted)
    assert torch.allclose(told(1), many, atol=1e-4)
    assert count == 1 or not torch.allclose(one, many, atol=1e-2)


def test_counts_are_drawn_anew_for_each_of_a_batch_from_1_to_256() -> None:
    counted = models.CountedZeroToken()
    torch.manual_seed(0)
    counted.draw(1000)
    counts = counted.bias.exp()
    assert counts.shape == (1000,)
    assert 1 <= counts.min() < 1.1
    assert 240 < counts.max() <= 256


@pytest.mark.parametrize("family", BUILDERS)
def test_an_untrained_denoiser_predicts_nothing(tokenizer: CLIPTokenizer, family: str) -> None:
    encoders = [text_encoder(tokenizer, width, layers=1) for width in models.TEXT_WIDTHS]
    pipeline = BUILDERS[family](models.autoencoder(), tokenizer, encoders)
    last = {"transformer": "proj_out", "unet": "conv_out"}[part_name(pipeline)]
    assert not any(p.any() for p in getattr(getattr(pipeline, part_name(pipeline)), last).parameters())


@torch.no_grad()
def test_without_its_projection_an_encoder_says_the_same(tokenizer: CLIPTokenizer) -> None:
    whole = text_encoder(tokenizer, 128).eval()
    ids = tokenizer(["a red cat"], padding="max_length", return_tensors="pt").input_ids
    said = [m(ids, output_hidden_states=True).hidden_states for m in (whole, models.without_projection(whole).eval())]
    assert all(torch.equal(a, b) for a, b in zip(*said, strict=True))
