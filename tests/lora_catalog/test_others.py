"""Other architectures: a LoRA that is surely for none of the families measured here is told so, by its names."""

from __future__ import annotations

import re

import pytest

from lora_catalog.families.table import MODEL_OF
from lora_catalog.families.weights import Shape
from lora_catalog.identify import fits
from tests.lora_catalog.lora_headers import dotted, identified

# Layers of real LoRAs for models that are not measured here, and what they are taken for.
OTHERS: dict[str, dict[str, Shape]] = {
    "Wan": {"diffusion_model.blocks.0.self_attn.q": (5120, 5120), "diffusion_model.blocks.0.ffn.0": (13824, 5120)},
    "Wan by musubi": {"lora_unet_blocks_0_cross_attn_k_img": (5120, 5120)},
    "Wan by diffusers": {"transformer.blocks.0.attn1.to_q": (1536, 1536)},
    "Cosmos or Anima": {"lora_unet_blocks_0_cross_attn_output_proj": (2048, 2048)},
    "Krea 2": {"lora_unet_blocks_0_attn_wk": (1536, 6144)},
    "HunyuanVideo": {
        "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
        "lora_unet_double_blocks_0_img_mlp_fc1": (12288, 3072),
    },
    "HunyuanVideo by diffusers": {
        f"transformer.{blocks}.{number}.attn.to_q": (3072, 3072)
        for blocks, count in (("transformer_blocks", 20), ("single_transformer_blocks", 40))
        for number in range(count)
    },
    "FLUX.2": {"diffusion_model.double_blocks.0.img_attn.qkv": (3 * 6144, 6144)},
    "FLUX.2 klein": {
        "diffusion_model.double_blocks.0.img_attn.qkv": (3 * 3072, 3072),
        "diffusion_model.double_blocks.0.img_mlp.0": (2 * 9216, 3072),
    },
    "FLUX.2 by diffusers": {"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (55296, 6144)},
    "Chroma": {"diffusion_model.distilled_guidance_layer.layers.0.in_layer": (5120, 5120)},
    "Qwen-Image": {
        "transformer_blocks.0.attn.to_k": (3072, 3072),
        "transformer_blocks.0.img_mlp.net.0.proj": (12288, 3072),
    },
    "Qwen-Image by attention": {f"transformer_blocks.{n}.attn.to_k": (3072, 3072) for n in range(60)},
    "AuraFlow": {"transformer.joint_transformer_blocks.0.attn.to_q": (3072, 3072)},
    "HiDream": {"transformer.double_stream_blocks.0.block.attn1.to_q": (2560, 2560)},
    "Lumina or Z-Image": {"diffusion_model.layers.0.attention.to_q": (3840, 3840)},
    "Lumina or Z-Image by kohya": {"lora_unet_context_refiner_0_feed_forward_w1": (10240, 3840)},
    "Stable Cascade": {"lora_prior_unet_down_blocks_0_0": (2048, 2048)},
    "PixArt": {"transformer.transformer_blocks.0.attn1.to_q": (1152, 1152)},
    "LTX-Video": {"diffusion_model.transformer_blocks.0.attn1.to_q": (2048, 2048)},
    "a language model": {"base_model.model.model.layers.0.self_attn.q_proj": (4096, 4096)},
    "a video model's motion": {"down_blocks.0.motion_modules.0.temporal_transformer.proj_in": (320, 320)},
}


@pytest.mark.parametrize("title", OTHERS)
def test_a_lora_of_another_architecture_is_other(title: str) -> None:
    found = identified(OTHERS[title])
    assert found.family == "other"
    assert re.split(" by |-Video| klein", title)[0] in found.reason
    assert fits(found, "sdxl") == ("no", f"This LoRA does not fit sdxl: {found.reason}.")


def test_what_is_only_built_like_a_family_is_other_where_its_trainer_says_so() -> None:
    flux = dotted(MODEL_OF["flux"], "transformer", containing="attn")
    assert identified(flux).family == "flux"
    for said in ({"modelspec.architecture": "chroma/lora"}, {"ss_base_model_version": "chroma"}):
        found = identified(flux, said)
        assert (found.family, found.candidates) == ("other", ())
        assert found.reason == f"it was made for {found.base}, which is only built like flux"
    assert identified(dotted(MODEL_OF["sdxl"], "unet"), {"ss_sd_model_name": "chromaXL.safetensors"}).family == "sdxl"
