"""Memory plans: what each takes by the parameters of the real classes, and which is chosen for what is free."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.base_models import BASE_MODELS
from core.errors import ModelUnavailable
from core.machine import Machine, best_model
from core.memory import FULL, PLANS, needs, plan_for, plans_for, smaller_than
from core.parts import PARTS, Part
from tests.core.published import PUBLISHED

GB = 1_000_000_000
REAL = [key for key, entry in BASE_MODELS.items() if not entry.embedded]
LARGE, SDXL = BASE_MODELS["sd3.5-large"], BASE_MODELS["sdxl"]


def counted(module: torch.nn.Module) -> Part:
    """What a component's file holds, but for lists of positions; and what bitsandbytes takes of it."""
    tables = sum(buffer.numel() for name, buffer in module.named_buffers() if not name.endswith("position_ids"))
    linear = sum(
        layer.weight.numel()
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name.endswith(".wo")
    )
    return Part(sum(parameter.numel() for parameter in module.parameters()) + tables, linear)


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_table_of_parts_counts_what_the_published_classes_hold(family: str) -> None:
    with torch.device("meta"):
        real = {name: counted(build()) for name, build in PUBLISHED[family].items()}
    assert dict(PARTS[BASE_MODELS[next(k for k in REAL if BASE_MODELS[k].family == family)].family]) == real


def test_every_model_has_parts_of_its_family_and_its_t5_if_it_says_so() -> None:
    for entry in BASE_MODELS.values():
        assert ("text_encoder_3" in PARTS[entry.family]) == entry.t5
        assert next(iter(PARTS[entry.family])) == ("transformer" if "3" in entry.pipeline else "unet")


def test_full_takes_the_weights_and_what_drawing_holds_beside_them() -> None:
    weights = 2 * sum(part.numbers for part in PARTS["sd3.5-large"].values())
    assert 2 * GB < needs(LARGE, FULL) - weights < 4 * GB
    assert needs(LARGE, PLANS["t5-nf4"]) < needs(LARGE, PLANS["t5-8bit"]) < needs(LARGE, PLANS["tiled"])
    assert needs(LARGE, PLANS["nf4"]) < needs(LARGE, PLANS["model-offload"]) < needs(LARGE, PLANS["no-t5"])


@pytest.mark.parametrize("key", REAL)
def test_more_memory_never_gives_a_later_plan_and_what_is_chosen_fits(key: str) -> None:
    entry = BASE_MODELS[key]
    order = [plan.name for plan in plans_for(entry, "cuda")]
    chosen = [plan_for(entry, "cuda", size * GB) for size in range(3, 81)]
    places = [order.index(plan.name) for plan in chosen]
    assert places == sorted(places, reverse=True)
    assert all(needs(entry, plan) <= size * GB for size, plan in enumerate(chosen, 3))
    assert chosen[-1] is FULL
    assert all(plan.automatic for plan in chosen)


def test_a_wish_is_kept_where_it_fits_and_makes_sense_for_the_model() -> None:
    assert plan_for(LARGE, "cuda", 80 * GB, "nf4").name == "nf4"
    assert plan_for(LARGE, "cuda", None, "no-t5").name == "no-t5"
    assert plan_for(SDXL, "cuda", 80 * GB, "t5-nf4") is FULL  # it has no T5
    assert plan_for(LARGE, "mps", 80 * GB, "model-offload") is FULL  # there the CPU's memory is the GPU's


def test_too_little_memory_is_one_sentence_with_the_plan_that_fits_or_none() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        plan_for(LARGE, "cuda", 24 * GB, "full")
    assert str(caught.value) == (
        "Stable Diffusion 3.5 Large takes about 30.3 GB of GPU memory with the plan full, and 24.0 GB are free: start "
        "with --plan t5-nf4, which takes 23.1 GB (slightly other pictures)."
    )
    with pytest.raises(ModelUnavailable, match=r"1\.8 GB .* even with the plan group-offload, .* choose a smaller"):
        plan_for(LARGE, "cuda", GB)


def test_tiles_save_nothing_where_a_picture_is_no_larger_than_one() -> None:
    turbo = BASE_MODELS["sdxl-turbo"]  # draws at 512 px with SDXL's VAE, whose tiles are 512
    assert needs(turbo, PLANS["tiled"]) == needs(turbo, FULL)


def chain(key: str, device: str) -> Iterator[str]:
    plan = smaller_than(FULL, BASE_MODELS[key], device)
    while plan is not None:
        yield plan.name
        plan = smaller_than(plan, BASE_MODELS[key], device)


def test_each_next_plan_takes_less_than_the_one_before() -> None:
    assert list(chain("sdxl", "cuda")) == ["encoders-off", "tiled", "model-offload", "nf4", "group-offload"]
    large = ["encoders-off", "t5-8bit", "t5-nf4", "model-offload", "nf4", "group-offload"]  # tiles alone save less
    assert list(chain("sd3.5-large", "cuda")) == large
    assert list(chain("sd3.5-large", "mps")) == list(chain("pocket-sd3", "cpu")) == ["tiled"]


def test_a_machine_says_which_models_it_holds_and_how() -> None:
    small = Machine("cuda", 10.0, has_token=True)
    assert small.why_not(LARGE) is None
    assert (small.plan_of(LARGE).name, small.plan_of(SDXL).name) == ("group-offload", "tiled")
    assert "start with --plan group-offload" in str(Machine("cuda", 10.0, has_token=True, plan="nf4").why_not(LARGE))
    assert Machine("cuda", None).plan_of(LARGE) is FULL
    assert "HF_TOKEN" in str(Machine("cuda", 80.0).why_not(LARGE))


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_every_plan_says_what_it_does_and_costs(plan: object) -> None:
    assert all(getattr(plan, name) and not getattr(plan, name).endswith(".") for name in ("name", "does", "costs"))


def test_a_recipe_chooses_among_the_plans_that_draw_its_pixels_where_one_of_them_fits() -> None:
    roomy, tight = Machine("cuda", 80.0), Machine("cuda", 10.0)
    nf4 = "text_encoder_3:nf4, transformer:nf4, vae:tiled"
    assert roomy.plan_of(LARGE, nf4).name == "nf4"
    assert roomy.plan_of(LARGE, "") is FULL
    assert roomy.plan_of(LARGE, "vae:tiled").name == "tiled"
    assert roomy.plan_of(LARGE, "text_encoder_3:fp8") is FULL  # nothing here makes that
    assert tight.plan_of(LARGE, nf4).name == "group-offload"


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        (Machine("cuda", 48.0, has_token=True), "sd3.5-large-turbo"),
        (Machine("cuda", 15.0, has_token=True), "sd3.5-large-turbo"),
        (Machine("cuda", 10.0, has_token=True), "sd3.5-medium"),
        (Machine("cuda", 7.5, has_token=True), "sdxl-lcm"),
        (Machine("cuda", 3.5, has_token=True), "ssd-1b-lcm"),
        (Machine("cuda", 1.8, has_token=True, plan="group-offload"), "sd3.5-large-turbo"),
        (Machine("cuda", 7.5), "sdxl-lcm"),
        (Machine("cuda", None, has_token=True), "sd3.5-large-turbo"),  # ZeroGPU
        (Machine("cuda", None), "sdxl-lcm"),
        (Machine("mps", 21.0, has_token=True), "sd3.5-medium"),
        (Machine("cpu"), "pocket-sd3"),
    ],
)
def test_a_start_without_a_model_takes_the_best_that_need_not_move_every_layer(machine: Machine, chosen: str) -> None:
    assert best_model(machine) == chosen
