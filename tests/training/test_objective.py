"""Objectives: noise as the family's own scheduler adds it, and conditioning as its pipeline makes it."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import Build
from training.objective import Diffusion, NoiseLevels, StraightPaths, objective_of

CAPTIONS = ["a red cat", "a blue boat on the sea"]


@given(st.floats(-3, 3), st.floats(0.1, 2), st.integers(0, 2**32))
def test_noise_levels_lie_between_the_picture_and_pure_noise(mean: float, deviation: float, seed: int) -> None:
    torch.manual_seed(seed)
    levels = NoiseLevels(mean, deviation).draw(64)
    assert ((levels > 0) & (levels < 1)).all()


def test_a_higher_mean_trains_at_higher_noise() -> None:
    torch.manual_seed(0)
    assert NoiseLevels(1.0, 1.0).draw(1000).mean() > 0.6 > NoiseLevels(0.0, 1.0).draw(1000).mean() > 0.4


@pytest.mark.parametrize("length", [1, 7])
def test_sd3_is_told_the_words_and_then_as_many_zero_tokens_as_asked_for(pocket: Build, length: int) -> None:
    words = objective_of(pocket("sd3"), length).condition(CAPTIONS)["encoder_hidden_states"]
    assert words.shape == (2, 32 + length, 320)
    assert not words[:, 32:].any()
    assert words[:, :32].any(-1).all()


@pytest.mark.parametrize("family", ["sd3", "sdxl"])
def test_a_loss_reaches_the_denoiser_alone_and_depends_on_the_words(pocket: Build, family: str) -> None:
    pipeline = pocket(family)
    objective = objective_of(pipeline, 1)
    objective.denoiser.requires_grad_(True)
    losses = []
    for captions in (CAPTIONS, CAPTIONS[::-1]):
        torch.manual_seed(0)
        levels = torch.tensor([0.5, 0.9])
        losses.append(objective.loss(torch.randn(2, 16, 8, 8), levels, objective.condition(captions)))
    losses[0].backward()  # type: ignore[no-untyped-call]
    assert losses[0] != losses[1]
    assert all(parameter.grad is not None for parameter in objective.denoiser.parameters() if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in pipeline.text_encoder_2.parameters())


def test_sd3_is_asked_for_noise_less_latent(pocket: Build) -> None:
    objective = objective_of(pocket("sd3"), 1)
    assert isinstance(objective, StraightPaths)
    torch.nn.init.zeros_(objective.denoiser.proj_out.weight)
    torch.nn.init.constant_(objective.denoiser.proj_out.bias, -3)  # right but for the noise
    latents, words = torch.full((2, 16, 8, 8), 3.0), objective.condition(CAPTIONS)
    torch.manual_seed(0)
    loss = objective.loss(latents, torch.tensor([0.1, 0.9]), words)
    torch.manual_seed(0)
    assert loss == pytest.approx(torch.randn_like(latents).square().mean().item())


def test_a_diffusion_is_asked_for_what_its_scheduler_predicts(pocket: Build) -> None:
    pipeline = pocket("sdxl")
    latents, noise = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    timesteps = torch.tensor([10, 900])
    scheduler = pipeline.scheduler
    velocity = Diffusion(pipeline).target(latents, noise, timesteps)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(scheduler.config, prediction_type="epsilon")
    assert torch.equal(Diffusion(pipeline).target(latents, noise, timesteps), noise)
    assert not torch.allclose(velocity, noise)
