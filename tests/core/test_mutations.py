"""A thousand mutilated LoRA files: each is refused in words or blended, and none leaves a trace in the weights."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.parse import Bystander, mutated, sound

COUNT = 1_000


@pytest.mark.parametrize("file", sound(), ids=["LoRA", "kohya", "LoHa", "LoKr", "full"])
def test_what_is_mutilated_was_sound(tmp_path: Path, file: bytes) -> None:
    assert Bystander(tmp_path).meets(file) == "blended"


def test_no_mutilated_file_crashes_or_leaves_a_trace(tmp_path: Path) -> None:
    rng, files, bystander = random.Random(0), sound(), Bystander(tmp_path)
    fates: Counter[str] = Counter()
    for number in range(COUNT):
        fates[bystander.meets(mutated(files, rng))] += 1
        assert bystander.is_as_before(), number
    assert fates.keys() <= {"LoraFileBroken", "LoraDoesNotFit", "LoraRefused", "blended"}
    assert fates["LoraFileBroken"] > COUNT / 4 < 2 * fates["blended"]


def test_a_trace_would_be_seen(tmp_path: Path) -> None:
    bystander = Bystander(tmp_path)
    with torch.no_grad():
        bystander.model.norm_out.linear.bias[0] += 0.01
    assert not bystander.is_as_before()
