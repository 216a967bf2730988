"""Distillation: the student is read as LCMScheduler reads it, and the teacher walks DDIM to the path's end."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, LCMScheduler
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import Build, latents, same, state_of
from training.folder import CaptionedFolder
from training.lcm import Distillation, Paths, _without_adapter, distil, huber, unconditional
from training.loop import Settings
from training.lora import ATTENTION, adapted
from training.objective import Diffusion

WANTED = Distillation(guidance=3.0, teacher_steps=4, student_steps=2, updates=2)


@pytest.fixture(scope="module")
def objective(pocket: Build) -> Diffusion:
    """To look at, not to change."""
    return Diffusion(pocket("sdxl"))


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_student_is_what_lcmscheduler_calls_denoised(
    objective: Diffusion, monkeypatch: pytest.MonkeyPatch, prediction: str, steps: int
) -> None:
    published = DDPMScheduler.from_config(
        objective.scheduler.config,
        prediction_type=prediction,
        rescale_betas_zero_snr=prediction == "v_prediction",  # at zero signal, noise does not tell the picture
    )
    monkeypatch.setattr(objective, "scheduler", published)
    paths = Paths(objective, Distillation(3.0, student_steps=steps))
    scheduler = LCMScheduler.from_config(published.config)
    scheduler.set_timesteps(steps)
    assert paths.anchors == scheduler.timesteps.tolist()
    torch.manual_seed(0)
    for timestep in scheduler.timesteps:
        points, output = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
        denoised = scheduler.step(output, timestep, points).denoised
        assert torch.allclose(paths.student(output, points, timestep.repeat(2)), denoised, rtol=1e-4, atol=1e-5)


def test_near_the_end_the_student_holds_on_to_its_point_as_lcmscheduler_does(objective: Diffusion) -> None:
    scheduler = LCMScheduler.from_config(objective.scheduler.config)
    scheduler.set_timesteps(timesteps=[1, 0])
    points, output = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    paths = Paths(objective, WANTED)
    for timestep in scheduler.timesteps:
        denoised = scheduler.step(output, timestep, points).denoised
        assert torch.allclose(paths.student(output, points, timestep.repeat(2)), denoised, rtol=1e-4, atol=1e-5)
    assert torch.allclose(denoised, points)


@pytest.mark.parametrize(("teacher", "student"), [(4, 1), (16, 4), (12, 2), (4, 4)])
def test_the_teachers_grid_falls_through_all_of_the_students_timesteps(
    objective: Diffusion, teacher: int, student: int
) -> None:
    paths = Paths(objective, Distillation(3.0, teacher_steps=teacher, student_steps=student))
    assert len(paths.grid) == teacher
    assert paths.grid[:: teacher // student] == paths.anchors
    assert all(now > then for now, then in itertools.pairwise([*paths.grid, -1]))


def test_the_teacher_walks_ddim_to_the_clean_end(pocket: Build) -> None:
    """A model that says v = 0 turns each point by the angle between two noise levels: x shrinks by its cosine."""
    objective = Diffusion(pocket("sdxl"))
    for parameter in objective.denoiser.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    paths = Paths(objective, WANTED)
    words, start = objective.condition(["a cat"]), torch.randn(1, 16, 8, 8)
    points, end = paths.walk(start, 1, words, unconditional(objective, 1))
    angles = [math.acos(math.sqrt(paths.scheduler.alphas_cumprod[t])) for t in paths.grid[1:]]
    shrinks = [math.cos(a - b) for a, b in itertools.pairwise([*angles, 0.0])]
    assert len(points) == 3
    assert torch.equal(points[0], start)
    assert torch.allclose(points[2], start * math.prod(shrinks[:2]), atol=1e-5)
    assert torch.allclose(end, start * math.prod(shrinks), atol=1e-5)


def test_the_teacher_is_guided_away_from_no_words(objective: Diffusion) -> None:
    words, no_words, start = objective.condition(["a cat"]), unconditional(objective, 1), torch.randn(1, 16, 8, 8)
    ends = {g: Paths(objective, Distillation(g, 2, 1)).walk(start, 0, words, no_words)[1] for g in (0.0, 1.0, 3.0)}
    own = Paths(objective, Distillation(1.0, 2, 1)).walk(start, 0, no_words, no_words)[1]
    assert torch.allclose(ends[0.0], own, atol=1e-4)
    assert (ends[3.0] - own).norm() > 1.5 * (ends[1.0] - own).norm() > 0


def test_each_point_of_a_round_lies_on_the_grid_beside_its_own_words_and_end(objective: Diffusion) -> None:
    paths = Paths(objective, WANTED)
    words, no_words = objective.condition(["a cat", "a boat"]), unconditional(objective, 2)
    torch.manual_seed(0)
    pairs = paths.pairs(words, no_words, (16, 8, 8), random.Random(0))
    assert sorted(set(pairs.timesteps.tolist())) == sorted(paths.grid)
    last = pairs.timesteps == paths.grid[-1]
    chosen = {name: tensor[pairs.captions[last]] for name, tensor in words.items()}
    empty = {name: tensor[pairs.captions[last]] for name, tensor in no_words.items()}
    again = paths.walk(pairs.points[last], len(paths.grid) - 1, chosen, empty)[1]
    assert torch.allclose(again, pairs.ends[last], atol=1e-4)


def test_a_model_trained_with_zeros_for_no_words_is_walked_with_zeros(pocket: Build) -> None:
    pipeline = pocket("sdxl")
    assert unconditional(Diffusion(pipeline), 1)["encoder_hidden_states"].any()
    pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    zeros = unconditional(Diffusion(pipeline), 1)
    assert not zeros["encoder_hidden_states"].any()
    assert not zeros["text_embeds"].any()
    assert zeros["time_ids"].any()


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_the_loss_is_nothing_for_the_same_and_never_more_than_the_distance(found: float, wanted: float) -> None:
    a, b = torch.tensor(found), torch.tensor(wanted)
    assert huber(a, a).item() == pytest.approx(0, abs=1e-6)
    assert -1e-6 <= huber(a, b).item() <= (a - b).abs().item() + 1e-6


def test_the_teacher_is_the_pipeline_without_the_student(pocket: Build) -> None:
    pipeline = pocket("sdxl")
    bare = latents(pipeline)
    with adapted(pipeline, 2, 2, ATTENTION) as parameters:
        for parameter in parameters.values():
            torch.nn.init.constant_(parameter, 0.2)
        with _without_adapter(pipeline.unet):
            assert torch.equal(latents(pipeline), bare)
        assert not torch.allclose(latents(pipeline), bare, atol=0.01)


def test_a_distilled_lora_changes_the_picture_and_leaves_the_pipeline_as_it_was(
    pocket: Build, folder: CaptionedFolder, tmp_path: Path
) -> None:
    pipeline = pocket("sdxl")
    before, bare = state_of(pipeline.unet), latents(pipeline)
    settings = Settings(steps=3, batch=2, learning_rate=0.05, warmup=1, average=0.5)
    distil(pipeline, folder, tmp_path / "run", tmp_path / "lcm.safetensors", settings, WANTED, rank=2)
    assert same(before, state_of(pipeline.unet))
    pipeline.load_lora_weights(tmp_path, weight_name="lcm.safetensors")
    assert (latents(pipeline) - bare).abs().mean() > 0.02
