"""The benches of speed run from end to end at a size that takes seconds, and their parts add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

import core.studio
from bench import cpu, gpu
from bench.floors import forward_tflop
from bench.full_size import LARGE, MEDIUM, XL, FullSize

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bench watches in the studio is as before for the tests that follow."""
    for name in ("png_of", "with_recipe", "recorded"):
        monkeypatch.setattr(core.studio, name, getattr(core.studio, name))


def test_cpu_draws_the_same_pixels_each_way_and_its_parts_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    cpu.main(["--runs", "1", "--models", "pocket-sdxl-lcm", "--json", str(figures)])
    found = json.loads(figures.read_text())["pocket-sdxl-lcm"]
    assert set(found["ways"]) == {cpu.BARE, cpu.APP, cpu.AGAIN, cpu.CHANGED, cpu.HTTP}
    parts = [figure["p50_ms"] for name, figure in found["parts"].items() if name != "blend, changed"]
    assert sum(parts) == pytest.approx(found["ways"][cpu.APP]["p50_ms"])
    assert found["parts"][cpu.DENOISE]["p50_ms"] > found["parts"][cpu.PNG]["p50_ms"] > 0
    assert f"| {cpu.HTTP} |" in capsys.readouterr().out


# What a GPU machine need not have; bitsandbytes and the rest are the app's.
WITHOUT = ("gradio", "gradio_client", "spaces", "bitsandbytes", "pyarrow", "datasets", "pydantic_settings")
BARE_MACHINE = f"""
import sys
sys.modules.update(dict.fromkeys({WITHOUT!r}))
from bench import gpu
few = ["--tiny", "--runs", "1", "--minutes", "0.1", "--models", "medium", "xl"]
sys.exit(gpu.main([*few, "--tflops", "0.05", "--json", sys.argv[1]]))
"""


def test_gpu_compares_three_ways_on_a_machine_that_has_only_torch_and_diffusers(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ran = subprocess.run(
        [sys.executable, "-c", BARE_MACHINE, str(figures)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(figures.read_text())
    for model in (MEDIUM, XL):
        of_model = found[model.title]
        for name in (gpu.OURS, gpu.PLAIN, gpu.TUNED):
            assert set(of_model[name]["pictures"]) == set(model.modes)
            assert len(of_model[name]["changes"][gpu.FIRST]) == 1
        assert set(of_model["floors_ms"]) == set(model.modes)
        assert f"{model.title}: change of LoRAs" in ran.stdout


def test_gpu_has_the_tuned_one_draw_with_the_loras_of_a_blend_alone(tmp_path: Path) -> None:
    stage = gpu.Stage(XL, "cpu", True, XL.loras(tmp_path, 3, True), {})
    plain, tuned = gpu.Diffusers(stage), gpu.Tuned(stage)

    def seen(way: gpu.Diffusers, blend: gpu.Blend) -> torch.Tensor:
        way.change(blend)
        small = {"num_inference_steps": 1, "width": 64, "height": 64, "output_type": "latent"}
        with torch.inference_mode():
            generator = torch.Generator().manual_seed(0)
            made: torch.Tensor = way.pipeline(prompt="a cat", generator=generator, **small).images
        return made

    blends: list[gpu.Blend] = [{0: 1.0, 1: 1.0}, {2: 1.0}, {1: 1.0, 2: 1.0}]
    pictures = [seen(plain, blend) for blend in blends]
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-4)
    for _ in range(2):
        for blend, picture in zip(blends, pictures, strict=True):
            assert torch.allclose(seen(tuned, blend), picture, atol=1e-4)
            counted = counters["stats"]["unique_graphs"]
    assert torch.allclose(seen(tuned, blends[1]), pictures[1], atol=1e-4)
    assert counters["stats"]["unique_graphs"] == counted  # none was compiled again


def test_gpu_without_a_gpu_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "CUDA GPU" in said.err


@pytest.mark.parametrize(("model", "text", "tflop"), [(LARGE, 333, 31.12), (MEDIUM, 333, 11.25), (XL, 77, 6.76)])
def test_the_models_of_the_gpu_bench_have_the_real_ones_arithmetic(model: FullSize, text: int, tflop: float) -> None:
    """Against what was computed by hand from the published configurations."""
    with torch.device("meta"):
        assert forward_tflop(model.denoiser(True), 1024, text) == pytest.approx(tflop, rel=0.02)
