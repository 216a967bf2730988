"""Small random pipelines of the real classes, as BASE_MODELS entries, and LoRAs for them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import core.base_models
import core.loading
from core.base_models import BASE_MODELS, BaseModel
from core.lora.parse import ParsedLora, parse_lora
from lora_catalog.card import Family
from training.pocket import models
from training.pocket.text import text_encoder, train_tokenizer


@pytest.fixture(scope="session")
def random_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pocket-sd3 and pocket-sdxl with random weights, in the layout of models/pocket."""
    root = tmp_path_factory.mktemp("pocket")
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    encoders = [text_encoder(tokenizer, width) for width in models.TEXT_WIDTHS]
    vae = models.autoencoder()
    for name, build in (("pocket-sd3", models.pocket_sd3), ("pocket-sdxl", models.pocket_sdxl)):
        pipeline = build(vae, tokenizer, encoders)
        last = pipeline.transformer.proj_out if name == "pocket-sd3" else pipeline.unet.conv_out
        torch.nn.init.normal_(last.weight, std=0.05)  # training starts them at zero, which would hide the words
        for block in pipeline.transformer.transformer_blocks if name == "pocket-sd3" else ():
            torch.nn.init.normal_(block.norm1.linear.weight, std=0.05)
            torch.nn.init.normal_(block.norm1.linear.bias, std=0.5)
        pipeline.save_pretrained(root / name)
    files = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*")) if path.is_file()
    }  # fmt: skip
    (root / "files.json").write_text(json.dumps(files))
    return root


@pytest.fixture
def random_pocket(random_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The core sees the random models in place of the trained ones."""
    monkeypatch.setattr(core.base_models, "POCKET", random_models)
    monkeypatch.setattr(core.loading, "POCKET", random_models)
    return random_models


@pytest.fixture
def few_steps() -> Callable[[str], BaseModel]:
    """A model's entry with two steps, for tests that only want a picture."""
    return lambda key: dataclasses.replace(BASE_MODELS[key], steps=2)


def write_lora(path: Path, layers: Mapping[str, tuple[int, ...]], rank: int = 4, seed: int = 0) -> str:
    """A random LoRA for layers of the given weight shapes; gives its sha256."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, shape in layers.items():
        tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, *shape[1:], generator=generator) * 0.2
        tensors[f"{layer}.lora_B.weight"] = torch.randn(
            shape[0], rank, *(1 for _ in shape[2:]), generator=generator
        ) * 0.2  # fmt: skip
    save_file(tensors, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parsed(
    folder: Path, tensors: Mapping[str, torch.Tensor], family: Family, metadata: dict[str, str] | None = None
) -> ParsedLora:
    """A LoRA of these tensors, written to disk and read again."""
    file = folder / "lora.safetensors"
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, file, metadata)
    return parse_lora(file, hashlib.sha256(file.read_bytes()).hexdigest(), "the LoRA", family)
