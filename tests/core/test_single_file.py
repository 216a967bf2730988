"""Checkpoints in one file: known by their headers, refused in words, and drawing what their diffusers form draws."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save, save_file
from transformers import T5Config, T5EncoderModel

import core.single_file
from core.base_models import BASE_MODELS, BaseModel
from core.drawing import Easel
from core.engine import LocalEngine
from core.errors import BadRequest, ModelUnavailable
from core.fine_tunes import LISTED_ONLY, FineTunes
from core.loading import load_pipeline
from core.machine import Machine
from core.memory import FULL, PLANS, MemoryPlan
from core.messages import Failed, Job
from core.recipe import RecipeModel
from core.recipe_code import as_diffusers
from core.recipe_here import Here
from core.request import entry_of, request_from
from core.single_file import NoCheckpoint, contents_of
from lora_catalog.catalog import Catalog
from lora_catalog.families.table import MODEL_OF, MODELS, Model
from lora_catalog.families.unet import UNet
from lora_catalog.header import Header, TensorFacts
from lora_catalog.hub.api import HubApi
from lora_catalog.visitor import ANYONE
from tests.core.published import PUBLISHED
from tests.core.recipes import recipe
from tests.core.single_files import Tensors, mmdit_original, original, unet_original
from tests.core.test_fetching import models, small  # noqa: F401 (fixtures)
from tests.hub import EmulatedHub

REPO, FILE = "painter/oils", "models/oils_v3.safetensors"
SMALL = {
    "sdxl": "StableDiffusionXLPipeline",
    "sd1.5": "StableDiffusionPipeline",
    "sd3-medium": "StableDiffusion3Pipeline",
}
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def header_of(tensors: Tensors, dtype: str | None = None) -> Header:
    facts = {name: TensorFacts(dtype or _DTYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()}
    return Header(facts, {}, 0)


def published(family: str, only: str | None = None) -> dict[str, Any]:
    """A family's parts at full size, without weights."""
    with torch.device("meta"):
        return {name: build() for name, build in PUBLISHED[family].items() if only in (None, name)}


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_whole_checkpoint_of_every_family_is_known_with_all_its_parts(family: str) -> None:
    parts = published(family)
    found = contents_of(header_of(original(parts, open_first=family == "sd2")))
    base = next(entry for entry in BASE_MODELS.listed() if entry.family == family and entry.accelerator is None)
    assert (found.base, set(found.inside)) == (base, set(parts))


@pytest.mark.parametrize("family", PUBLISHED)
def test_a_denoiser_alone_is_known_in_either_layout(family: str) -> None:
    name = next(iter(PUBLISHED[family]))
    part = published(family, name)[name]
    theirs = unet_original(part) if name == "unet" else mmdit_original(part)
    for tensors in (theirs, part.state_dict(), original({name: part})):
        found = contents_of(header_of(tensors))
        assert (found.base.family, found.inside) == (family, (name,))


def odd() -> Iterator[tuple[str, Callable[[], Header], str]]:
    """Files that are refused, and why."""

    def changed(**changes: tuple[int, ...]) -> Callable[[], Header]:
        def made() -> Header:
            tensors = original(published("sd1", "unet"))
            renamed = {f"model.diffusion_model.{name.replace('__', '.')}": shape for name, shape in changes.items()}
            return header_of(tensors | {name: torch.empty(shape, device="meta") for name, shape in renamed.items()})

        return made

    def of(**names: tuple[int, ...]) -> Callable[[], Header]:
        shapes = {name.replace("__", "."): shape for name, shape in names.items()}
        return lambda: header_of({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})

    yield "a LoRA", of(lora_unet_x__lora_up__weight=(4, 4)), "it is a LoRA"
    yield "a VAE", of(decoder__conv_in__weight=(8, 4, 3, 3)), "it is a VAE alone"
    yield "an encoder", of(text_model__encoder__layers__0__mlp__fc1__weight=(8, 4)), "a text encoder alone"
    yield "a ControlNet", of(control_model__time_embed__0__weight=(8, 4)), "it is a ControlNet"
    yield "an embedding", of(emb_params=(8, 768)), "it is a textual inversion"
    yield "nonsense", of(x__weight=(8, 4)), "its layers are those of no model that is known here"
    yield "empty", of(), "its layers are those of no model"
    yield "inpainting", changed(input_blocks__0__0__weight=(320, 9, 3, 3)), "made for inpainting"
    yield "instructions", changed(input_blocks__0__0__weight=(320, 8, 3, 3)), "edits by instructions"
    yield "one more layer", changed(input_blocks__99__0__weight=(320, 320)), "of no model that is known here"
    yield "fp8", lambda: header_of(original(published("sd1", "unet")), "F8_E4M3"), "quantised (fp8 or less)"
    yield "v_pred", lambda: header_of({"v_pred": torch.empty(0)} | original(published("sdxl", "unet"))), "velocity"
    yield "chroma", of(distilled_guidance_layer__x__weight=(8, 4)), "it is Chroma, which is not among"
    old = {"cond_stage_model.transformer.embeddings.position_embedding.weight": torch.empty(77, 768)}
    yield "old names", lambda: header_of(old | original(published("sd1", "unet"))), "its text_encoder is laid out in"


@pytest.mark.parametrize(("made", "words"), [(made, words) for _, made, words in odd()], ids=[n for n, *_ in odd()])
def test_what_is_no_checkpoint_of_a_listed_model_is_said_to_be_what_it_is(
    made: Callable[[], Header], words: str
) -> None:
    with pytest.raises(NoCheckpoint) as refused:
        contents_of(made())
    assert words in str(refused.value)


def test_text_encoders_in_eight_bits_are_taken_from_the_base() -> None:
    parts = published("sd3-medium")
    facts = dict(header_of(original(parts)).tensors)
    t5 = {name: TensorFacts("F8_E4M3", f.shape) for name, f in facts.items() if "t5xxl" in name}
    assert set(contents_of(Header(facts | t5, {}, 0)).inside) == set(parts) - {"text_encoder_3"}


@pytest.fixture(autouse=True)
def small_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small pipelines beside the real ones, as if their measures were those of listed models."""
    old = UNet((32, 64), ((1,), (0,)), middle=1, up=((0, 0), (1, 1)), context=128, linear_projection=False, channels=16)
    tiny = (
        Model("sdxl", "small SDXL", "", {"unet": MODEL_OF["pocket-sdxl"].parts["unet"]}),
        Model("sd1", "small SD", "", {"unet": old}),
        Model("sd3-medium", "small SD3", "", {"transformer": MODEL_OF["pocket-sd3"].parts["transformer"]}),
    )
    known = tuple(model for model in MODELS if not model.family.startswith("pocket"))
    monkeypatch.setattr(core.single_file, "MODELS", (*known, *tiny))
    monkeypatch.setattr(BASE_MODELS, "_all", dict(BASE_MODELS))


@pytest.fixture(scope="session")
def tuned(small: dict[str, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: F811
    """Fine-tunes of the small pipelines, every weight of which is another."""
    found = {}
    for key, name in SMALL.items():
        folder = tmp_path_factory.mktemp(name)
        for path, data in small[name].items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        none = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor", "safety_checker"))
        index = json.loads((folder / "model_index.json").read_text())
        pipeline = DiffusionPipeline.from_pretrained(
            folder, variant=BASE_MODELS[key].variant, local_files_only=True, use_safetensors=True,
            **{part: None for part in none if part in index},
        )  # fmt: skip
        generator = torch.Generator().manual_seed(1)
        for part in pipeline.components.values():
            for weight in part.parameters() if isinstance(part, torch.nn.Module) else ():
                weight.data += 0.02 * torch.randn(weight.shape, generator=generator)
        if key == "sd3-medium":  # Stability's files have no projection of CLIP-L: theirs is the identity
            pipeline.text_encoder.text_projection.weight.data = torch.eye(128)
            pipeline.register_modules(text_encoder_3=small_t5(), tokenizer_3=pipeline.tokenizer)
        found[key] = pipeline
    return found


def small_t5() -> T5EncoderModel:
    torch.manual_seed(3)
    sizes = {"d_model": 320, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2, "vocab_size": 4096}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def repo_files(pipeline: Any, folder: Path, variant: str | None) -> dict[str, bytes]:
    pipeline.save_pretrained(folder, variant=variant)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def parts_of(pipeline: Any) -> dict[str, Any]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


@pytest.fixture
def fine_tunes(models: EmulatedHub, tmp_path: Path) -> FineTunes:  # noqa: F811
    return FineTunes(HubApi(models.endpoint, sleep=lambda seconds: None), tmp_path / "models.json")


def drawn(entry: BaseModel, plan: MemoryPlan = FULL) -> tuple[bytes, Easel]:
    easel = Easel(entry, "cpu", plan)
    asked = {"prompt": "a red circle", "steps": 2, "seed": 7, "width": 64, "height": 64, "model": "pocket-sd3"}
    request = request_from(asked | {"guidance": 3.0}, "pocket-sd3").model_copy(update={"model": entry.key})
    request = request.model_copy(update={"sampler": entry.samplers[0]})
    course = easel.blend(Job(request, ()))
    return easel.draw(request, course, threading.Event().is_set, lambda message: None)[0].raster.data, easel


def base_on(hub: EmulatedHub, key: str, pipeline: Any, folder: Path) -> None:
    """The base model's own repo: the same classes and settings, other weights."""
    files = repo_files(pipeline, folder, BASE_MODELS[key].variant)
    other = {}
    for name, data in files.items():
        if name.endswith(".safetensors"):
            (folder / "one.safetensors").write_bytes(data)
            data = save({k: v * 0.5 for k, v in load_file(folder / "one.safetensors").items()}, {"format": "pt"})
        other[name] = data
    hub.add_repo(BASE_MODELS[key].repo, other)


def folder_form(pipeline: Any, key: str, folder: Path, hub: EmulatedHub) -> BaseModel:
    files = repo_files(pipeline, folder, BASE_MODELS[key].variant)
    commit = hub.add_repo("painter/folder", files)
    return dataclasses.replace(BASE_MODELS[key], key="painter/folder", repo="painter/folder", revision=commit)


def drawn_again(entry: BaseModel, revision: str) -> str | None:
    """Why a recipe of these weights is not drawn."""
    asked = {"prompt": "x", "steps": 1, "seed": 7, "width": 64, "height": 64, "model": "pocket-sdxl"}
    request = request_from(asked, "pocket-sdxl").model_copy(update={"model": entry.key})
    last = list(LocalEngine(Machine("cpu")).run(Job(request, revision=revision), threading.Event()))[-1]
    return str(last.error) if isinstance(last, Failed) else None


@pytest.mark.parametrize("key", SMALL)
def test_a_whole_checkpoint_draws_what_its_folder_draws_and_fetches_no_weights_of_its_base(
    key: str, models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    pipeline = tuned[key]
    base_on(models, key, pipeline, tmp_path / "base")
    commit = models.add_repo(REPO, {FILE: save(original(parts_of(pipeline)))}, card={"license": "mit"})
    name = fine_tunes.key_of(f"{REPO}:{FILE}", None)
    entry = BASE_MODELS[str(name)]
    assert (name, entry.title, entry.licence) == (f"{REPO}@{commit}:{FILE}", "oils_v3.safetensors", "mit")
    assert [asked.headers.get("range") for asked in models.asked("resolve")] == ["bytes=0-999999"]
    picture, easel = drawn(entry)
    assert easel.revision(entry) == commit
    assert not [asked for asked in models.asked(BASE_MODELS[key].repo) if asked.path.endswith(".safetensors")]
    assert picture == drawn(folder_form(pipeline, key, tmp_path / "folder", models))[0]
    assert picture != drawn(BASE_MODELS[key])[0]
    assert not any(
        p.requires_grad or p.is_meta for part in parts_of(easel.pipeline).values() for p in part.parameters()
    )


@pytest.mark.parametrize(
    ("key", "layout"),
    [
        ("sdxl", "prefixed"),
        ("sdxl", "bare"),
        ("sdxl", "diffusers"),
        ("sd3-medium", "bare"),
        ("sd3-medium", "diffusers"),
    ],
)
def test_a_denoiser_alone_draws_with_the_rest_of_its_base(
    key: str, layout: str, models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    pipeline, name = tuned[key], "transformer" if key == "sd3-medium" else "unet"
    part = getattr(pipeline, name)
    base_on(models, key, pipeline, tmp_path / "base")
    theirs = original({name: part})
    bare = {k.removeprefix("model.diffusion_model."): tensor for k, tensor in theirs.items()}
    tensors = {"prefixed": theirs, "bare": bare, "diffusers": part.state_dict()}[layout]
    models.add_repo(REPO, {FILE: save({k: tensor.contiguous() for k, tensor in tensors.items()})})
    entry = BASE_MODELS[str(fine_tunes.key_of(f"{REPO}@main:{FILE}", None))]
    loaded = load_pipeline(entry)
    for mine, given in zip(getattr(loaded, name).state_dict().values(), part.state_dict().values(), strict=True):
        assert torch.equal(mine, given)
    plain = load_pipeline(BASE_MODELS[key])
    assert torch.equal(next(plain.text_encoder.parameters()), next(loaded.text_encoder.parameters()))
    assert "Its text_encoder, text_encoder_2" in entry.note


@pytest.mark.parametrize("plan", ["t5-nf4", "no-t5"])
def test_t5_of_a_file_is_packed_or_left_out_by_the_plan_as_one_of_a_folder(
    plan: str, models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    pipeline = tuned["sd3-medium"]
    base_on(models, "sd3-medium", pipeline, tmp_path / "base")
    models.add_repo(REPO, {FILE: save(original(parts_of(pipeline)))})
    entry = BASE_MODELS[str(fine_tunes.key_of(f"{REPO}:{FILE}", None))]
    picture, easel = drawn(entry, PLANS[plan])
    assert easel.plan()["quantisation"] == PLANS[plan].changes(entry)
    assert picture == drawn(folder_form(pipeline, "sd3-medium", tmp_path / "folder", models), PLANS[plan])[0]


def test_a_file_that_lacks_tensors_or_has_moved_is_told_in_one_sentence(
    models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    pipeline = tuned["sdxl"]
    base_on(models, "sdxl", pipeline, tmp_path / "base")
    tensors = original(parts_of(pipeline))
    for lacking in ("first_stage_model.decoder.conv_out.bias", "conditioner.embedders.1.model.ln_final.weight"):
        models.add_repo(REPO, {FILE: save({name: t for name, t in tensors.items() if name != lacking})})
        entry = BASE_MODELS[str(fine_tunes.key_of(f"{REPO}:{FILE}", None))]
        with pytest.raises(ModelUnavailable, match=r"^oils_v3\.safetensors could not be loaded: tensors lack in it"):
            load_pipeline(entry)
    models.add_repo(REPO, {"elsewhere.safetensors": save(tensors)})
    gone = dataclasses.replace(entry, revision=models.repo(REPO).head.sha)
    with pytest.raises(ModelUnavailable, match=r"oils_v3\.safetensors has moved or is gone: look what its repo"):
        load_pipeline(gone)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("a/b:x.ckpt", "a pickle"), ("a/b:x.PT", "a pickle"), ("a/b:x.gguf", "GGUF"), ("a/b:../x.safetensors", "no .."),
        ("a/b:", "no empty parts"), ("local:x/y.safetensors", "without its folder"), ("local:", "no empty parts"),
        ("local:nowhere.safetensors", "no such file lies in DATA_DIR/checkpoints"), ("local:x.ckpt", "a pickle"),
    ],
)  # fmt: skip
def test_what_names_no_such_file_is_refused_before_anybody_is_asked(
    model: str, words: str, models: EmulatedHub, fine_tunes: FineTunes  # noqa: F811
) -> None:  # fmt: skip
    with pytest.raises(BadRequest) as refused:
        fine_tunes.key_of(model, None)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not models.requests


@pytest.mark.parametrize("model", [f"{REPO}:{FILE}", "local:oils.safetensors"])
def test_a_server_that_strangers_reach_takes_listed_models_only(model: str) -> None:
    with pytest.raises(BadRequest, match="model"):
        entry_of(LISTED_ONLY.key_of(model, None))


def test_files_in_the_folder_are_offered_and_read_once_and_broken_ones_cost_a_line_of_the_log(
    models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    tensors = original(parts_of(tuned["sdxl"]))
    save_file(tensors, folder / "oils.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    (folder / "notes.txt").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        fine_tunes.remember()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["The model “local"]
    entry = BASE_MODELS["local:oils.safetensors"]
    assert (entry.title, entry.published, entry.revision) == ("oils.safetensors", None, None)
    assert not models.requests
    monkeypatch.setattr(BASE_MODELS, "_all", {e.key: e for e in BASE_MODELS.listed()})
    (folder / "broken.safetensors").unlink()
    monkeypatch.setattr("core.checkpoints.read_header", None)  # a second reading would fail
    FineTunes(HubApi(models.endpoint), tmp_path / "models.json").remember()
    assert BASE_MODELS["local:oils.safetensors"] == entry


def test_a_file_of_this_machine_is_named_by_its_sha256_and_another_one_by_another(
    models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    base_on(models, "sdxl", tuned["sdxl"], tmp_path / "base")
    file = tmp_path / "checkpoints" / "oils.safetensors"
    file.parent.mkdir()
    tensors = original(parts_of(tuned["sdxl"]))
    save_file(tensors, file)
    entry = BASE_MODELS[str(fine_tunes.key_of("local:oils.safetensors", None))]
    easel = Easel(entry, "cpu")
    assert easel.revision(entry) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert easel.serves(entry, FULL, None)
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, file)
    anew = BASE_MODELS[str(fine_tunes.key_of("local:oils.safetensors", None))]
    assert not easel.serves(anew, FULL, None)
    assert drawn_again(anew, easel.revision(entry)) == (
        "This recipe was made with other weights of oils.safetensors than are installed here, so it cannot be made "
        "again to the pixel: use its settings without the recipe."
    )
    assert drawn_again(anew, hashlib.sha256(file.read_bytes()).hexdigest()) is None
    here = Here(Catalog([]), "cpu", lambda key: None)
    for commit in (easel.revision(entry), hashlib.sha256(file.read_bytes()).hexdigest()):
        model = RecipeModel(key=anew.key, repo=None, revision=commit, accelerator=None)
        told = [one.reason for one in here.differences(recipe(anew.key).model_copy(update={"model": model}), ANYONE)]
        changed = (
            [] if commit != easel.revision(entry) else ["It was made with another file oils.safetensors than is here."]
        )
        assert told == changed
    file.unlink()
    with pytest.raises(ModelUnavailable, match="is not in DATA_DIR/checkpoints any more"):
        load_pipeline(anew)
    assert "DATA_DIR/checkpoints" in str(Machine("cuda", 80.0).why_not(anew))


def test_a_file_of_a_gated_base_says_whose_licence_is_to_be_accepted(tuned: dict[str, Any]) -> None:
    base = BASE_MODELS["sd3-medium"]
    entry = dataclasses.replace(base, gated=False, file="x.safetensors", rest=base, repo=REPO, title="x")
    assert "https://huggingface.co/stabilityai/stable-diffusion-3-medium" in str(Machine("cuda", 80.0).why_not(entry))


def test_a_denoiser_in_nf4_is_asked_of_diffusers_for_a_file_too(
    models: EmulatedHub, fine_tunes: FineTunes, tuned: dict[str, Any], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    base_on(models, "sdxl", tuned["sdxl"], tmp_path / "base")
    models.add_repo(REPO, {FILE: save(original(parts_of(tuned["sdxl"])))})
    entry = BASE_MODELS[str(fine_tunes.key_of(f"{REPO}:{FILE}", None))]
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="No GPU found"):
            load_pipeline(entry, "cpu", PLANS["nf4"])
        return
    assert "unet:nf4" in str(Easel(entry, "cuda", PLANS["nf4"]).plan()["quantisation"])


def test_the_script_of_a_recipe_reads_the_file_at_its_commit() -> None:
    base = BASE_MODELS["sdxl"]
    entry = dataclasses.replace(
        base, key=f"{REPO}@{'a' * 40}:{FILE}", file=FILE, rest=base, repo=REPO, revision="a" * 40, inside=("unet",)
    )
    BASE_MODELS.learn(entry)
    model = RecipeModel(key=entry.key, repo=REPO, revision="a" * 40, accelerator=None)
    script = as_diffusers(recipe(entry.key).model_copy(update={"model": model}))
    compile(script, "script", "exec")
    assert f'hf_hub_download("{REPO}", "{FILE}", revision="{"a" * 40}")' in script
    assert "StableDiffusionXLPipeline.from_single_file(" in script
    assert "lacks text_encoder, text_encoder_2, vae: load these from stabilityai/stable-diffusion-xl-base-1.0" in script
