"""Trains a pipeline's denoiser on a captioned folder, from scratch or from where it stands."""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from training.folder import CaptionedFolder
from training.latents import encoded
from training.loop import Settings, train
from training.objective import NoiseLevels, Objective, objective_of

DROPPED_CAPTIONS = 0.1  # trained without words, so that classifier-free guidance has something to lean on


def captioned_loss(
    objective: Objective,
    folder: CaptionedFolder,
    latents: torch.Tensor,
    settings: Settings,
    levels: NoiseLevels,
    before_step: Callable[[int], None],
) -> Callable[[int], torch.Tensor]:
    """The loss of a step's batch: pictures of the folder, each under one of its captions or under none."""
    device = next(objective.denoiser.parameters()).device

    def loss_of(step: int) -> torch.Tensor:
        rng = random.Random(settings.seed * 7919 + step)
        chosen = [rng.randrange(len(folder)) for _ in range(settings.batch)]
        captions = ["" if rng.random() < DROPPED_CAPTIONS else folder.caption(i, rng) for i in chosen]
        before_step(settings.batch)
        batch = latents[chosen].float().to(device)
        return objective.loss(batch, levels.draw(settings.batch).to(device), objective.condition(captions))

    return loss_of


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
    loss_of = captioned_loss(objective, folder, latents, settings, levels, before_step)
    parameters = dict(objective.denoiser.named_parameters())
    objective.denoiser.train()

    train(parameters, loss_of, settings, run, on_save=on_save)
    objective.denoiser.eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.base", description=__doc__)
    parser.add_argument("--model", required=True, help="a key of BASE_MODELS to go on from, such as sdxl or pocket-sd3")
    parser.add_argument("--folder", required=True, type=Path, help="pictures beside a metadata.jsonl")
    parser.add_argument("--out", required=True, type=Path, help="folder to write the whole pipeline to")
    parser.add_argument("--run", type=Path, help="where checkpoints lie (default: beside the result)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--side", type=int, help="side of the training pictures (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from core.base_models import BASE_MODELS
    from core.loading import load_pipeline

    entry = BASE_MODELS[asked.model]
    pipeline = load_pipeline(entry, asked.device)
    objective_of(pipeline).denoiser.requires_grad_(True)
    train_base(
        pipeline,
        CaptionedFolder(asked.folder),
        asked.run or asked.out.with_suffix(".run"),
        Settings(asked.steps, asked.batch, asked.learning_rate, seed=asked.seed, average=0.99),
        side=asked.side or entry.side,
        levels=NoiseLevels(),
        text_length=entry.t5_tokens or 256,
    )
    pipeline.save_pretrained(asked.out)


if __name__ == "__main__":
    main()
