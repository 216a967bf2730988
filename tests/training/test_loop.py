"""The training loop: it stops and goes on to the bit, and its average is a guest in the live weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.loop import Average, Settings, train

SETTINGS = Settings(steps=6, batch=4, learning_rate=0.1, warmup=2, save_every=3)


class PowerCut(Exception):
    pass


def fresh() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def noisy_loss(model: torch.nn.Linear, dies_at: int | None = None) -> Callable[[int], torch.Tensor]:
    def loss_of(step: int) -> torch.Tensor:
        if step == dies_at:
            raise PowerCut
        x = torch.randn(4, 3)
        error: torch.Tensor = model(x) - x[:, :2] - torch.rand(4, 2)
        return error.square().mean()

    return loss_of


def test_a_stopped_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole, half, rest = fresh(), fresh(), fresh()
    train(dict(whole.named_parameters()), noisy_loss(whole), SETTINGS, tmp_path / "whole")
    with pytest.raises(PowerCut):
        train(dict(half.named_parameters()), noisy_loss(half, dies_at=4), SETTINGS, tmp_path / "stopped")
    train(dict(rest.named_parameters()), noisy_loss(rest), SETTINGS, tmp_path / "stopped")
    assert not torch.equal(half.weight, rest.weight)
    assert torch.equal(whole.weight, rest.weight)
    a, b = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "stopped"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first, again = fresh(), fresh()
    train(dict(first.named_parameters()), noisy_loss(first), SETTINGS, tmp_path)
    train(dict(again.named_parameters()), noisy_loss(again, dies_at=0), SETTINGS, tmp_path)
    assert torch.equal(first.weight, again.weight)


def test_a_training_ends_with_its_average(tmp_path: Path) -> None:
    model = fresh()
    train(dict(model.named_parameters()), noisy_loss(model), SETTINGS, tmp_path)
    state = load_file(tmp_path / "state.safetensors")
    assert torch.equal(model.weight, state["average.weight"])
    assert not torch.equal(model.weight, state["live.weight"])


def test_on_save_sees_the_average_and_training_goes_on_from_the_live_weights(tmp_path: Path) -> None:
    plain, watched = fresh(), fresh()
    seen: dict[int, torch.Tensor] = {}
    train(dict(plain.named_parameters()), noisy_loss(plain), SETTINGS, tmp_path / "plain")
    train(
        dict(watched.named_parameters()), noisy_loss(watched), SETTINGS, tmp_path / "watched",
        on_save=lambda step: seen.update({step: watched.weight.detach().clone()}),
    )  # fmt: skip
    assert list(seen) == [3, 6]
    assert torch.equal(seen[6], watched.weight)
    assert torch.equal(plain.weight, watched.weight)


def test_a_swap_gives_the_live_weights_back_even_after_an_error() -> None:
    model = fresh()
    parameters = dict(model.named_parameters())
    average = Average(parameters, 0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    with average.swapped(parameters):
        assert torch.equal(model.weight, start)
    assert torch.equal(model.weight, start + 1)
    with pytest.raises(PowerCut), average.swapped(parameters):
        raise PowerCut
    assert torch.equal(model.weight, start + 1)


def test_the_average_moves_by_its_decay_once_it_is_old() -> None:
    model = fresh()
    parameters = dict(model.named_parameters())
    average = Average(parameters, 0.75)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    average.update(parameters, step=10_000)
    assert torch.allclose(average.shadow["weight"], start + 0.25)


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    settings = Settings(steps=100, batch=1, learning_rate=1.0, warmup=10, cooldown=0.25)
    assert [settings.rate(step) for step in (0, 9, 50, 75, 100)] == pytest.approx([0.1, 1, 1, 1, 0])
    assert settings.rate(88) == pytest.approx(12 / 25)


def test_progress_is_written_as_lines_of_json(tmp_path: Path) -> None:
    model = fresh()
    train(dict(model.named_parameters()), noisy_loss(model), SETTINGS, tmp_path, log_every=2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(line["loss"] > 0 and line["per_second"] > 0 for line in lines)
