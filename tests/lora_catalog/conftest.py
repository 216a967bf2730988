"""LoRA files and a bundled folder to test with, written to disk as real ones are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lora_catalog.catalog import Catalog
from lora_catalog.sources.base import FetchedLora, Fetching
from lora_catalog.sources.bundled import BundledSource

SD3_ATTENTION = "transformer.transformer_blocks.{block}.attn.{layer}"
SDXL_ATTENTION = "unet.down_blocks.0.attentions.0.transformer_blocks.0.{layer}"


def lora_bytes(layers: dict[str, tuple[int, int]], rank: int = 4, metadata: dict[str, str] | None = None) -> bytes:
    """A LoRA in diffusers' format, of zeros, with layers of the given (in, out) widths."""
    tensors = {}
    for name, (inputs, outputs) in layers.items():
        tensors[f"{name}.lora_A.weight"] = np.zeros((rank, inputs), np.float16)
        tensors[f"{name}.lora_B.weight"] = np.zeros((outputs, rank), np.float16)
    return save(tensors, metadata)


def write_lora(path: Path, layers: dict[str, tuple[int, int]], rank: int = 4) -> None:
    path.write_bytes(lora_bytes(layers, rank))


def write_bundled(folder: Path, name: str, layers: dict[str, tuple[int, int]], **card: object) -> Path:
    """One bundled LoRA with a card that fits it; gives its folder."""
    home = folder / name
    home.mkdir(parents=True)
    file = home / f"{name}.safetensors"
    write_lora(file, layers)
    fields = {
        "title": name.title(),
        "family": "pocket-sd3",
        "triggers": [],
        "licence": "apache-2.0",
        "weight": 1.0,
        "description": "",
        "base": "pocket-sd3",
        "author": "LoRA Loom",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    } | card
    (home / "card.json").write_text(json.dumps(fields), encoding="utf-8")
    return home


def drained(fetching: Fetching) -> FetchedLora:
    """The end of a fetch, whatever it tells on the way."""
    while True:
        try:
            next(fetching)
        except StopIteration as end:
            fetched: FetchedLora = end.value
            return fetched


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three bundled LoRAs: two for pocket-sd3, one for pocket-sdxl."""
    sd3 = {SD3_ATTENTION.format(block=block, layer="to_q"): (192, 192) for block in range(6)}
    sdxl = {SDXL_ATTENTION.format(layer="attn2.to_k"): (320, 64)}
    write_bundled(tmp_path, "pocket-sd3-neon", sd3, title="Neon", description="Glowing lines.", weight=0.8)
    write_bundled(tmp_path, "pocket-sd3-robot", sd3, title="A robot", triggers=["zorblax"], licence="cc-by-4.0")
    write_bundled(tmp_path, "pocket-sdxl-neon", sdxl, title="Neon", family="pocket-sdxl", base="pocket-sdxl")
    (tmp_path / "pocket-sd3-neon" / "preview.png").write_bytes(b"\x89PNG")
    return tmp_path


@pytest.fixture
def catalog(folder: Path) -> Catalog:
    return Catalog([BundledSource(folder)])
