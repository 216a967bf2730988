"""Loading by a memory plan: a real SD3 with T5 at small size, packed, cut short, offloaded and tiled."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import T5Config, T5EncoderModel

from core.base_models import BASE_MODELS, BaseModel
from core.drawing import Easel
from core.errors import Cancelled
from core.loading import _components, denoiser_of, load_pipeline
from core.lora.quantised import kind_of
from core.memory import FULL, PLANS, MemoryPlan, bytes_of, plans_for
from core.messages import Job, LoraFile, Message
from core.parts import Part
from core.request import request_from
from tests.core.conftest import write_lora
from tests.core.test_memory import counted

RESIDENT = ("full", "tiled", "t5-8bit", "t5-nf4", "no-t5")
OFFLOADED = ("encoders-off", "model-offload", "group-offload")


@pytest.fixture(scope="session")
def with_t5(random_models: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Pocket SD3 as the real ones are, with a third text encoder."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        random_models / "pocket-sd3", local_files_only=True, text_encoder_3=None, tokenizer_3=None,
        image_encoder=None, feature_extractor=None,
    )  # fmt: skip
    torch.manual_seed(0)
    sizes = {"d_model": 320, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    pipeline.register_modules(
        tokenizer_3=pipeline.tokenizer,
        text_encoder_3=T5EncoderModel(
            T5Config(**sizes, vocab_size=len(pipeline.tokenizer), feed_forward_proj="gated-gelu")
        ),
    )
    folder = tmp_path_factory.mktemp("with-t5")
    pipeline.save_pretrained(folder)
    return dataclasses.replace(BASE_MODELS["pocket-sd3"], repo=str(folder), t5=True, t5_tokens=16)


def drawn(entry: BaseModel, plan: MemoryPlan, *loras: LoraFile, side: int = 64) -> tuple[bytes, Easel]:
    easel = Easel(entry, "cpu", plan)
    request = request_from({"prompt": "a red circle", "steps": 2, "seed": 7, "width": side, "height": side}, entry.key)
    messages: list[Message] = []
    course = easel.blend(Job(request, loras))
    picture = easel.draw(request, course, threading.Event().is_set, messages.append)[0]
    return picture.raster.data, easel


@pytest.mark.usefixtures("random_pocket")
def test_every_plan_for_a_cpu_draws_and_the_recipe_says_what_makes_other_pixels(with_t5: BaseModel) -> None:
    assert tuple(plan.name for plan in plans_for(with_t5, "cpu")) == RESIDENT
    pictures, said = {}, {}
    for name in RESIDENT:
        pictures[name], easel = drawn(with_t5, PLANS[name])
        said[name] = easel.plan()["quantisation"]
    assert said == {name: PLANS[name].changes(with_t5) or None for name in RESIDENT}
    assert said == {
        "full": None,
        "tiled": "vae:tiled",
        "t5-8bit": "text_encoder_3:int8, vae:tiled",
        "t5-nf4": "text_encoder_3:nf4, vae:tiled",
        "no-t5": "text_encoder_3:none, vae:tiled",
    }
    assert pictures["full"] == pictures["tiled"]  # one tile is enough for so small a picture
    assert len({pictures[name] for name in RESIDENT}) == len(RESIDENT) - 1


@pytest.mark.usefixtures("random_pocket")
def test_a_picture_larger_than_a_tile_is_decoded_in_several(with_t5: BaseModel) -> None:
    decoded: list[tuple[int, ...]] = []

    def seen(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        decoded.append(tuple(given[0].shape[-2:]))

    easel = Easel(with_t5, "cpu", PLANS["tiled"])
    easel.pipeline.vae.decoder.register_forward_pre_hook(seen)
    easel.pipeline.vae.decode(torch.zeros(1, 16, 16, 16))
    assert len(decoded) > 1
    assert max(max(size) for size in decoded) == 8  # half the VAE's own side of 128 pixels, in latents


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize("name", OFFLOADED)
def test_offloading_draws_the_same_pixels_blend_and_all(with_t5: BaseModel, name: str, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    layers = {"transformer.transformer_blocks.0.attn.to_q": (192, 192)}
    clip = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    lora = LoraFile("local:lora", write_lora(file, layers | {clip: (512, 128)}), file, 1.0, 1.0)
    plain, _ = drawn(with_t5, FULL)
    blended, _ = drawn(with_t5, FULL, lora)
    offloaded, easel = drawn(with_t5, dataclasses.replace(PLANS[name], tiled=False), lora)
    assert plain != blended == offloaded
    assert easel.plan()["quantisation"] is None


@pytest.mark.usefixtures("random_pocket")
def test_encoders_go_back_to_rest_when_the_denoiser_begins(with_t5: BaseModel) -> None:
    pipeline = load_pipeline(with_t5, "cpu:0", PLANS["encoders-off"])  # the same memory by another name than at rest
    moves: list[str] = []

    def watched(name: str, to: Callable[..., Any]) -> Callable[..., Any]:
        def moved(device: Any) -> Any:
            moves.append(f"{name} to {device}")
            return to(device)

        return moved

    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        encoder = getattr(pipeline, name)
        encoder.to = watched(name, encoder.to)
    denoiser_of(pipeline).register_forward_pre_hook(lambda *_: moves.append("denoiser"))
    pipeline(prompt="a cat", num_inference_steps=1, width=64, height=64, output_type="latent", guidance_scale=1.0)
    assert moves[-3:] == ["text_encoder_3 to cpu:0", "text_encoder_3 to cpu", "denoiser"]
    assert not hasattr(pipeline.vae, "_hf_hook")


@pytest.mark.usefixtures("random_pocket")
def test_a_picture_that_is_cancelled_leaves_no_part_on_the_device(
    with_t5: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one's text encoders would find the denoiser there, and no room."""
    easel = Easel(with_t5, "cpu", PLANS["model-offload"])
    kind, moves = type(easel.pipeline.transformer), []
    move = kind.to

    def moved(part: Any, *args: Any, **options: Any) -> Any:
        moves.append(str(args[0]))
        return move(part, *args, **options)

    monkeypatch.setattr(kind, "to", moved)
    request = request_from({"prompt": "a cat", "steps": 4, "seed": 7, "width": 64, "height": 64}, with_t5.key)
    with pytest.raises(Cancelled):
        easel.draw(request, easel.blend(Job(request)), lambda: bool(moves), lambda message: None)
    assert moves[0] == "cpu:0"  # where it works: in a real run, the GPU
    assert moves[-1] == "cpu"  # where it rests


@pytest.mark.usefixtures("random_pocket")
def test_a_denoiser_in_nf4_is_asked_of_diffusers_which_draws_with_it_where_there_is_a_gpu(with_t5: BaseModel) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="No GPU found"):
            load_pipeline(with_t5, "cpu", PLANS["nf4"])
        return
    easel = Easel(with_t5, "cuda", PLANS["nf4"])
    assert easel.plan()["quantisation"] == "text_encoder_3:nf4, transformer:nf4, vae:tiled"


@pytest.mark.usefixtures("random_pocket")
def test_a_component_published_in_nf4_stays_as_it_is_published(with_t5: BaseModel, tmp_path: Path) -> None:
    load_pipeline(with_t5, "cpu", PLANS["t5-nf4"]).save_pretrained(tmp_path)
    entry = dataclasses.replace(with_t5, repo=str(tmp_path))
    assert "quantization_config" not in _components(tmp_path, (), PLANS["t5-8bit"], torch.float32)
    for name, said in (("full", "text_encoder_3:nf4"), ("t5-8bit", "text_encoder_3:nf4, vae:tiled")):
        assert drawn(entry, PLANS[name])[1].plan()["quantisation"] == said


@pytest.mark.usefixtures("random_pocket")
def test_what_a_plan_leaves_out_is_not_loaded(with_t5: BaseModel) -> None:
    pipeline = load_pipeline(with_t5, "cpu", PLANS["no-t5"])
    assert (pipeline.text_encoder_3, pipeline.tokenizer_3) == (None, None)
    assert not any(kind_of(module) for module in pipeline.transformer.modules())


def resting(module: torch.nn.Module) -> int:
    """Bytes of the layers that are packed, their scales among them."""
    size = 0
    layers: list[Any] = [layer for layer in module.modules() if kind_of(layer)]
    for layer in layers:
        four = kind_of(layer) == "Linear4bit"
        size += layer.weight.nbytes + (layer.weight.quant_state.absmax.nbytes if four else 4 * layer.out_features)
    return size


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize("name", ["t5-8bit", "t5-nf4"])
def test_packed_layers_take_the_bytes_that_the_plan_computes(with_t5: BaseModel, name: str) -> None:
    linear = counted(load_pipeline(with_t5, "cpu", FULL).text_encoder_3).linear
    packed = load_pipeline(with_t5, "cpu", PLANS[name]).text_encoder_3
    computed = bytes_of(Part(linear, linear), 4, PLANS[name].packing_of("text_encoder_3"))
    assert resting(packed) == pytest.approx(computed, rel=0.04)  # int8's scales count in rows of 64 to 320 numbers
