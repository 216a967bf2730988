"""What the models here are, which of them this machine can run, and how to get the others."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from core.memory import PLANS

POCKET_LINE = (  # HTML
    'Small, ships with LoRA Loom, knows <a href="#words">few words</a>. <a href="#about">How to get real ones</a>'
)

HOW_TO_GET_REAL_ONES = """
<h3>How to get real ones</h3>
<ol>
<li>On a machine with a GPU: <code>python app.py --model sdxl</code> (a download of 7 GB, open to all).</li>
<li>For Stable Diffusion 3.5, accept its licence on its page on Hugging Face, then start with your token:
<code>HF_TOKEN=hf_… python app.py --model sd3.5-medium</code>.</li>
<li>A fine-tune on the Hub of one of the models below: <code>python app.py --model USER/REPO</code>. Its repo is
checked first: safetensors files only, and no code of its own. Or a checkpoint in one file:
<code>--model USER/REPO:FILE.safetensors</code>, or <code>--model local:FILE.safetensors</code> for a file that lies in
<code>DATA_DIR/checkpoints</code>.</li>
<li>The first start downloads the model; later ones find it on disk. Everything else on this page stays as it is.</li>
</ol>
"""


def about_html(models: Sequence[dict[str, Any]]) -> str:
    """`models` as `Studio.models` gives them."""
    lines = "".join(_model_html(model) for model in models)
    return (
        f'<div class="about">{HOW_TO_GET_REAL_ONES}{_plans_html()}<h3>Models</h3><ul class="models">{lines}</ul></div>'
    )


def _plans_html() -> str:
    """The memory plans, for whoever has a small GPU."""
    lines = "".join(
        f"<li><code>{escape(plan.name)}</code> {escape(plan.does)} <span>{escape(plan.costs)}</span></li>"
        for plan in PLANS.values()
    )
    return (
        "<h3>On a GPU with little memory</h3><p>A model is laid out as its memory allows, by the first of these plans "
        "that fits. <code>python app.py --plan NAME</code> chooses another; the recipe keeps what changes pixels.</p>"
        f'<ul class="models">{lines}</ul>'
    )


def _model_html(model: dict[str, Any]) -> str:
    runs = "runs here" if model["available"] else str(model["why_not"])
    if sizes := model["memory_gb"].values() if model["available"] else ():
        runs += f", in {min(sizes):g} to {max(sizes):g} GB of GPU memory"
    return (
        f'<li class="{"here" if model["available"] else "elsewhere"}"><b>{escape(str(model["title"]))}</b> '
        f"<code>{escape(str(model['key']))}</code> <span>{escape(runs)}</span></li>"
    )
