"""Random pipelines of the real classes, a folder of drawn scenes, and a workshop where a tiny plan was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import settings
from transformers import CLIPTokenizer

from training.folder import CaptionedFolder, write_folder
from training.lcm import Distillation
from training.loop import Settings
from training.lora import part_name
from training.objective import NoiseLevels
from training.pocket import models, pictures
from training.pocket.__main__ import the_stages
from training.pocket.scenes import NEW_THING
from training.pocket.settings import FULL, Plan
from training.pocket.stages import Workshop
from training.pocket.text import text_encoder, train_tokenizer
from training.sheets import Drawing

# A busy machine is slow at drawing, which is no fault; fewer seeds than usual, for each draws a picture or two.
settings.register_profile("training", deadline=None, max_examples=50)
settings.load_profile("training")

Build = Callable[[str], Any]
BUILDERS: dict[str, Callable[..., Any]] = {"sd3": models.pocket_sd3, "sdxl": models.pocket_sdxl}


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal to the bit, names included."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def latents(pipeline: Any, prompt: str = "a red cat in a meadow") -> torch.Tensor:
    """What the pipeline draws in two steps from one seed, undecoded."""
    options = {"max_sequence_length": 1} if part_name(pipeline) == "transformer" else {}
    drawn: torch.Tensor = pipeline(
        prompt, num_inference_steps=2, guidance_scale=1.0, width=64, height=64, output_type="latent",
        generator=torch.Generator().manual_seed(0), **options,
    ).images  # fmt: skip
    return drawn


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return train_tokenizer()


@pytest.fixture(scope="session")
def pocket(tokenizer: CLIPTokenizer) -> Build:
    """`pocket("sd3")` or `pocket("sdxl")`: a random pipeline whose words reach the picture."""

    def build(family: str) -> Any:
        torch.manual_seed(0)
        encoders = [text_encoder(tokenizer, width, layers=2) for width in models.TEXT_WIDTHS]
        pipeline = BUILDERS[family](models.autoencoder(), tokenizer, encoders)
        pipeline.set_progress_bar_config(disable=True)
        denoiser = getattr(pipeline, part_name(pipeline)).requires_grad_(False)
        for parameter in denoiser.parameters():
            if not parameter.any():  # training starts these at zero, which would hide the words
                torch.nn.init.normal_(parameter, std=0.1)
        return pipeline

    return build


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return models.autoencoder().eval()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CaptionedFolder:
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root, pictures.scenes(32, seed=0))
    return CaptionedFolder(root)


def _tiny() -> Plan:
    """The full plan's shape with next to nothing in it."""
    once = Settings(steps=1, batch=2, learning_rate=1e-3, warmup=1)
    drawing = Drawing(steps=1, guidance=1.0, side=16, batch=32)
    families = {
        name: dataclasses.replace(
            family,
            settings=once,
            drawing=dataclasses.replace(drawing, options=family.drawing.options),
            quick=dataclasses.replace(drawing, options=family.quick.options),
            lora=dataclasses.replace(family.lora, settings=once),
            special_loras={n: dataclasses.replace(way, settings=once) for n, way in family.special_loras.items()},
        )
        for name, family in FULL.families.items()
    }
    return dataclasses.replace(
        FULL, autoencoder=once, autoencoder_pictures=32, crop=16, text=once, scenes=4, families=families,
        lora_pictures=1, lora_levels=NoiseLevels(), lcm=once, judge=once, judged_singles=1, judged_pairs=1,
        judged_styled=1, distillation=Distillation(3.0, teacher_steps=2, student_steps=1), lcm_rank=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Path]:
    """A workshop in which every stage but the figures has run, for three LoRAs, and where its export lies."""
    shop = Workshop(tmp_path_factory.mktemp("runs"), _tiny(), frozenset({"dots", NEW_THING}))
    target = tmp_path_factory.mktemp("models") / "pocket"
    for name, stage in the_stages(target).items():
        if name not in ("judge", "figures"):
            stage.run(shop)
            assert stage.done(shop), name
    return shop, target
