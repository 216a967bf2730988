"""Recipes to test with: one as the pocket models make it, and any that a request could have made."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import strategies as st

from core.base_models import BASE_MODELS
from core.recipe import Plan, Recipe, RecipeLora, RecipeModel, RecipeReceipt, RecipeUpscale, libraries_here
from core.recipe_here import embedded_revision

NEON = "bundled:pocket-sdxl-neon"
HUB = "weaver/soft.light@" + "a" * 40 + ":styles/soft light, v2.safetensors"
LETTERS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>"), max_size=40)
PROMPTS = st.lists(LETTERS, min_size=1, max_size=3).map("\n".join)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lora(ref: str, **fields: Any) -> RecipeLora:
    usual: dict[str, Any] = {"sha256": sha(ref), "weight": 1.0, "receipt": RecipeReceipt(applied=4, total=4)}
    return RecipeLora(ref=ref, **usual | fields)


def without_receipts(made: Recipe) -> Recipe:
    """As a link has it."""
    return made.model_copy(update={"loras": tuple(one.model_copy(update={"receipt": None}) for one in made.loras)})


def recipe(model: str = "pocket-sdxl-lcm", **fields: Any) -> Recipe:
    entry = BASE_MODELS[model]
    usual: dict[str, Any] = {
        "app": "LoRA Loom 0.2.0", "prompt": "a red circle", "steps": entry.steps, "guidance": entry.guidance,
        "sampler": entry.samplers[0], "width": entry.side, "height": entry.side, "seed": 7, "images": 1,
        "model": RecipeModel(
            key=entry.key, repo=None if entry.embedded else entry.repo,
            revision=embedded_revision(entry) if entry.embedded else "c" * 40, accelerator=entry.accelerator,
        ),
        "plan": Plan(dtype="float32", device="cpu"), "libraries": libraries_here(),
        "created_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Recipe(**usual | fields)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """With every setting that a request takes, on a model that takes them all."""
    weights = st.floats(-5, 5).map(lambda weight: round(weight, 3) + 0.0)
    refs = draw(
        st.lists(st.sampled_from([NEON, "bundled:pocket-sdxl-dots", "local:my style.safetensors", HUB]), unique=True)
    )
    schedule = st.sampled_from([(0.0, 1.0), (0.25, 1.0), (0.0, 0.5)])
    loras = []
    for ref in refs:
        start, end = draw(schedule)
        loras.append(
            lora(
                ref, weight=draw(weights), text_encoder=draw(st.none() | weights), muted=draw(st.booleans()),
                start=start, end=end, blocks=draw(st.none() | st.just({"in": 0.5, "out.0": -1.0})),
            )
        )  # fmt: skip
    upscale = draw(st.none() | st.sampled_from([RecipeUpscale(factor=1.5, strength=1.0)]))
    return recipe(
        "pocket-sdxl", version=1 if upscale is None else 2, upscale=upscale,
        prompt=draw(PROMPTS), negative_prompt=draw(PROMPTS), loras=tuple(loras),
        steps=draw(st.integers(1, 100)), guidance=draw(st.integers(10, 200)) / 10, seed=draw(st.integers(0, 2**32 - 1)),
        width=16 * draw(st.integers(4, 16)), height=16 * draw(st.integers(4, 16)), allow_partial=draw(st.booleans()),
        total_strength=draw(st.none() | st.integers(1, 10).map(float)),
        plan=Plan(dtype="float32", device="cpu", batch=draw(st.integers(1, 8))),
        lossy=draw(st.sampled_from([(), ("pab",)])),
    )  # fmt: skip
