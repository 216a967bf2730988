"""Distils a few-step LoRA for a diffusion pipeline (LCM-LoRA): the student jumps where its teacher walks.

Follows Song et al. 2023 (consistency models) and Luo et al. 2023 (LCM, LCM-LoRA), with one change for small compute:
a teacher this small can be walked to the very end, so that each point of its path is paired with the path's true end
and no target network and no discretisation error of bootstrapping is needed. The teacher is the pipeline with its
adapter off, under classifier-free guidance; the student, with it on, learns the guided end without guidance.

LCMScheduler feeds a student fresh noise between its steps. So every other path starts at such a point: the end of an
earlier path, noised again to one of the later timesteps, from where the teacher walks anew.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, LCMScheduler

from training.folder import CaptionedFolder
from training.loop import Settings, train
from training.lora import EVERY_LAYER, adapted, save_adapter
from training.objective import Conditioning, Diffusion

HUBER = 0.1  # where the loss turns from squares to absolutes, in deviations of a latent


@dataclass(frozen=True)
class Distillation:
    """How the teacher walks, and for how many steps the student is made."""

    guidance: float
    teacher_steps: int = 16  # a multiple of the student's
    student_steps: int = 4
    updates: int = 16  # of the student, for each batch of captions the teacher walks
    emphasis: float = 0.6  # share of training at the student's own timesteps


@dataclass(frozen=True)
class Pairs:
    """Points of teacher's paths: noised latents at timesteps, the captions they belong to, and where they end."""

    points: torch.Tensor  # (n, channels, height, width)
    timesteps: torch.Tensor  # (n,)
    captions: torch.Tensor  # (n,) rows of the round's conditioning
    ends: torch.Tensor  # (n, channels, height, width)


class Paths:
    """Deterministic DDIM (Song et al. 2021) on a grid that holds all timesteps of LCMScheduler's student."""

    def __init__(self, objective: Diffusion, wanted: Distillation) -> None:
        config = objective.scheduler.config
        self.objective = objective
        self.scheduler = LCMScheduler.from_config(config)
        self.scheduler.set_timesteps(wanted.student_steps)
        self.anchors: list[int] = self.scheduler.timesteps.tolist()
        split = wanted.teacher_steps // wanted.student_steps
        self.grid = [
            round(start + (end - start) * part / split)
            for start, end in zip(self.anchors, [*self.anchors[1:], -1], strict=True)
            for part in range(split)
        ]
        self.guidance = wanted.guidance
        self._velocity = config.prediction_type == "v_prediction"

    def _levels(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shares of signal and noise, of shape (n, 1, 1, 1); timestep -1 is the clean end."""
        kept = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps.clamp_min(0)]
        kept = torch.where(timesteps < 0, torch.ones_like(kept), kept)[:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def clean(self, output: torch.Tensor, points: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The latent without noise, by a denoiser's output. In the v form it holds at pure noise too."""
        signal, noise = self._levels(timesteps)
        return signal * points - noise * output if self._velocity else (points - noise * output) / signal

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        signal, share = self._levels(timesteps)
        return signal * latents + share * noise

    def student(self, output: torch.Tensor, points: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What LCMScheduler makes of the student's output: skip and out scalings bind the path's end to itself."""
        skip, out = self.scheduler.get_scalings_for_boundary_condition_discrete(timesteps[:, None, None, None])
        wanted: torch.Tensor = out * self.clean(output, points, timesteps) + skip * points
        return wanted

    def _step(self, output: torch.Tensor, points: torch.Tensor, now: torch.Tensor, then: torch.Tensor) -> torch.Tensor:
        signal, share = self._levels(now)
        noise = signal * output + share * points if self._velocity else output
        return self.noised(self.clean(output, points, now), noise, then)

    @torch.no_grad()
    def walk(
        self, start: torch.Tensor, place: int, words: Conditioning, no_words: Conditioning
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The points of the teacher's path from the grid's `place` on, and its end."""
        both = {name: torch.cat([words[name], no_words[name]]) for name in words}
        points, x = [], start
        for now, then in zip(self.grid[place:], [*self.grid[place + 1 :], -1], strict=True):
            points.append(x)
            times = torch.full((len(x),), now, device=x.device)
            told, free = self.objective.predict(torch.cat([x, x]), times.repeat(2), both).float().chunk(2)
            x = self._step(free + self.guidance * (told - free), x, times, torch.full_like(times, then))
        return points, x

    def pairs(self, words: Conditioning, no_words: Conditioning, shape: Sequence[int], rng: random.Random) -> Pairs:
        """A round of paths: from pure noise to their ends, and from those ends, noised again, to new ones."""
        device = words["encoder_hidden_states"].device
        count, found = len(words["encoder_hidden_states"]), []
        start, place = torch.randn(count, *shape, device=device), 0
        for _ in range(2):
            points, end = self.walk(start, place, words, no_words)
            for offset, x in enumerate(points):
                times = torch.full((count,), self.grid[place + offset], device=device)
                found.append(Pairs(x, times, torch.arange(count, device=device), end))
            again = rng.choice(self.anchors[1:]) if len(self.anchors) > 1 else self.anchors[0]
            place = self.grid.index(again)
            start = self.noised(end, torch.randn_like(end), torch.full((count,), again, device=device))
        return Pairs(*(torch.cat([getattr(p, name) for p in found]) for name in Pairs.__dataclass_fields__))


@contextmanager
def _without_adapter(denoiser: Any) -> Iterator[None]:
    denoiser.disable_adapters()
    try:
        yield
    finally:
        denoiser.enable_adapters()


def unconditional(objective: Diffusion, count: int) -> Conditioning:
    """What the pipeline itself sets beside the words under guidance: no words, or zeros where it was so trained."""
    empty = objective.condition([""] * count)
    if objective.pipeline.config.get("force_zeros_for_empty_prompt"):
        return {name: tensor if name == "time_ids" else torch.zeros_like(tensor) for name, tensor in empty.items()}
    return empty


def huber(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Pseudo-Huber loss, as LCM's own training uses it."""
    return ((found - wanted).square() + HUBER**2).sqrt().sub(HUBER).mean()


def distil(
    pipeline: DiffusionPipeline,
    folder: CaptionedFolder,
    run: Path,
    file: Path,
    settings: Settings,
    wanted: Distillation,
    *,
    rank: int,
    targets: Sequence[str] = EVERY_LAYER,
) -> None:
    """Distils a LoRA of `rank` on `targets` and writes it to `file`; of the folder only the captions are used.

    A step is one update of the student. The pipeline is left as it was.
    """
    objective = Diffusion(pipeline)
    paths = Paths(objective, wanted)
    denoiser, device = objective.denoiser, pipeline.vae.device
    side = denoiser.config.sample_size
    shape = (denoiser.config.in_channels, side, side)
    count = settings.batch
    no_words = unconditional(objective, count)
    current: tuple[int, Pairs, Conditioning] | None = None

    def round_of(number: int) -> tuple[Pairs, Conditioning]:
        """The round's pairs: the same for the same number, so that a resumed run goes on as it would have."""
        nonlocal current
        if current is None or current[0] != number:
            rng = random.Random(settings.seed * 7919 + number)
            torch.manual_seed(settings.seed * 1_000_003 + number)
            words = objective.condition([folder.caption(rng.randrange(len(folder)), rng) for _ in range(count)])
            with _without_adapter(denoiser), torch.autocast(device.type, torch.bfloat16):
                current = number, paths.pairs(words, no_words, shape, rng), words
        return current[1], current[2]

    def loss_of(step: int) -> torch.Tensor:
        pairs, words = round_of(step // wanted.updates)
        torch.manual_seed(settings.seed * 1_000_003 + step)
        own = torch.isin(pairs.timesteps, torch.tensor(paths.anchors, device=device))
        weights = torch.where(own, wanted.emphasis / own.sum(), (1 - wanted.emphasis) / (~own).sum().clamp_min(1))
        chosen = torch.multinomial(weights, settings.batch)
        points, times, rows = pairs.points[chosen], pairs.timesteps[chosen], pairs.captions[chosen]
        with torch.autocast(device.type, torch.bfloat16):
            output = objective.predict(points, times, {name: tensor[rows] for name, tensor in words.items()})
        return huber(paths.student(output.float(), points, times), pairs.ends[chosen])

    torch.manual_seed(settings.seed)
    with adapted(pipeline, rank, rank, targets) as parameters:
        train(parameters, loss_of, settings, run)
        save_adapter(pipeline, file, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.lcm", description="Distils an LCM-LoRA.")
    parser.add_argument("--model", required=True, help="a key of BASE_MODELS whose denoiser is a UNet, such as sdxl")
    parser.add_argument("--folder", required=True, type=Path, help="a captioned folder; only its captions are used")
    parser.add_argument("--out", required=True, type=Path, help="the .safetensors file to write")
    parser.add_argument("--run", type=Path, help="where checkpoints lie (default: beside the file)")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from core.base_models import BASE_MODELS
    from core.loading import load_pipeline

    pipeline = load_pipeline(BASE_MODELS[asked.model], asked.device)
    distil(
        pipeline,
        CaptionedFolder(asked.folder),
        asked.run or asked.out.with_suffix(".run"),
        asked.out,
        Settings(asked.steps, asked.batch, asked.learning_rate, seed=asked.seed, average=0.99),
        Distillation(asked.guidance),
        rank=asked.rank,
    )


if __name__ == "__main__":
    main()
