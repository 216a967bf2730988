"""The bench commands run from end to end at a size that takes seconds, and their figures mean what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import blend, rounding
from bench.shapes import SD35_LARGE, SDXL, SHORT


def test_the_models_have_the_modules_of_the_real_ones() -> None:
    for shape, count in ((SD35_LARGE, 303), (SDXL, 560)):
        with torch.device("meta"):
            assert len(shape.layers(shape.build(False))) == len(shape.layers(shape.build(True))) == count


def test_blend_compares_all_ways_and_ours_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blend, "SD35_LARGE", SHORT)
    monkeypatch.setattr(blend, "MANY", 4)
    figures = tmp_path / "figures.json"
    blend.main(["--runs", "1", "--changes", "5", "--shapes", "sd3", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert set(found[SHORT.title][blend.FIRST]) == {blend.OURS, blend.OURS_16, blend.LOAD, blend.HOTSWAP}
    ours, theirs = found["drift"].values()
    assert ours == {"bits": 0, "weights": 0, "norm": 0}
    assert theirs["bits"] > 0
    assert blend.BLEND in capsys.readouterr().out


def test_rounding_finds_what_16_bits_cost_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    rounding.main(["--shares", "0.003", "--models", "pocket-sd3", "--loras", "1", "--json", str(figures)])
    found = json.loads(figures.read_text())
    trained = found["trained, pocket-sd3"][0]
    assert trained["merged, nearest"]["gain"] < 0.9 < trained["merged, ours"]["gain"] < 1.05
    assert trained["merged, ours"]["error"] < 1.02 * trained["merged, nearest"]["error"]
    assert trained[rounding.UNFUSED]["gain"] == pytest.approx(1, abs=0.01)
    assert "bfloat16, ΔW 0.3 %" in capsys.readouterr().out
