"""What text encoders made of texts is kept: pictures are the same to the bit, and only what is new is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

import core.words_read
from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.memory import PLANS
from core.messages import Job, LoraFile, Over, Raster
from core.request import GenerationRequest, request_from
from core.together import Group
from core.words_read import WordsRead
from tests.core.conftest import write_lora
from training.pocket import models
from training.pocket.text import text_encoder, train_tokenizer

CLIP = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
DENOISER = {
    "pocket-sd3": ("transformer.transformer_blocks.0.attn.to_q", (192, 192)),
    "pocket-sdxl": ("unet.conv_in", (64, 16, 3, 3)),
}
MODELS = ["pocket-sd3", "pocket-sdxl", "pocket-sdxl-lcm"]
SHADES = Raster(64, 64, bytes(range(256)) * (64 * 64 * 3 // 256))
WAYS = {"from noise": None, "over a picture": Over(SHADES), "in a mask": Over(SHADES, bytes(2048) + b"\xff" * 2048)}


def drawn(easel: Easel, *loras: LoraFile, over: Over | None = None, **fields: Any) -> list[bytes]:
    raw = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64} | fields
    if over is not None:
        raw |= {"image": "0" * 64, "strength": 0.6}
    request = request_from(raw, easel.entry.key)
    course = easel.blend(Job(request, loras))
    return [one.raster.data for one in easel.draw(request, course, lambda: False, lambda message: None, over)]


@contextmanager
def read(easel: Easel) -> Iterator[list[str]]:
    """The encoders, by each time that one of them is asked."""
    asked: list[str] = []
    encoders = {name: part for name, part in easel.pipeline.components.items() if name.startswith("text_encoder")}
    hooks = [
        part.register_forward_pre_hook(lambda *_, name=name: asked.append(name))
        for name, part in encoders.items()
        if part is not None
    ]
    yield asked
    for hook in hooks:
        hook.remove()


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_pictures_from_words_that_were_read_before_are_the_same_to_the_bit(
    model: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    easel = Easel(BASE_MODELS[model], "cpu")
    first = drawn(easel, over=WAYS[way], images=2)
    with read(easel) as asked:
        assert drawn(easel, over=WAYS[way], images=2) == first
    assert asked == []

    def anew(self: Easel, request: GenerationRequest, group: Group) -> dict[str, Any]:
        """As the pipeline's call reads them itself."""
        texts = {"prompt": request.prompt} | ({"negative_prompt": ""} if request.guidance > 1 else {})
        return texts | ({} if self.entry.t5_tokens is None else {"max_sequence_length": self.entry.t5_tokens})

    monkeypatch.setattr(Easel, "_words_of", anew)
    with read(easel) as asked:
        assert drawn(easel, over=WAYS[way], images=2) == first
    assert len(asked) >= 4


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize("model", ["pocket-sd3", "pocket-sdxl"])
def test_only_new_texts_and_new_weights_of_the_encoders_are_read(model: str, tmp_path: Path) -> None:
    files = {}
    for name, layers in (("words", {CLIP: (512, 128)}), ("lines", dict([DENOISER[model]]))):
        file = tmp_path / f"{name}.safetensors"
        files[name] = LoraFile(f"local:{name}", write_lora(file, layers), file, 1.0, 1.0)
    easel = Easel(BASE_MODELS[model], "cpu")

    def asked_for(*loras: LoraFile, **fields: Any) -> int:
        with read(easel) as asked:
            drawn(easel, *loras, **fields)
        return len(asked)

    words, lines = files["words"], files["lines"]
    assert asked_for(images=3) == 4  # two encoders, two texts, once for all three pictures
    assert asked_for(seed=8, width=96, steps=3) == 0
    assert [asked_for(prompt="a dog"), asked_for(negative_prompt="rain"), asked_for(guidance=1.0)] == [4, 4, 2]
    assert asked_for(prompt="a dog") == 0
    assert [asked_for(lines), asked_for(dataclasses.replace(lines, weight=-2.0, start=0.5))] == [0, 0]
    assert [asked_for(words), asked_for(words)] == [4, 0]
    assert asked_for(dataclasses.replace(words, text_encoder=0.5)) == 4
    assert [asked_for(dataclasses.replace(words, weight=0.5)), asked_for(words, lines), asked_for()] == [0, 0, 0]


@pytest.mark.usefixtures("random_pocket")
def test_an_encoder_at_another_weight_still_reads_other_words(tmp_path: Path) -> None:
    file = tmp_path / "words.safetensors"
    lora = LoraFile("local:words", write_lora(file, {CLIP: (512, 128)}), file, 1.0, 1.0)
    easel, fresh = (Easel(BASE_MODELS["pocket-sd3"], "cpu") for _ in range(2))
    plain, whole = drawn(easel), drawn(easel, lora)
    half = drawn(easel, dataclasses.replace(lora, text_encoder=0.5))
    assert len({plain[0], whole[0], half[0]}) == 3
    assert half == drawn(fresh, dataclasses.replace(lora, text_encoder=0.5))
    assert drawn(easel) == plain


@pytest.mark.usefixtures("random_pocket")
def test_known_words_move_no_encoder_that_rests_beside_the_device() -> None:
    easel = Easel(BASE_MODELS["pocket-sd3"], "cpu:0", PLANS["encoders-off"])  # the same memory by another name
    moves: list[str] = []

    def watched(to: Callable[..., Any]) -> Callable[..., Any]:
        def moved(device: Any) -> Any:
            moves.append(str(device))
            return to(device)

        return moved

    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(easel.pipeline, name)
        encoder.to = watched(encoder.to)
    first = drawn(easel)
    assert "cpu:0" in moves
    moves.clear()
    assert drawn(easel) == first
    assert "cpu:0" not in moves


def test_the_two_embeddings_of_sd1_are_what_its_call_reads_itself() -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    encoder = CLIPTextModel(text_encoder(tokenizer, models.TEXT_WIDTHS[0]).config).eval()
    vae = models.autoencoder()
    unet = UNet2DConditionModel(
        in_channels=16, out_channels=16, down_block_types=("CrossAttnDownBlock2D",), mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D",), block_out_channels=(32,), layers_per_block=1,
        cross_attention_dim=models.TEXT_WIDTHS[0], attention_head_dim=8,
    )  # fmt: skip
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    pipeline = StableDiffusionPipeline(
        vae, encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    words = WordsRead(pipeline, lambda: "")

    def latents(**texts: Any) -> torch.Tensor:
        made: torch.Tensor = pipeline(
            num_inference_steps=2, width=64, height=64, output_type="latent",
            generator=torch.Generator().manual_seed(1), **texts,
        ).images  # fmt: skip
        return made

    for _ in range(2):
        for negative in ("rain", "", None):
            guidance = {"guidance_scale": 1.0 if negative is None else 5.0}
            own = {} if negative is None else {"negative_prompt": negative}
            read = words.of("a cat", negative, None)
            assert len(read) == 2
            assert torch.equal(latents(**read, **guidance), latents(prompt="a cat", **own, **guidance))


@pytest.mark.usefixtures("random_pocket")
def test_what_was_used_longest_ago_is_forgotten_by_bytes_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    easel = Easel(BASE_MODELS["pocket-sdxl"], "cpu")
    words = WordsRead(easel.pipeline, lambda: "")

    def newly_read(texts: str) -> str:
        new = ""
        for text in texts:
            with read(easel) as asked, torch.inference_mode():
                words.of(text, None, None)
            new += text if asked else ""
        return new

    newly_read("a")
    monkeypatch.setattr(core.words_read, "MOST_BYTES", 2.5 * words._bytes())
    assert newly_read("babcab") == "bcab"
    monkeypatch.setattr(core.words_read, "MOST_TEXTS", 1)
    assert newly_read("cbbc") == "cbc"
