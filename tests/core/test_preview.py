"""Early looks: a linear map in place of the decoder shows what the picture will be."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.base_models import BASE_MODELS
from core.drawing import PREVIEWS, Easel
from core.memory import PLANS
from core.messages import Job, Message, Preview, Raster
from core.request import request_from

POCKETS = [(entry.key, sampler) for entry in BASE_MODELS.values() if entry.embedded for sampler in entry.samplers]
PROMPT = "a yellow house under a starry night sky"


@pytest.fixture(scope="module")
def easels() -> dict[str, Easel]:
    return {repo: Easel(BASE_MODELS[repo], "cpu") for repo in ("pocket-sd3", "pocket-sdxl")}


def small(raster: Raster) -> np.ndarray[Any, Any]:
    """16 by 16: what a look can show."""
    whole = Image.frombytes("RGB", (raster.width, raster.height), raster.data)
    return np.asarray(whole.resize((16, 16), Image.Resampling.BOX)).astype(float)


def run(easel: Easel, **fields: Any) -> tuple[list[Preview], Raster]:
    request = request_from({"prompt": PROMPT, "seed": 5} | fields, "pocket-sd3")
    messages: list[Message] = []
    pictures = easel.draw(request, easel.blend(Job(request)), threading.Event().is_set, messages.append)
    return [message for message in messages if isinstance(message, Preview)], pictures[0].raster


@pytest.mark.parametrize(("model", "sampler"), [pair for pair in POCKETS if pair[1] != "lcm"])
def test_looks_come_to_be_the_picture_without_its_noise(easels: dict[str, Easel], model: str, sampler: str) -> None:
    looks, picture = run(easels[BASE_MODELS[model].repo], model=model, sampler=sampler, steps=16)
    assert 4 <= len(looks) <= PREVIEWS
    gaps = [float(np.abs(small(look.raster) - small(picture)).mean()) for look in looks]
    assert max(gaps) < 50
    assert gaps[len(gaps) // 2] < 25  # of 255, half-way: latents with their noise are 60 and more away


def test_what_colours_look_like_is_learnt_before_the_denoiser_begins() -> None:
    """Where parts are offloaded, the VAE would drive the denoiser out between two steps."""
    easel, order = Easel(BASE_MODELS["pocket-sd3"], "cpu"), []
    easel.pipeline.vae.encoder.register_forward_pre_hook(lambda *_: order.append("vae"))
    easel.pipeline.transformer.register_forward_pre_hook(lambda *_: order.append("denoiser"))
    assert run(easel, steps=4)[0]
    assert order[:2] == ["vae", "denoiser"]
    assert order.count("vae") == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: what rests elsewhere must be moved there")
@pytest.mark.parametrize("plan", ["full", "encoders-off", "model-offload", "group-offload"])
def test_looks_come_wherever_the_parts_rest(plan: str) -> None:
    easel = Easel(BASE_MODELS["pocket-sd3"], "cuda", PLANS[plan])
    assert run(easel, steps=4)[0]


def test_nothing_is_decoded_for_a_look(easels: dict[str, Easel], monkeypatch: pytest.MonkeyPatch) -> None:
    easel = easels["pocket-sd3"]
    decode, asked = easel.pipeline.vae.decode, []

    def counted(latents: torch.Tensor, **options: Any) -> Any:
        asked.append(latents)
        return decode(latents, **options)

    monkeypatch.setattr(easel.pipeline.vae, "decode", counted)
    looks, _ = run(easel, steps=12)
    assert (len(asked), len(looks) > 3) == (1, True)


def test_a_look_never_changes_the_picture(easels: dict[str, Easel], monkeypatch: pytest.MonkeyPatch) -> None:
    easel = easels["pocket-sdxl"]
    _, with_looks = run(easel, model="pocket-sdxl", sampler="euler-ancestral", steps=6)
    monkeypatch.setattr("core.drawing.PREVIEWS", 0)
    looks, without = run(easel, model="pocket-sdxl", sampler="euler-ancestral", steps=6)
    assert looks == []
    assert with_looks.data == without.data


def test_a_plain_colour_is_shown_as_that_colour(easels: dict[str, Easel]) -> None:
    easel = easels["pocket-sd3"]
    vae = easel.pipeline.vae
    for colour in ((-0.8, 0.2, 0.6), (0.7, -0.5, -0.5)):
        with torch.inference_mode():
            plain = torch.tensor(colour)[None, :, None, None].expand(1, 3, 64, 64)
            latents = vae.encode(plain).latent_dist.mean
            look = easel._looks.of((latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor)
        middle = small(look)[8, 8] / 127.5 - 1
        assert np.abs(middle - colour).max() < 0.25
