"""A recipe as people read it: what was asked, what was really applied, and the seed to ask again."""

from __future__ import annotations

from html import escape

from core.lora.schedule import steps_on
from core.lossy import LOSSY
from core.recipe import Recipe, RecipeLora, RecipeReceipt
from core.request import enlarged, entry_of, steps_run
from ui import texts

EMPTY = f'<p class="hint">{texts.NO_RECIPE}</p>'


def recipe_html(recipe: Recipe) -> str:
    """Escaped throughout: prompts and refs are whatever somebody wrote."""
    entry = entry_of(recipe.model.key)
    last = recipe.seed + recipe.images - 1
    facts = {
        "Prompt": recipe.prompt,
        "Without": recipe.negative_prompt,
        "Model": entry.title,
        "Seed": str(recipe.seed) if recipe.images == 1 else f"{recipe.seed} to {last}",
        "Size": f"{recipe.width} × {recipe.height}",
        "Steps": f"{recipe.steps}, guidance {recipe.guidance:g}, {recipe.sampler}",
        "Over": _over(recipe),
        "Second pass": _second_pass(recipe),
        "Total strength": "" if recipe.total_strength is None else f"{recipe.total_strength:g}",
        "Drawn on": f"{recipe.plan.device}, {recipe.plan.dtype}",
        "Drawn together": f"{recipe.plan.batch} at a time" if recipe.plan.batch > 1 else "",
        "Shortcuts": ", ".join(LOSSY[name].title if name in LOSSY else name for name in recipe.lossy),
    }
    lines = "".join(f"<dt>{name}</dt><dd{_whose(name)}>{escape(text)}</dd>" for name, text in facts.items() if text)
    loras = "".join(_lora_html(lora, _steps_run(recipe)) for lora in recipe.loras)
    return f'<div class="recipe"><dl>{lines}</dl>{f"<ul>{loras}</ul>" if loras else ""}</div>'


def _whose(name: str) -> str:
    """What a visitor wrote is not put into another language."""
    return ' translate="no"' if name in ("Prompt", "Without") else ""


def _steps_run(recipe: Recipe) -> int:
    return recipe.steps if recipe.init is None else steps_run(recipe.steps, recipe.init.strength)


def _over(recipe: Recipe) -> str:
    if recipe.init is None:
        return ""
    what = "a part of a picture" if recipe.init.mask_sha256 else "a picture"
    return f"{what}, strength {recipe.init.strength:g}: the last {_steps_run(recipe)} steps"


def _second_pass(recipe: Recipe) -> str:
    if (second := recipe.upscale) is None:
        return ""
    size = " × ".join(str(enlarged(side, second.factor)) for side in (recipe.width, recipe.height))
    steps = steps_run(recipe.steps, second.strength)
    return f"to {size}, strength {second.strength:g}: the last {steps} steps"


def _lora_html(lora: RecipeLora, steps: int) -> str:
    receipt = lora.receipt
    applied = "muted" if lora.muted else _applied(receipt) if receipt else ""
    left_out = "".join(f"<li>{escape(layer)}: {escape(why)}</li>" for layer, why in receipt.skipped) if receipt else ""
    count = left_out.count("<li>")
    details = f"<details><summary>{count} left out</summary><ul>{left_out}</ul></details>" if left_out else ""
    kind = "partial" if receipt is not None and receipt.applied < receipt.total else "whole"
    return (
        f'<li class="{kind}"><b>{escape(lora.ref.removeprefix("bundled:"))}</b> <span>× {lora.weight:g}</span> '
        f'<span class="receipt">{escape(", ".join([*_controls(lora, steps), applied]))}</span>'
        f"{details}</li>"
    )


def _applied(receipt: RecipeReceipt) -> str:
    layers = f"{receipt.applied} of {receipt.total} layers"
    words = f", {receipt.text_encoder} of them in text encoders" if receipt.text_encoder else ""
    return f"{'' if receipt.applied == receipt.total else 'in part: '}{layers}{words}"


def _controls(lora: RecipeLora, steps: int) -> list[str]:
    """What was asked beyond a weight, as phrases."""
    said = []
    if lora.text_encoder is not None:
        said.append(f"text encoder {lora.text_encoder:g}")
    on = steps_on(lora.start, lora.end, steps)
    if len(on) < steps:
        said.append(f"steps {on[0] + 1} to {on[-1] + 1} of {steps}" if on else f"in none of the {steps} steps")
    if lora.blocks:
        said.append("blocks " + ", ".join(f"{name}: {number:g}" for name, number in lora.blocks.items()))
    return said
