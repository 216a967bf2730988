"""The Hub's models through the loader that loads real weights: every entry of the table, at small size, over HTTP."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import huggingface_hub
import pytest
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from core.base_models import BASE_MODELS, BaseModel
from core.drawing import Easel
from core.errors import ModelUnavailable
from core.fine_tunes import FineTune
from core.loading import load_pipeline
from core.memory import FULL, PLANS
from tests.hub import EmulatedHub, faults

REAL = [key for key, entry in BASE_MODELS.items() if not entry.embedded]
SDXL = BASE_MODELS["sdxl"]


@pytest.fixture(scope="session")
def small(random_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of a small pipeline by class and variant, as repos hold them."""
    folder = tmp_path_factory.mktemp("small")
    sdxl = DiffusionPipeline.from_pretrained(random_models / "pocket-sdxl", local_files_only=True)
    old = StableDiffusionPipeline(
        vae=sdxl.vae, text_encoder=sdxl.text_encoder, tokenizer=sdxl.tokenizer, scheduler=EulerDiscreteScheduler(),
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), in_channels=16,
            out_channels=16, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=128,
            layers_per_block=1, sample_size=16, attention_head_dim=4, norm_num_groups=8,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    sd3 = DiffusionPipeline.from_pretrained(
        random_models / "pocket-sd3", local_files_only=True, text_encoder_3=None, tokenizer_3=None, image_encoder=None,
        feature_extractor=None,
    )  # fmt: skip
    found = {}
    for pipeline, variant in ((sdxl, "fp16"), (old, "fp16"), (sd3, None)):
        home = folder / type(pipeline).__name__
        pipeline.save_pretrained(home, variant=variant)
        found[home.name] = {
            path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()
        }
    return found


@pytest.fixture
def models(hub: EmulatedHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EmulatedHub:
    """A Hub that diffusers asks, which keeps what it fetches in a folder of this test."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
    return hub


@pytest.mark.parametrize("key", REAL)
def test_every_model_of_the_table_loads_pinned_to_its_commit_and_runs_no_code_of_its_repo(
    key: str, models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    entry = BASE_MODELS[key]
    commit = models.add_repo(entry.repo, small[entry.pipeline] | {"unasked.bin": b"", "pipeline.py": b"boom("})
    easel = Easel(entry, "cpu")
    assert type(easel.pipeline).__name__ == entry.pipeline
    assert easel.revision(entry) == commit
    assert easel.serves(entry, FULL, None)
    assert easel.serves(entry, FULL, commit)
    assert not easel.serves(entry, FULL, "0" * 40)
    assert not easel.serves(entry, PLANS["tiled"], None)
    assert not models.asked("unasked.bin")


def test_an_older_commit_is_loaded_where_it_is_asked_for(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    old = models.add_repo(SDXL.repo, small[SDXL.pipeline])
    new = models.commit(SDXL.repo, {"README.md": b"anew"})
    assert Path(load_pipeline(SDXL).name_or_path).name == new
    assert Path(load_pipeline(SDXL, revision=old).name_or_path).name == old


def test_a_fine_tune_is_loaded_at_the_commit_that_was_judged(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    judged = models.add_repo("painter/oils", small[SDXL.pipeline])
    models.commit("painter/oils", {"model_index.json": b"{}"})
    entry = FineTune(
        repo="painter/oils", commit=judged, base="sdxl", variant="fp16", t5=False, unused=("feature_extractor",),
        gated=False, licence="mit",
    ).entry()  # fmt: skip
    assert Path(load_pipeline(entry).name_or_path).name == judged


def test_components_that_nothing_here_asks_are_not_fetched(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    entry = BASE_MODELS["sd1.5"]
    files = dict(small[entry.pipeline])
    index = json.loads(files["model_index.json"])
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    files["model_index.json"] = json.dumps(index).encode()
    files["safety_checker/config.json"] = b"{}"
    files["safety_checker/model.fp16.safetensors"] = b"many bytes"
    models.add_repo(entry.repo, files)
    assert load_pipeline(entry).safety_checker is None
    assert not models.asked("safety_checker/")


def refused(entry: BaseModel) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        load_pipeline(entry)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_gated_model_says_where_its_licence_is_accepted(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    entry = BASE_MODELS["sd3.5-large"]
    models.add_repo(entry.repo, small[entry.pipeline], gated="auto")
    assert refused(entry) == (
        "Stable Diffusion 3.5 Large is gated: accept its licence at "
        "https://huggingface.co/stabilityai/stable-diffusion-3.5-large with the account whose token is in HF_TOKEN."
    )


def test_a_repo_that_is_gone_or_private_and_a_revision_that_is_gone_are_told(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    assert "is not at https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0" in refused(SDXL)
    models.add_repo(SDXL.repo, small[SDXL.pipeline])
    assert "no such revision" in refused(dataclasses.replace(SDXL, revision="0" * 40))


def test_weights_that_are_no_safetensors_are_not_fetched(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    pickled = {name.replace(".safetensors", ".bin"): data for name, data in small[SDXL.pipeline].items()}
    models.add_repo(SDXL.repo, pickled)
    assert "holds no safetensors files" in refused(SDXL)
    assert not models.asked(".bin")


def test_without_the_hub_what_was_fetched_before_is_loaded_and_what_was_not_is_told(
    models: EmulatedHub, small: dict[str, dict[str, bytes]]
) -> None:
    commit = models.add_repo(SDXL.repo, small[SDXL.pipeline])
    load_pipeline(SDXL)
    models.fail("/", faults.status(503), times=1000)
    assert Path(load_pipeline(SDXL).name_or_path).name == commit
    assert "the Hub did not give them; try again when the network is back" in refused(BASE_MODELS["ssd-1b"])


def test_a_file_that_is_torn_on_this_disk_is_told(models: EmulatedHub, small: dict[str, dict[str, bytes]]) -> None:
    models.add_repo(SDXL.repo, small[SDXL.pipeline])
    torn = next(Path(load_pipeline(SDXL).name_or_path).glob("unet/*.safetensors"))
    torn.resolve().write_bytes(b"torn")
    assert "files on this machine are torn" in refused(SDXL)


@pytest.mark.parametrize(("part", "field", "size"), [("text_encoder", "hidden_size", 256), ("unet", "in_channels", 9)])
def test_weights_that_are_not_what_their_config_says_are_told(
    models: EmulatedHub, small: dict[str, dict[str, bytes]], part: str, field: str, size: int
) -> None:
    """A fine-tune's repo may say anything."""
    config = f"{part}/config.json"
    said = json.dumps(json.loads(small[SDXL.pipeline][config]) | {field: size}).encode()
    models.add_repo(SDXL.repo, small[SDXL.pipeline] | {config: said})
    assert "its weights are of other sizes than its config.json says" in refused(SDXL)
