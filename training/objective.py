"""What a denoiser is trained to predict: velocity on straight paths (SD3), v or noise on a diffusion's (SDXL, SD1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline

Conditioning = dict[str, torch.Tensor]


@dataclass(frozen=True)
class NoiseLevels:
    """Training noise levels: sigmoid of a normal draw, as a share of the way to pure noise (SD3 paper, section 3.1)."""

    mean: float = 0.0
    deviation: float = 1.0

    def draw(self, count: int) -> torch.Tensor:
        return torch.sigmoid(self.mean + self.deviation * torch.randn(count))


class Objective(Protocol):
    """One family's way to noise latents and to judge a prediction. Latents are (n, channels, height, width)."""

    denoiser: torch.nn.Module

    def condition(self, captions: list[str]) -> Conditioning: ...

    def loss(self, latents: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor: ...


class StraightPaths:
    """Rectified flow: x = (1 - s)·latent + s·noise, target noise - latent (Esser et al. 2024, SD3)."""

    def __init__(self, pipeline: StableDiffusion3Pipeline, text_length: int) -> None:
        self.pipeline, self.denoiser, self._text_length = pipeline, pipeline.transformer, text_length

    @torch.no_grad()
    def condition(self, captions: list[str]) -> Conditioning:
        with torch.autocast(self.denoiser.device.type, torch.bfloat16):
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                captions, None, None, do_classifier_free_guidance=False, max_sequence_length=self._text_length
            )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    def predict(self, noised: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        result: torch.Tensor = self.denoiser(noised, timestep=1000 * levels, **conditioning).sample
        return result

    def loss(self, latents: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        noise = torch.randn_like(latents)
        s = levels[:, None, None, None]
        with torch.autocast(latents.device.type, torch.bfloat16):
            velocity = self.predict((1 - s) * latents + s * noise, levels, conditioning)
        return F.mse_loss(velocity.float(), noise - latents)


class Diffusion:
    """Variance-preserving diffusion, betas and prediction type the scheduler's own (Ho 2020; Salimans & Ho 2022)."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline, self.denoiser = pipeline, pipeline.unet
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)

    @torch.no_grad()
    def condition(self, captions: list[str]) -> Conditioning:
        if not isinstance(self.pipeline, StableDiffusionXLPipeline):
            device = self.denoiser.device
            return {"encoder_hidden_states": self.pipeline.encode_prompt(captions, device, 1, False)[0]}
        with torch.autocast(self.denoiser.device.type, torch.bfloat16):
            embeds, _, pooled, _ = self.pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
        side = float(self.denoiser.config.sample_size * self.pipeline.vae_scale_factor)
        sizes = torch.tensor([side, side, 0.0, 0.0, side, side], device=embeds.device).expand(len(captions), 6)
        return {"encoder_hidden_states": embeds, "text_embeds": pooled, "time_ids": sizes}

    def predict(self, noised: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        added: dict[str, Any] = {k: v for k, v in conditioning.items() if k != "encoder_hidden_states"}
        result: torch.Tensor = self.denoiser(
            noised, timesteps, conditioning["encoder_hidden_states"], added_cond_kwargs=added or None
        ).sample
        return result

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if self.scheduler.config.prediction_type == "v_prediction":
            velocity: torch.Tensor = self.scheduler.get_velocity(latents, noise, timesteps)
            return velocity
        return noise

    def loss(self, latents: torch.Tensor, levels: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        noise = torch.randn_like(latents)
        timesteps = (
            (levels * self.scheduler.config.num_train_timesteps)
            .long()
            .clamp_(0, self.scheduler.config.num_train_timesteps - 1)
        )
        with torch.autocast(latents.device.type, torch.bfloat16):
            predicted = self.predict(self.scheduler.add_noise(latents, noise, timesteps), timesteps, conditioning)
        return F.mse_loss(predicted.float(), self.target(latents, noise, timesteps))


def objective_of(pipeline: DiffusionPipeline, text_length: int = 256) -> StraightPaths | Diffusion:
    """The objective that a loaded pipeline was trained with. `text_length` is SD3's T5 length."""
    if isinstance(pipeline, StableDiffusion3Pipeline):
        return StraightPaths(pipeline, text_length)
    return Diffusion(pipeline)
