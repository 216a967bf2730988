"""The training loop every trainer shares: seeded, logged, resumable, with averaged weights."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)

Parameters = Mapping[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Settings:
    """How long and how fast. The rate warms up, stays, and falls to nothing over the last `cooldown` of the steps."""

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    cooldown: float = 0.25
    average: float = 0.999  # decay of the averaged weights
    weight_decay: float = 0.0
    seed: int = 0
    save_every: int = 500

    def rate(self, step: int) -> float:
        falling = (self.steps - step) / max(1, self.cooldown * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup), max(0.0, falling))


class Average:
    """Exponential moving average of weights; young averages forget faster, so that early samples are not blurred."""

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.shadow.values()), [p.detach() for p in parameters.values()], 1 - decay)

    @contextmanager
    def swapped(self, parameters: Parameters) -> Iterator[None]:
        """The averaged weights in place of the live ones."""
        live = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(self.shadow[name])
            yield
        finally:
            with torch.no_grad():
                for name, p in parameters.items():
                    p.copy_(live[name])


def _optimiser(parameters: Parameters, settings: Settings) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=True,
    )


def train(
    parameters: Parameters,
    loss_of: Callable[[int], torch.Tensor],
    settings: Settings,
    run: Path,
    *,
    on_save: Callable[[int], None] | None = None,
    log_every: int = 50,
) -> None:
    """Minimises `loss_of(step)` over `parameters`, which end as their own moving average.

    `loss_of` draws whatever it needs from its step number, so that a resumed run goes on as if never stopped.
    State lies in `run/state.safetensors`, figures in `run/log.jsonl`; `on_save` sees the averaged weights.
    """
    run.mkdir(parents=True, exist_ok=True)
    average = Average(parameters, settings.average)
    optimiser = _optimiser(parameters, settings)
    state = run / "state.safetensors"
    start = _restore(state, parameters, average, optimiser) if state.is_file() else 0
    began, since, recent = time.monotonic(), start, []
    for step in range(start, settings.steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)
        loss = loss_of(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * settings.rate(step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(parameters, step)
        recent.append(loss.item())
        if (step + 1) % log_every == 0:
            mean = math.fsum(recent) / len(recent)
            per_second = (step + 1 - since) * settings.batch / (time.monotonic() - began)
            figures = {"step": step + 1, "loss": round(mean, 5), "per_second": round(per_second, 1)}
            with (run / "log.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(figures) + "\n")
            log.info("%s step %d of %d: loss %.4f, %.1f/s", run.name, step + 1, settings.steps, mean, per_second)
            recent.clear()
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _store(state, parameters, average, optimiser, step + 1)
            if on_save is not None:
                with average.swapped(parameters):
                    on_save(step + 1)
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(average.shadow[name])


def _store(path: Path, parameters: Parameters, average: Average, optimiser: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"live.{name}": p.detach() for name, p in parameters.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.shadow.items()}
    for index, entry in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in entry.items()}
    partial = path.with_suffix(".partial")
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, partial, {"step": str(step)})
    partial.replace(path)


def _restore(path: Path, parameters: Parameters, average: Average, optimiser: torch.optim.Optimizer) -> int:
    with safe_open(path, "pt") as stored:
        step = int(stored.metadata()["step"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(tensors[f"live.{name}"])
            average.shadow[name].copy_(tensors[f"average.{name}"])
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            entries.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    log.info("%s resumes at step %d", path.parent.name, step)
    return step
