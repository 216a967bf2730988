"""Differences: what sets two recipes apart, as short facts side by side."""

from __future__ import annotations

from core.recipe import Recipe, RecipeLora
from core.request import entry_of

NOT_THERE = "–"


def differences(one: Recipe, other: Recipe) -> list[tuple[str, str, str]]:
    """(name, in one, in the other), of those facts only that are not the same."""
    left, right = _facts(one), _facts(other)
    pairs = ((name, left.get(name) or NOT_THERE, right.get(name) or NOT_THERE) for name in left | right)
    return [(name, first, second) for name, first, second in pairs if first != second]


def _facts(recipe: Recipe) -> dict[str, str]:
    loras = {lora.ref.removeprefix("bundled:"): _as_used(lora) for lora in recipe.loras}
    return {
        "Prompt": recipe.prompt,
        "Without": recipe.negative_prompt,
        "Model": entry_of(recipe.model.key).title,
        "Its version": (recipe.model.revision or "")[:8],
        "Seed": str(recipe.seed),
        **loras,
        "Total strength": "" if recipe.total_strength is None else f"{recipe.total_strength:g}",
        "Size": f"{recipe.width} × {recipe.height}",
        "Steps": str(recipe.steps),
        "Guidance": f"{recipe.guidance:g}",
        "Sampler": recipe.sampler,
        "Second pass": f"× {recipe.upscale.factor:g}, strength {recipe.upscale.strength:g}" if recipe.upscale else "",
        "Drawn on": f"{recipe.plan.device}, {recipe.plan.dtype}",
        "Drawn together": f"{recipe.plan.batch} at a time" if recipe.plan.batch > 1 else "",
        "Shortcuts": ", ".join(recipe.lossy),
        "Libraries": ", ".join(f"{name} {version}" for name, version in sorted(recipe.libraries.items())),
    }


def _as_used(lora: RecipeLora) -> str:
    said = {
        f"× {lora.weight:g}": True,
        "muted": lora.muted,
        f"text encoder {lora.text_encoder}": lora.text_encoder is not None,
        f"from {lora.start:g} to {lora.end:g} of the steps": (lora.start, lora.end) != (0, 1),
        "blocks " + ", ".join(f"{name}: {number:g}" for name, number in (lora.blocks or {}).items()): lora.blocks,
        f"file {lora.sha256[:8]}": lora.ref.startswith("local:"),  # the same name may hold another file
    }
    return ", ".join(phrase for phrase, holds in said.items() if holds)
