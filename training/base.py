"""Trains a pipeline's denoiser on a captioned folder, from scratch or from where it stands."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from training.folder import CaptionedFolder
from training.latents import encoded
from training.loop import Settings, train
from training.objective import NoiseLevels, objective_of

DROPPED_CAPTIONS = 0.1  # trained without words, so that classifier-free guidance has something to lean on


def train_base(
    pipeline: DiffusionPipeline,
    folder: CaptionedFolder,
    run: Path,
    settings: Settings,
    *,
    side: int,
    levels: NoiseLevels,
    text_length: int = 256,
    on_save: Callable[[int], None] | None = None,
    before_step: Callable[[int], None] = lambda count: None,
) -> None:
    """All of the denoiser's weights learn; text encoders and autoencoder stay as they are.

    Every picture is seen with one of its captions at a time. `before_step` is told the batch size at each step.
    """
    objective = objective_of(pipeline, text_length)
    latents = encoded(pipeline.vae, folder, side, run / "latents.safetensors")
    device = pipeline.vae.device
    parameters = dict(objective.denoiser.named_parameters())
    objective.denoiser.train()

    def loss_of(step: int) -> torch.Tensor:
        rng = random.Random(settings.seed * 7919 + step)
        chosen = [rng.randrange(len(folder)) for _ in range(settings.batch)]
        captions = ["" if rng.random() < DROPPED_CAPTIONS else folder.caption(i, rng) for i in chosen]
        before_step(settings.batch)
        batch = latents[chosen].float().to(device)
        return objective.loss(batch, levels.draw(settings.batch).to(device), objective.condition(captions))

    train(parameters, loss_of, settings, run, on_save=on_save)
    objective.denoiser.eval()
