"""Trains a LoRA for any pipeline on a captioned folder, and writes it as diffusers does."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from training.base import captioned_loss
from training.folder import CaptionedFolder
from training.latents import encoded
from training.loop import Settings, train
from training.objective import NoiseLevels, objective_of

# Names of layers (PEFT compares the ends of module names), in both families' words: what is absent is not asked for.
ATTENTION = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")  # of the picture's own stream
LINEAR = (*ATTENTION, *FEED_FORWARD, "ff_context.net.0.proj", "ff_context.net.2")
EVERY_LAYER = (
    *LINEAR, "proj_in", "proj_out", "time_emb_proj", "conv1", "conv2", "conv_shortcut", "conv",
)  # fmt: skip
TARGETS = {"attention": ATTENTION, "linear": LINEAR, "all": EVERY_LAYER}


def part_name(pipeline: DiffusionPipeline) -> str:
    """What the pipeline calls its denoiser, and its LoRA files their keys: `transformer` or `unet`."""
    return "transformer" if hasattr(pipeline, "transformer") else "unet"


@contextmanager
def adapted(
    pipeline: DiffusionPipeline, rank: int, alpha: float, targets: Sequence[str]
) -> Iterator[dict[str, torch.nn.Parameter]]:
    """The denoiser with a fresh LoRA on `targets`; gives the LoRA's weights, and takes it off again in the end.

    Raises ValueError where the denoiser has none of the layers.
    """
    denoiser = getattr(pipeline, part_name(pipeline))
    denoiser.requires_grad_(False)
    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))
    cast_training_params(denoiser, torch.float32)
    try:
        yield {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    finally:
        denoiser.unload_lora()


def save_adapter(pipeline: DiffusionPipeline, file: Path, scale: float) -> None:
    """Writes the pipeline's adapter to `file` as diffusers does: half floats, `part.layer.lora_A.weight` and B.

    `scale` (alpha over rank) is multiplied into B, so that no reader needs to know of an alpha.
    """
    part = part_name(pipeline)
    weights = {
        name: (tensor * scale if ".lora_B." in name else tensor).detach().half().cpu().contiguous()
        for name, tensor in get_peft_model_state_dict(getattr(pipeline, part)).items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pipeline.save_lora_weights(file.parent, weight_name=file.name, **{f"{part}_lora_layers": weights})


def train_lora(
    pipeline: DiffusionPipeline,
    folder: CaptionedFolder,
    run: Path,
    file: Path,
    settings: Settings,
    *,
    rank: int,
    targets: Sequence[str],
    side: int,
    alpha: float | None = None,
    levels: NoiseLevels | None = None,
    text_length: int = 256,
    before_step: Callable[[int], None] = lambda count: None,
) -> None:
    """Trains a LoRA of `rank` (Hu et al. 2021) on the denoiser and writes it to `file`.

    `alpha` is the rank where not given. `levels` are the noise levels to train at, `text_length` is SD3's T5 length.
    The pipeline is left as it was; checkpoints and encoded pictures lie in `run`.
    """
    objective = objective_of(pipeline, text_length)
    latents = encoded(pipeline.vae, folder, side, run / "latents.safetensors")
    alpha = alpha or rank
    loss_of = captioned_loss(objective, folder, latents, settings, levels or NoiseLevels(), before_step)
    torch.manual_seed(settings.seed)
    with adapted(pipeline, rank, alpha, targets) as parameters:
        train(parameters, loss_of, settings, run)
        save_adapter(pipeline, file, alpha / rank)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.lora", description=__doc__)
    parser.add_argument("--model", required=True, help="a key of BASE_MODELS, such as sdxl or pocket-sd3")
    parser.add_argument("--folder", required=True, type=Path, help="pictures beside a metadata.jsonl")
    parser.add_argument("--out", required=True, type=Path, help="the .safetensors file to write")
    parser.add_argument("--run", type=Path, help="where checkpoints lie (default: beside the file)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", choices=TARGETS, default="attention")
    parser.add_argument("--side", type=int, help="side of the training pictures (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--low-memory", action="store_true", help="gradient checkpointing: slower, in far less memory")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from core.base_models import BASE_MODELS
    from core.loading import load_pipeline

    entry = BASE_MODELS[asked.model]
    pipeline = load_pipeline(entry, asked.device)
    denoiser = getattr(pipeline, part_name(pipeline))
    if asked.low_memory:
        denoiser.enable_gradient_checkpointing()
    train_lora(
        pipeline,
        CaptionedFolder(asked.folder),
        asked.run or asked.out.with_suffix(".run"),
        asked.out,
        Settings(asked.steps, asked.batch, asked.learning_rate, seed=asked.seed, average=0.99),
        rank=asked.rank,
        targets=TARGETS[asked.targets],
        side=asked.side or entry.side,
        text_length=entry.t5_tokens or 256,
    )


if __name__ == "__main__":
    main()
