"""Fine-tunes of the Hub: judged by their descriptions over HTTP, refused in words, remembered, and drawn with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core.base_models import BASE_MODELS
from core.compare.run import compare_grid
from core.errors import BadRequest
from core.fine_tunes import FineTunes
from core.memory import FULL, needs
from core.studio import Studio
from lora_catalog.catalog import Catalog
from lora_catalog.errors import Gated, HubUnreachable, NotShown, RevisionGone
from lora_catalog.hub.api import HubApi
from lora_catalog.sources.bundled import BundledSource
from lora_catalog.visitor import ANYONE
from tests.core.published import PUBLISHED
from tests.hub import EmulatedHub, faults
from tests.ui.fakes import FakeEngine

REPO = "painter/oils"
CLASSES: dict[str, dict[str, Any]] = {
    "StableDiffusionXLPipeline": {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None], "force_zeros_for_empty_prompt": True,
    },
    "StableDiffusionPipeline": {
        "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"], "requires_safety_checker": True,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    },
    "StableDiffusion3Pipeline": {
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"], "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    },
}  # fmt: skip


def repo_of(family: str, variant: str = "", ending: str = "safetensors", **changes: Any) -> dict[str, bytes]:
    """The files of a fine-tune, whose weights nobody may ask for; `changes` go over its model_index.json."""
    pipeline = next(e.pipeline for e in BASE_MODELS.listed() if e.family == family)
    index = {"_class_name": pipeline, "_diffusers_version": "0.30.0"} | CLASSES[pipeline] | changes
    denoiser = next(iter(PUBLISHED[family]))
    with torch.device("meta"):
        config = PUBLISHED[family][denoiser]().config
    files = {
        "model_index.json": json.dumps(index).encode(),
        f"{denoiser}/config.json": json.dumps(dict(config)).encode(),
        "pipeline.py": b"raise SystemExit",
    }
    for name, kind in index.items():
        if isinstance(kind, list) and str(kind[1]).endswith(("Model", "KL", "Projection", "Checker")):
            files[f"{name}/model{variant}.{ending}"] = b"weights"
    return files


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test makes the table learn is gone with it."""
    monkeypatch.setattr(BASE_MODELS, "_all", dict(BASE_MODELS))


@pytest.fixture
def fine_tunes(hub: EmulatedHub, tmp_path: Path) -> FineTunes:
    return FineTunes(HubApi(hub.endpoint, sleep=lambda seconds: None), tmp_path / "models.json")


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_fine_tune_of_every_family_is_known_by_its_layers_without_a_byte_of_weights(
    hub: EmulatedHub, fine_tunes: FineTunes, family: str
) -> None:
    commit = hub.add_repo(REPO, repo_of(family, ".fp16"), card={"license": "mit"})
    key = fine_tunes.key_of(REPO, None)
    entry = BASE_MODELS[str(key)]
    base = next(e for e in BASE_MODELS.listed() if e.family == family and not e.accelerator)
    assert (key, entry.repo, entry.revision, entry.family) == (f"{REPO}@{commit}", REPO, commit, family)
    assert (entry.steps, entry.side, entry.samplers, entry.licence) == (base.steps, base.side, base.samplers, "mit")
    assert (entry.variant, entry.t5, entry.embedded) == ("fp16", base.t5, False)
    assert {asked.path.rpartition("/")[2] for asked in hub.asked("/resolve/")} == {"model_index.json", "config.json"}


def test_an_sd3_without_t5_takes_less_memory(hub: EmulatedHub, fine_tunes: FineTunes) -> None:
    hub.add_repo(REPO, repo_of("sd3.5-large", text_encoder_3=[None, None], tokenizer_3=[None, None]))
    entry = BASE_MODELS[str(fine_tunes.key_of(REPO, None))]
    assert (entry.t5, entry.variant) == (False, None)
    assert needs(entry, FULL) < needs(BASE_MODELS["sd3.5-large"], FULL) - 9e9


def odd() -> Iterator[tuple[str, dict[str, bytes], str]]:
    """Repos that are refused, and why."""
    plain = repo_of("sdxl")
    yield "no pipeline", {"unet.safetensors": b""}, "no model_index.json"
    yield "torn index", plain | {"model_index.json": b"{"}, "model_index.json makes no sense"
    yield "a list", plain | {"model_index.json": b"[]"}, "model_index.json makes no sense"
    yield "another pipeline", repo_of("sdxl", _class_name="FluxPipeline"), "its pipeline “FluxPipeline” is none of"
    yield "custom pipeline", repo_of("sdxl", _class_name=["pipeline", "Mine"]), "is none of StableDiffusion3Pipeline"
    yield "custom code", repo_of("sdxl", unet=["my_unet", "MyUNet"]), "its unet is “['my_unet', 'MyUNet']”"
    yield "odd class", repo_of("sdxl", vae=["diffusers", "AutoencoderTiny"]), "its vae is"
    yield "nonsense", repo_of("sdxl", vae=[["diffusers"], {}]), "its vae is"
    yield "no list", repo_of("sdxl", vae="AutoencoderKL"), "its vae is “AutoencoderKL”"
    yield "half a T5", repo_of("sd3-medium", tokenizer_3=[None, None]), "without the other"
    yield "pickled", repo_of("sdxl", ending="bin"), "its unet has no safetensors file"
    yield "no config", {name: data for name, data in plain.items() if "config" not in name}, "config.json of its unet"
    yield "odd config", plain | {"unet/config.json": b'{"block_out_channels": 7}'}, "config.json of its unet"
    packed = json.loads(plain["unet/config.json"]) | {"quantization_config": {"quant_method": "gptq"}}
    yield (
        "another packing",
        plain | {"unet/config.json": json.dumps(packed).encode()},
        "its unet is quantised by “gptq”",
    )
    t5 = repo_of("sd3-medium") | {"text_encoder_3/config.json": b'{"quantization_config": 7}'}
    yield "odd packing", t5, "its text_encoder_3 is quantised by “7”"
    refiner = json.loads(plain["unet/config.json"]) | {"projection_class_embeddings_input_dim": 2560}
    yield "a refiner", plain | {"unet/config.json": json.dumps(refiner).encode()}, "other layers than any model"
    inpainting = json.loads(plain["unet/config.json"]) | {"in_channels": 9}
    yield "an inpainter", plain | {"unet/config.json": json.dumps(inpainting).encode()}, "other layers than any model"


@pytest.mark.parametrize(("files", "words"), [(files, words) for _, files, words in odd()], ids=[n for n, *_ in odd()])
def test_what_is_no_such_fine_tune_is_refused_in_one_sentence_before_any_weights(
    hub: EmulatedHub, fine_tunes: FineTunes, files: dict[str, bytes], words: str
) -> None:
    hub.add_repo(REPO, files)
    with pytest.raises(BadRequest) as refused:
        fine_tunes.key_of(REPO, None)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"The model “{REPO}” cannot be used: ")
    assert "\n" not in str(refused.value)
    assert not hub.asked("/model.")


def test_what_the_hub_refuses_is_told_in_its_words(hub: EmulatedHub, fine_tunes: FineTunes) -> None:
    with pytest.raises(NotShown, match="The Hub shows no repo “painter/oils”"):
        fine_tunes.key_of(REPO, None)
    hub.add_repo(REPO, repo_of("sdxl"), gated="auto", readers=["tok"])
    with pytest.raises(Gated, match=r"accept its terms at http\S+/painter/oils"):
        fine_tunes.key_of(REPO, None)
    with pytest.raises(RevisionGone):
        fine_tunes.key_of(f"{REPO}@nowhere", "tok")
    assert str(fine_tunes.key_of(REPO, "tok")).startswith(f"{REPO}@")


def test_a_pinned_key_is_asked_of_the_hub_once_and_never_by_the_next_start(
    hub: EmulatedHub, fine_tunes: FineTunes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = hub.add_repo(REPO, repo_of("sdxl"))
    key = fine_tunes.key_of(f"{REPO}@{commit}", None)
    hub.commit(REPO, {"model_index.json": b"{}"})
    asked = len(hub.requests)
    entry = BASE_MODELS[str(key)]
    assert fine_tunes.key_of(key, None) == key
    monkeypatch.setattr(BASE_MODELS, "_all", {entry.key: entry for entry in BASE_MODELS.listed()})
    later = FineTunes(HubApi(hub.endpoint), tmp_path / "models.json")
    later.remember()
    assert BASE_MODELS[str(key)] == entry
    assert len(hub.requests) == asked


def test_without_the_hub_the_commit_that_is_known_serves(hub: EmulatedHub, fine_tunes: FineTunes) -> None:
    commit = hub.add_repo(REPO, repo_of("sdxl"))
    fine_tunes.key_of(REPO, None)
    hub.fail("/", faults.status(503), times=100)
    assert fine_tunes.key_of(REPO, None) == f"{REPO}@{commit}"
    with pytest.raises(HubUnreachable):
        fine_tunes.key_of("painter/others", None)


@pytest.mark.parametrize("content", [b"", b"[{}]", b"{", b'[{"repo": 1}]'])
def test_a_torn_shelf_holds_nothing(fine_tunes: FineTunes, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "models.json").write_bytes(content)
    fine_tunes.remember()
    assert set(BASE_MODELS) == {entry.key for entry in BASE_MODELS.listed()}


@pytest.mark.parametrize("name", ["sdxl", "pocket-sd3", "sdx", 7, None, "a/b/c", "../b", "http://x/y", "a/b@", ""])
def test_what_is_no_repo_is_left_to_the_request_to_judge(hub: EmulatedHub, fine_tunes: FineTunes, name: object) -> None:
    assert fine_tunes.key_of(name, None) == name
    assert not hub.requests


@pytest.fixture
def studio(fine_tunes: FineTunes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Studio:
    monkeypatch.setattr(FakeEngine, "availability", lambda self, key: None)
    return Studio(FakeEngine(), Catalog([BundledSource(tmp_path)]), "pocket-sd3", models=fine_tunes)


def test_a_request_is_drawn_with_the_fine_tune_and_its_recipe_pins_the_commit(hub: EmulatedHub, studio: Studio) -> None:
    commit = hub.add_repo(REPO, repo_of("sdxl"))
    made = list(studio.generate({"prompt": "a boat", "model": REPO, "steps": 1}, ANYONE, threading.Event()))[-1]
    model = made.recipe.model  # type: ignore[union-attr]
    assert (model.key, model.repo) == (f"{REPO}@{commit}", REPO)
    raw = made.recipe.as_json()  # type: ignore[union-attr]
    assert studio.read_recipe({"text": json.dumps(raw)}, ANYONE)[0].model.key == model.key
    assert REPO in [entry["title"] for entry in studio.models()]
    again = list(studio.generate({"recipe": raw}, ANYONE, threading.Event()))[-1]
    assert again.recipe.model == model  # type: ignore[union-attr]


def test_a_recipe_of_a_fine_tune_is_read_where_nobody_knew_of_it(hub: EmulatedHub, studio: Studio) -> None:
    hub.add_repo(REPO, repo_of("sdxl"))
    made = list(studio.generate({"prompt": "a boat", "model": REPO, "steps": 1}, ANYONE, threading.Event()))[-1]
    text = json.dumps(made.recipe.as_json())  # type: ignore[union-attr]
    BASE_MODELS._all = {entry.key: entry for entry in BASE_MODELS.listed()}
    assert studio.read_recipe({"text": text}, ANYONE)[0].model.key == json.loads(text)["model"]["key"]
    BASE_MODELS._all = {entry.key: entry for entry in BASE_MODELS.listed()}
    hub.delete(REPO)
    recipe, reasons = studio.read_recipe({"text": text}, ANYONE)
    assert (recipe.model.key, reasons[0].field) == ("pocket-sd3", "model.key")


def test_a_comparison_of_models_may_name_fine_tunes(hub: EmulatedHub, studio: Studio) -> None:
    commit = hub.add_repo(REPO, repo_of("sdxl"))
    raw = {"prompt": "a boat", "steps": 1, "width": 64, "height": 64, "baseline": None, "rows": None}
    columns = {"field": "model", "values": ["pocket-sd3", REPO]}
    last = list(compare_grid(studio, raw | {"columns": columns}, ANYONE, threading.Event()))[-1]
    assert {made.recipe.model.key for made in last.drawn.values()} == {"pocket-sd3", f"{REPO}@{commit}"}
