"""The commands: each explains itself, and trains a model of BASE_MODELS from a folder to a file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import SD3Transformer2DModel
from safetensors import safe_open

import core.base_models
import training.base
import training.lcm
import training.lora
import training.pocket.__main__ as pocket_command
from core.base_models import BASE_MODELS
from tests.training.conftest import Build, same, state_of
from training.folder import CaptionedFolder

Command = Callable[..., None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command(main, *words)`: as typed in a shell."""

    def run(main: Callable[[], None], *words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        main()

    return run


@pytest.fixture
def tiny_models(pocket: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BASE_MODELS with the two pocket models alone, of random weights."""
    entries = {}
    for family in ("sd3", "sdxl"):
        pocket(family).save_pretrained(tmp_path / family)
        entries[family] = dataclasses.replace(BASE_MODELS[f"pocket-{family}"], repo=str(tmp_path / family))
    monkeypatch.setattr(core.base_models, "BASE_MODELS", entries)


@pytest.mark.parametrize("main", [training.base.main, training.lora.main, training.lcm.main, pocket_command.main])
def test_a_command_explains_itself(
    main: Callable[[], None], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(main, "--help")
    assert stopped.value.code == 0
    assert "usage: python -m training." in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("main", "model", "part"),
    [
        (training.lora.main, "sd3", "transformer."),
        (training.lora.main, "sdxl", "unet."),
        (training.lcm.main, "sdxl", "unet."),
    ],
)
def test_a_command_trains_a_lora_into_a_file(
    main: Callable[[], None], model: str, part: str, command: Command, folder: CaptionedFolder, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    side = ("--side", 64) if main is training.lora.main else ()
    command(main, "--model", model, "--folder", folder.root, "--out", out, "--steps", 2, "--batch", 2, "--rank", 1,
            "--device", "cpu", *side)  # fmt: skip
    with safe_open(out, "pt") as file:
        assert all(key.startswith(part) for key in file.keys())  # noqa: SIM118
    assert (tmp_path / "mine.run" / "state.safetensors").is_file()


@pytest.mark.usefixtures("tiny_models")
def test_a_command_trains_a_model_on_into_a_folder_that_loads(
    command: Command, folder: CaptionedFolder, tmp_path: Path
) -> None:
    before = SD3Transformer2DModel.from_pretrained(tmp_path / "sd3", subfolder="transformer")
    command(training.base.main, "--model", "sd3", "--folder", folder.root, "--out", tmp_path / "mine", "--steps", 1,
            "--batch", 2, "--side", 64, "--device", "cpu")  # fmt: skip
    after = SD3Transformer2DModel.from_pretrained(tmp_path / "mine", subfolder="transformer")
    assert not same(state_of(before), state_of(after))
    assert (tmp_path / "mine" / "model_index.json").is_file()


def test_a_name_that_no_stage_knows_is_refused(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(pocket_command.main, "--runs", tmp_path, "--only", "sd3,cubism")
    assert "--only knows no cubism" in capsys.readouterr().err
