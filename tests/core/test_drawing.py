"""What an easel keeps parsed: as many bytes as it may, and always the LoRAs of the blend that it draws."""

from __future__ import annotations

from pathlib import Path

import pytest

import core.drawing
from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.lora.parse import ParsedLora, parse_lora
from core.messages import Job, LoraFile
from core.request import request_from
from lora_catalog.card import Family
from tests.core.conftest import write_lora

BYTES = (192 + 192) * 4 * 4  # of a LoRA of rank 4 in fp32


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were parsed, in their order; there is room for two and a half."""
    names: list[str] = []

    def parse(path: Path, sha256: str, name: str, family: Family) -> ParsedLora:
        names.append(path.stem)
        return parse_lora(path, sha256, name, family)

    monkeypatch.setattr(core.drawing, "parse_lora", parse)
    monkeypatch.setattr(core.drawing, "MOST_PARSED", 2.5 * BYTES)
    return names


@pytest.mark.usefixtures("random_pocket")
def test_the_loras_used_longest_ago_are_forgotten_by_their_bytes_but_never_those_of_the_blend(
    tmp_path: Path, read: list[str]
) -> None:
    files = {}
    for seed, name in enumerate("abc"):
        path = tmp_path / f"{name}.safetensors"
        sha = write_lora(path, {"transformer.transformer_blocks.0.attn.to_q": (192, 192)}, seed=seed)
        files[name] = LoraFile(f"local:{path.name}", sha, path, 1.0, 1.0)
    easel = Easel(BASE_MODELS["pocket-sd3"], "cpu")

    def newly_read(names: str) -> str:
        read.clear()
        easel.blend(Job(request_from({"prompt": "a cat"}, "pocket-sd3"), tuple(files[name] for name in names)))
        return "".join(read)

    assert [newly_read(names) for names in ("a", "b", "a", "c", "a", "b")] == ["a", "b", "", "c", "", "b"]
    assert [newly_read(names) for names in ("abc", "abc", "cba", "b", "c", "a")] == ["c", "", "", "", "c", "a"]
