"""The table of families: it agrees with the real classes built by the published configs, and with files' own names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils, single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from lora_catalog.card import Family
from lora_catalog.families.keys import Key, Target, place, split_key, target_of
from lora_catalog.families.table import MODEL_OF, MODELS, Model, modules
from lora_catalog.families.transformers import Flux
from lora_catalog.families.unet import UNet

POCKET = Path(__file__).parents[2] / "models" / "pocket"

# From the config.json that each Model names as its source; what is left out is the class's default or has no weights.
SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SD3_MEDIUM = SD3 | {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
SD = UNET | {"block_out_channels": (320, 640, 1280, 1280)}
SDXL = UNET | {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def shipped(folder: str) -> dict[str, Any]:
    """The config of a pocket model, as it comes with the project."""
    config = json.loads((POCKET / folder / "config.json").read_text())
    return {name: value for name, value in config.items() if not name.startswith("_")}


BACKBONES: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "Stable Diffusion 3 medium": (SD3Transformer2DModel, SD3_MEDIUM),
    "Stable Diffusion 3.5 medium": (
        SD3Transformer2DModel,
        SD3_MEDIUM | {"dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm", "pos_embed_max_size": 384},
    ),
    "Stable Diffusion 3.5 large": (
        SD3Transformer2DModel,
        SD3 | {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"},
    ),
    "Stable Diffusion XL": (UNet2DConditionModel, SDXL),
    "SSD-1B": (
        UNet2DConditionModel,
        SDXL
        | {
            "transformer_layers_per_block": (1, (2, 2), (4, 4)),
            "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 1),
            "mid_block_type": "UNetMidBlock2D",
        },
    ),
    "Segmind Vega": (
        UNet2DConditionModel,
        SDXL
        | {
            "transformer_layers_per_block": (1, (1, 1), (2, 2)),
            "reverse_transformer_layers_per_block": ((2, 2, 2), (1, 1, 1), 1),
            "mid_block_type": "UNetMidBlock2D",
        },
    ),
    "the SDXL refiner": (
        UNet2DConditionModel,
        SDXL
        | {
            "block_out_channels": (384, 768, 1536, 1536),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (6, 12, 24, 24),
            "transformer_layers_per_block": 4,
            "cross_attention_dim": 1280,
            "projection_class_embeddings_input_dim": 2560,
        },
    ),
    "Stable Diffusion 1": (UNet2DConditionModel, SD | {"cross_attention_dim": 768, "attention_head_dim": 8}),
    "Stable Diffusion 2": (
        UNet2DConditionModel,
        SD | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
    ),
    "FLUX.1": (
        FluxTransformer2DModel,
        {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
    ),
    "Pocket SD3": (SD3Transformer2DModel, shipped("pocket-sd3/transformer")),
    "Pocket SDXL": (UNet2DConditionModel, shipped("pocket-sdxl/unet")),
}


def clip(width: int, layers: int, projected: bool = False) -> torch.nn.Module:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    model: torch.nn.Module = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return model


def t5() -> torch.nn.Module:
    config = T5Config(
        d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, feed_forward_proj="gated-gelu", vocab_size=32128
    )
    model: torch.nn.Module = T5EncoderModel(config)
    return model


SD3_ENCODERS = (lambda: clip(768, 12, projected=True), lambda: clip(1280, 32, projected=True), t5)
SDXL_ENCODERS = (lambda: clip(768, 12), lambda: clip(1280, 32, projected=True))
ENCODERS: dict[Family, tuple[Callable[[], torch.nn.Module], ...]] = {
    "sd3-medium": SD3_ENCODERS,
    "sd3.5-medium": SD3_ENCODERS,
    "sd3.5-large": SD3_ENCODERS,
    "sdxl": SDXL_ENCODERS,
    "ssd-1b": SDXL_ENCODERS,
    "sd1": (lambda: clip(768, 12),),
    "sd2": (lambda: clip(1024, 23),),
    "flux": (lambda: clip(768, 12), t5),
    "pocket-sd3": (lambda: clip(128, 3, projected=True), lambda: clip(192, 3, projected=True)),
    "pocket-sdxl": (lambda: clip(128, 3), lambda: clip(192, 3, projected=True)),
}


def touchable(model: torch.nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            yield path, tuple(module.weight.shape)


def part(model: Model, component: str) -> dict[str, tuple[int, ...]]:
    return {path: shape for (owner, path), shape in modules(model).items() if owner == component}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_the_table_has_exactly_the_layers_of_the_real_backbone(model: Model) -> None:
    kind, config = BACKBONES[model.title]
    with torch.device("meta"):
        real = dict(touchable(kind(**config)))
    assert part(model, model.backbone) == real


@pytest.mark.parametrize("family", ENCODERS)
def test_the_table_has_exactly_the_layers_of_the_real_text_encoders(family: Family) -> None:
    model = MODEL_OF[family]
    assert len(model.parts) == 1 + len(ENCODERS[family])
    for number, build in enumerate(ENCODERS[family], start=1):
        with torch.device("meta"):
            real = dict(touchable(build()))
        table = part(model, "text_encoder" if number == 1 else f"text_encoder_{number}")
        bare = build is not t5 and "text_projection" not in real  # transformers 5 dropped the prefix there
        assert {path.removeprefix("text_model." if bare else ""): shape for path, shape in table.items()} == real


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_no_two_weights_of_a_model_share_a_name(model: Model) -> None:
    meanings: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for component, architecture in model.parts.items():
        for weight in architecture.weights():
            for path in weight.paths:
                meanings.setdefault((component, path.replace(".", "_")), set()).add((path,))
            for original in weight.originals:
                meanings.setdefault((component, original.replace(".", "_")), set()).add(weight.paths)
    assert [name for name, paths in meanings.items() if len(paths) > 1] == []


class Filled(dict[str, torch.Tensor]):
    """A checkpoint that has biases and norms too, as far as anybody takes them out."""

    def pop(self, key: str, *_: object) -> torch.Tensor:
        return super().pop(key, torch.zeros(21504))  # the rows of FLUX.1's widest weight


def marked(model: Model) -> Filled:
    """The backbone's original checkpoint, every row with a number of its own."""
    found = Filled()
    for number, weight in enumerate(model.parts[model.backbone].weights()):
        name = weight.originals[0] if weight.originals else weight.paths[0]
        rows = sum(shape[0] for shape in weight.shapes)
        found[f"{name}.weight"] = 100_000 * number + torch.arange(rows)[:, None]
    return found


def diffusers_reads(model: Model, checkpoint: Filled) -> dict[str, torch.Tensor]:
    architecture = model.parts[model.backbone]
    if isinstance(architecture, UNet):
        named = {f"model.diffusion_model.{name}": tensor for name, tensor in checkpoint.items()}
        named |= {name.replace(".weight", ".bias"): torch.zeros(1) for name in named}
        config: dict[str, Any] = {"layers_per_block": len(architecture.down[0])}
        extra = {} if architecture.added is None else {"addition_embed_type": "text_time"}
        read = single_file_utils.convert_ldm_unet_checkpoint(named, config | extra)
    elif isinstance(architecture, Flux):
        read = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    else:
        read = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    return dict(read)


def split(target: Target, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A file's layer as diffusers' modules, by what the target says."""
    if target.swapped:
        tensor = torch.cat(tensor.chunk(2)[::-1])
    return dict(zip(target.paths, torch.split(tensor, list(target.rows)), strict=True))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.title)
def test_original_names_mean_the_rows_that_diffusers_takes_from_them(model: Model) -> None:
    checkpoint = marked(model)
    ours: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint.items():
        target = target_of(f"diffusion_model.{name.removesuffix('.weight')}", model)
        assert target is not None
        ours |= split(target, tensor)
    theirs = diffusers_reads(model, checkpoint)
    assert ours.keys() == part(model, model.backbone).keys()
    for path, tensor in ours.items():
        assert torch.equal(tensor, theirs[f"{path}.weight"]), path


def test_the_names_of_xlabs_mean_the_rows_that_diffusers_takes_from_them() -> None:
    flux = MODEL_OF["flux"]
    names = [f"double_blocks.7.processor.{kind}_lora{stream}" for kind in ("qkv", "proj") for stream in (1, 2)]
    names += [f"single_blocks.7.processor.{kind}_lora" for kind in ("qkv", "proj")]
    file: dict[str, torch.Tensor] = {}
    ours: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        key = split_key(f"{name}.up.weight")
        assert key is not None
        target = target_of(key.layer, flux)
        assert target is not None
        up = 100_000 * number + torch.arange(sum(target.rows))[:, None]
        file |= {f"{name}.down.weight": torch.zeros(1, 3072), f"{name}.up.weight": up}
        ours |= split(target, up)
    theirs = lora_conversion_utils._convert_xlabs_flux_lora_to_diffusers(file)
    assert len(ours) == 12
    for path, tensor in ours.items():
        assert torch.equal(tensor, theirs[f"transformer.{path}.lora_B.weight"]), path


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("unet.mid_block.lora_A.weight", Key("unet.mid_block", "diffusers", "down")),
        ("unet.mid_block.lora_B.weight", Key("unet.mid_block", "diffusers", "up")),
        ("base_model.model.mid_block.lora_B.weight", Key("base_model.model.mid_block", "peft", "up")),
        ("unet.mid_block.lora_A.default.weight", Key("unet.mid_block", "peft", "down")),
        ("unet.attn1.processor.to_q_lora.down.weight", Key("unet.attn1.processor.to_q", "old", "down")),
        ("unet.attn1.to_q.lora.up.weight", Key("unet.attn1.to_q", "old", "up")),
        ("text_encoder.q_proj.lora_linear_layer.up.weight", Key("text_encoder.q_proj", "old", "up")),
        ("lora_unet_mid_block.lora_mid.weight", Key("lora_unet_mid_block", "kohya", "mid")),
        ("lora_unet_mid_block.alpha", Key("lora_unet_mid_block", "any", "alpha")),
        ("lora_unet_mid_block.hada_w1_a", Key("lora_unet_mid_block", "loha", "w1_a")),
        ("lora_unet_mid_block.lokr_t2", Key("lora_unet_mid_block", "lokr", "t2")),
        ("lora_unet_mid_block.diff_b", Key("lora_unet_mid_block", "full", "diff_b")),
        ("lora_unet_mid_block.w_norm", Key("lora_unet_mid_block", "norm", "diff")),
        ("lora_unet_mid_block.dora_scale", Key("lora_unet_mid_block", "any", "magnitude")),
        ("unet.mid_block.lora_magnitude_vector.default.weight", Key("unet.mid_block", "any", "magnitude")),
        ("unet.mid_block.weight", None),
        (".alpha", None),
        ("alpha", None),
        ("", None),
    ],
)
def test_a_key_is_taken_apart(key: str, parts: Key | None) -> None:
    assert split_key(key) == parts


@pytest.mark.parametrize(
    ("layer", "meant"),
    [
        ("unet.mid_block.resnets.0.conv1", ("backbone", "mid_block_resnets_0_conv1")),
        ("mid_block.resnets.0.conv1", ("backbone", "mid_block_resnets_0_conv1")),
        ("base_model.model.mid_block.resnets.0.conv1", ("backbone", "mid_block_resnets_0_conv1")),
        ("model.diffusion_model.out.2", ("backbone", "out_2")),
        ("lycoris_transformer_blocks_0_attn_to_q", ("backbone", "transformer_blocks_0_attn_to_q")),
        ("lora_transformer_proj_out", ("backbone", "proj_out")),
        ("unet.attn1.processor.to_out", ("backbone", "attn1_to_out_0")),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", ("text_encoder", "text_model_encoder_layers_0_mlp_fc1")),
        ("lora_te2_text_projection", ("text_encoder_2", "text_projection")),
        ("text_model.encoder.layers.0.mlp.fc1", ("text_encoder", "text_model_encoder_layers_0_mlp_fc1")),
        ("text_encoders.clip_g.transformer.text_projection", ("text_encoder_2", "text_projection")),
    ],
)
def test_a_layer_is_placed_in_a_part_of_the_model(layer: str, meant: tuple[str, str]) -> None:
    assert place(layer) == meant


@pytest.mark.parametrize(
    ("layer", "family", "component", "paths"),
    [
        (
            "lora_unet_joint_blocks_0_x_block_attn_qkv",
            "sd3-medium",
            "transformer",
            [f"transformer_blocks.0.attn.to_{letter}" for letter in "qkv"],
        ),
        (
            "diffusion_model.single_blocks.3.linear1",
            "flux",
            "transformer",
            [f"single_transformer_blocks.3.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")],
        ),
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "sdxl",
            "unet",
            ["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"],
        ),
        ("lora_unet_output_blocks_2_1_conv", "sd1", "unet", ["up_blocks.0.upsamplers.0.conv"]),
        ("lora_unet_output_blocks_2_2_conv", "sdxl", "unet", ["up_blocks.0.upsamplers.0.conv"]),
        (
            "lora_te3_encoder_block_0_layer_0_SelfAttention_k",
            "flux",
            "text_encoder_2",
            ["encoder.block.0.layer.0.SelfAttention.k"],
        ),
        (
            "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k",
            "sd3.5-large",
            "text_encoder_3",
            ["encoder.block.0.layer.0.SelfAttention.k"],
        ),
        (
            "text_encoder.encoder.layers.11.mlp.fc2",
            "sd1",
            "text_encoder",
            ["text_model.encoder.layers.11.mlp.fc2"],
        ),
    ],
)
def test_a_layer_of_a_file_names_the_modules_it_changes(
    layer: str, family: Family, component: str, paths: list[str]
) -> None:
    target = target_of(layer, MODEL_OF[family])
    assert target is not None
    assert (target.component, list(target.paths)) == (component, paths)


def test_a_layer_that_a_model_lacks_names_nothing() -> None:
    assert target_of("lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn1_to_q", MODEL_OF["ssd-1b"]) is None
