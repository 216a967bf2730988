"""The CPU's memory counts too: plans that let weights wait there are chosen where they have room for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.base_models import BASE_MODELS
from core.errors import ModelUnavailable
from core.machine import Machine, best_model, host_memory
from core.memory import FULL, PLANS, fits, plan_for, rests
from core.parts import PARTS

GB = 1_000_000_000
LARGE, SDXL = BASE_MODELS["sd3.5-large"], BASE_MODELS["sdxl"]


def test_what_waits_in_the_cpus_memory_is_counted_by_its_parts() -> None:
    encoders = 2 * sum(part.numbers for name, part in PARTS["sd3.5-large"].items() if name.startswith("text_encoder"))
    assert rests(LARGE, PLANS["encoders-off"]) == encoders
    assert 27 * GB < rests(LARGE, PLANS["group-offload"]) < rests(LARGE, PLANS["model-offload"]) < 29 * GB
    assert [rests(LARGE, PLANS[name]) for name in ("full", "tiled", "t5-nf4", "nf4", "no-t5")] == [0] * 5
    assert rests(SDXL, PLANS["model-offload"]) < 8 * GB


@pytest.mark.parametrize(("gpu", "host", "chosen"), [
    (10, None, "group-offload"), (10, 32, "group-offload"),
    (28, 64, "encoders-off"), (28, 16, "encoders-off"), (28, 8, "t5-8bit"),
    (20, 64, "model-offload"), (20, 16, "nf4"),
])  # fmt: skip
def test_a_plan_is_chosen_that_has_room_on_both_sides(gpu: int, host: int | None, chosen: str) -> None:
    room = None if host is None else host * GB
    plan = plan_for(LARGE, "cuda", gpu * GB, host=room)
    assert plan.name == chosen
    assert fits(LARGE, plan, gpu * GB, room)


def test_too_little_of_the_cpus_memory_is_one_sentence_with_the_plan_that_fits_or_none() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        plan_for(LARGE, "cuda", 20 * GB, "group-offload", 16 * GB)
    assert str(caught.value) == (
        "Stable Diffusion 3.5 Large lays about 27.5 GB into the CPU's memory with the plan group-offload, and 16.0 GB "
        "are free there: start with --plan nf4, which takes 11.5 GB (other pictures, of somewhat less quality)."
    )
    words = (
        r"lays about 27\.\d GB into the CPU's memory even with the plan group-offload, and 16\.0 GB are free there: "
    )
    assert Machine("cuda", 10.0, host_gb=32.0, has_token=True).why_not(LARGE) is None
    with pytest.raises(ModelUnavailable, match=f"{words}choose a smaller model"):
        Machine("cuda", 8.0, host_gb=16.0).plan_of(LARGE)


def test_where_a_gpu_runs_out_nothing_is_tried_that_the_cpus_memory_cannot_hold() -> None:
    tight, roomy = Machine("cuda", 40.0, host_gb=8.0), Machine("cuda", 40.0)
    assert (tight.plan_of(LARGE), roomy.plan_of(LARGE)) == (FULL, FULL)
    names = {machine: getattr(machine.smaller_plan(FULL, LARGE), "name", None) for machine in (tight, roomy)}
    assert names == {tight: "tiled", roomy: "encoders-off"}
    assert tight.smaller_plan(PLANS["nf4"], LARGE) is None
    assert best_model(Machine("cuda", 2.5, has_token=True, host_gb=4.0)) == "sd1.5-lcm"


@pytest.mark.parametrize(
    ("limit", "free"), [(None, 8.192), ("max\n", 8.192), ("4000000000\n", 4.0), ("90000000000\n", 8.192)]
)
def test_what_is_free_is_read_from_the_system_and_of_a_container_its_limit(
    tmp_path: Path, limit: str | None, free: float
) -> None:
    assert host_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    if limit is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    assert host_memory(tmp_path) == pytest.approx(free)
