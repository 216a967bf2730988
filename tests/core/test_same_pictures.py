"""Whole pictures on small random models: one LoRA under all its names, and forms that only PEFT draws."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from core.base_models import BASE_MODELS
from core.engine import LocalEngine
from core.errors import LoraFileBroken
from core.loading import load_pipeline
from core.lora.blend import Blender, Ingredient
from core.lora.stores import weights_of
from core.machine import Machine
from core.messages import Done, Failed, Job, LoraFile, Receipt
from core.request import request_from
from tests.core.conftest import parsed

Tensors = dict[str, torch.Tensor]
SMALL = {"prompt": "a cat", "steps": 2, "seed": 7, "width": 64, "height": 64}


def drawn(engine: LocalEngine, model: str, *files: Path, weight: float = 1.0) -> Done | Failed:
    request = request_from(SMALL | {"model": model}, model)
    loras = [
        LoraFile(f"local:{file.name}", hashlib.sha256(file.read_bytes()).hexdigest(), file, weight, weight)
        for file in files
    ]
    last = list(engine.run(Job(request, tuple(loras)), threading.Event()))[-1]
    assert isinstance(last, Done | Failed)
    return last


def picture(engine: LocalEngine, model: str, *files: Path) -> tuple[bytes, tuple[Receipt, ...]]:
    done = drawn(engine, model, *files)
    assert isinstance(done, Done), done
    return done.pictures[0].raster.data, done.receipts


def factors(layers: dict[str, tuple[int, ...]], rank: int = 4) -> Tensors:
    """In diffusers' names. Layers that kohya fuses share their first factor, so that a fused pair says the same."""
    tensors: Tensors = {}
    for layer, (rows, columns, *kernel) in layers.items():
        shared = re.sub(r"to_[qkv]$", "qkv", re.sub(r"add_[qkv]_proj$", "added", layer))
        torch.manual_seed(int(hashlib.sha256(shared.encode()).hexdigest()[:8], 16))
        tensors[f"{layer}.lora_A.weight"] = torch.randn(rank, columns, *kernel) * 0.2
        torch.manual_seed(int(hashlib.sha256(layer.encode()).hexdigest()[:8], 16))
        tensors[f"{layer}.lora_B.weight"] = torch.randn(rows, rank, *(1 for _ in kernel)) * 0.2
    return tensors


def renamed(tensors: Tensors, layer: str, name: str) -> Tensors:
    """A layer under another name, as kohya's trainer writes it: with its rank for an alpha."""
    down = tensors[f"{layer}.lora_A.weight"]
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": tensors[f"{layer}.lora_B.weight"],
        f"{name}.alpha": torch.tensor(float(len(down))),
    }


BLOCK = "transformer.transformer_blocks.{}"
PICTURE, WORDS = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
ALONE = {  # sd-scripts' and Stability's names of what is not fused
    "attn.to_out.0": ("x_block_attn_proj", (192, 192)),
    "attn.to_add_out": ("context_block_attn_proj", (192, 192)),
    "ff.net.0.proj": ("x_block_mlp_fc1", (768, 192)),
    "ff_context.net.2": ("context_block_mlp_fc2", (192, 768)),
    "norm1.linear": ("x_block_adaLN_modulation_1", (1152, 192)),
}
SD3_ENCODER = {
    "text_encoder.text_model.encoder.layers.1.mlp.fc1": ("lora_te1_text_model_encoder_layers_1_mlp_fc1", (512, 128)),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj":
        ("lora_te2_text_model_encoder_layers_0_self_attn_v_proj", (192, 192)),
}  # fmt: skip


def sd3_copies() -> dict[str, Tensors]:
    """One LoRA for pocket-sd3 in diffusers' names and in kohya's."""
    shapes: dict[str, tuple[int, ...]] = {name: shape for name, (_, shape) in SD3_ENCODER.items()}
    for number in (0, 2):
        shapes |= {f"{BLOCK.format(number)}.{name}": (192, 192) for name in (*PICTURE, *WORDS)}
        shapes |= {f"{BLOCK.format(number)}.{name}": shape for name, (_, shape) in ALONE.items()}
    plain = factors(shapes | {"transformer.norm_out.linear": (384, 192)})
    kohya: Tensors = {}
    for name, (other, _) in SD3_ENCODER.items():
        kohya |= renamed(plain, name, other)
    for number in (0, 2):
        block, joint = BLOCK.format(number), f"lora_unet_joint_blocks_{number}_"
        for name, (other, _) in ALONE.items():
            kohya |= renamed(plain, f"{block}.{name}", joint + other)
        for names, other in ((PICTURE, "x_block_attn_qkv"), (WORDS, "context_block_attn_qkv")):
            fused = {"it.lora_A.weight": plain[f"{block}.{names[0]}.lora_A.weight"]}
            fused["it.lora_B.weight"] = torch.cat([plain[f"{block}.{name}.lora_B.weight"] for name in names])
            kohya |= renamed(fused, "it", joint + other)
    last = {"it.lora_A.weight": plain["transformer.norm_out.linear.lora_A.weight"]}
    scale, shift = plain["transformer.norm_out.linear.lora_B.weight"].chunk(2)
    last["it.lora_B.weight"] = torch.cat([shift, scale])
    return {"diffusers": plain, "kohya": kohya | renamed(last, "it", "lora_unet_final_layer_adaLN_modulation_1")}


ATTENTIONS = {  # of pocket-sdxl, diffusers' and Stability's names
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
}


def sdxl_copies() -> dict[str, Tensors]:
    """One LoRA for pocket-sdxl in diffusers' names, in kohya's of either kind, in PEFT's and in old diffusers'."""
    shapes: dict[str, tuple[int, ...]] = {}
    for home in ATTENTIONS:
        width = 64 if home.startswith(("down_blocks.0", "up_blocks.1")) else 128
        shapes[f"unet.{home}.transformer_blocks.0.attn2.to_k"] = (width, 320)
        shapes[f"unet.{home}.transformer_blocks.0.ff.net.0.proj"] = (8 * width, width)
        shapes[f"unet.{home}.proj_in"] = (width, width)
    plain = factors(
        shapes
        | {"unet.mid_block.resnets.0.conv2": (128, 128, 3, 3)}
        | {"text_encoder.text_model.encoder.layers.2.mlp.fc2": (128, 512)}
        | {"text_encoder_2.text_projection": (192, 192)}
    )
    copies: dict[str, Tensors] = {"diffusers": plain, "kohya": {}, "Stability": {}, "PEFT": {}, "old": {}}
    for layer in [name.removesuffix(".lora_A.weight") for name in plain if name.endswith(".lora_A.weight")]:
        part, _, path = layer.partition(".")
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]
        copies["kohya"] |= renamed(plain, layer, prefix + path.replace(".", "_"))
        path = path.replace("mid_block.resnets.0.conv2", "middle_block.0.out_layers.3")
        for ours, theirs in ATTENTIONS.items():
            path = path.replace(ours, theirs)
        copies["Stability"] |= renamed(plain, layer, prefix + path.replace(".", "_"))
        down, up = plain[f"{layer}.lora_A.weight"], plain[f"{layer}.lora_B.weight"]
        copies["PEFT"] |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
        copies["old"] |= {f"{layer}.lora.down.weight": down, f"{layer}.lora.up.weight": up}
    return copies


@pytest.mark.parametrize(("model", "copies"), [("pocket-sd3", sd3_copies), ("pocket-sdxl", sdxl_copies)])
def test_a_lora_draws_the_same_picture_to_the_bit_under_all_its_names(
    random_pocket: Path, tmp_path: Path, model: str, copies: Any
) -> None:
    engine = LocalEngine(Machine("cpu"))
    pictures, receipts = {}, {}
    for name, tensors in copies().items():
        file = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, file)
        pictures[name], (receipts[name],) = picture(engine, model, file)
        assert (receipts[name].applied, receipts[name].skipped) == (receipts[name].total, ())
        assert receipts[name].text_encoder == 2
    assert len(set(pictures.values())) == 1
    assert picture(engine, model)[0] not in pictures.values()
    # of the file's own layers: kohya's qkv are one where diffusers' are three
    fused = 8 if model == "pocket-sd3" else 0
    assert receipts["diffusers"].total - receipts["kohya"].total == fused


FORMS: dict[str, PeftConfig] = {
    "LoHa": LoHaConfig(r=3, alpha=3),
    "DoRA": LoraConfig(r=3, lora_alpha=3, use_dora=True),
}
PARTS = {"pocket-sd3": ("transformer", ["to_q", "to_add_out"]), "pocket-sdxl": ("unet", ["to_k", "conv1"])}


def latents(pipeline: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    made: torch.Tensor = pipeline(
        "a cat", num_inference_steps=2, height=64, width=64, generator=generator, output_type="latent"
    ).images
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", PARTS)
def test_a_blend_draws_what_pefts_own_unfused_forward_draws(
    random_pocket: Path, tmp_path: Path, model: str, form: str
) -> None:
    part, targets = PARTS[model]
    entry = BASE_MODELS[model]
    pipeline = load_pipeline(entry)
    bare = latents(pipeline)
    config = FORMS[form]
    config.target_modules = targets
    with torch.random.fork_rng():
        torch.manual_seed(3)
        adapted = inject_adapter_in_model(config, getattr(pipeline, part))
        for name, parameter in adapted.named_parameters():
            if "hada_" in name or ("lora_" in name and "magnitude" not in name):
                torch.nn.init.normal_(parameter, std=0.2)
            elif "magnitude" in name:
                parameter.data.mul_(1.2)
    by_peft = latents(pipeline)
    state = {f"{part}.{name}": value for name, value in get_peft_model_state_dict(adapted).items()}

    pipeline = load_pipeline(entry)
    read = parsed(tmp_path, state, entry.family)
    blender = Blender(weights_of({part: getattr(pipeline, part)}))
    (receipt,) = blender.apply([Ingredient(read, "it", 1.0, 1.0)])
    assert receipt.applied == receipt.total >= 6
    by_blend = latents(pipeline)
    effect = (by_peft - bare).abs().max()
    assert effect > 0.01
    assert (by_blend - by_peft).abs().max() < 1e-3 * effect
    blender.apply([])
    assert torch.equal(latents(pipeline), bare)


def test_after_a_broken_file_the_next_picture_is_as_before(random_pocket: Path, tmp_path: Path) -> None:
    engine = LocalEngine(Machine("cpu"))
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    tensors = factors({f"{BLOCK.format(0)}.attn.to_q": (192, 192), f"{BLOCK.format(1)}.attn.to_q": (192, 192)})
    save_file(tensors, good)
    before = picture(engine, "pocket-sd3", good)[0]
    half = dict(list(tensors.items())[:3])
    unfinite = tensors | {f"{BLOCK.format(1)}.attn.to_q.lora_B.weight": torch.full((192, 4), float("nan"))}
    for broken in (half, unfinite):
        save_file(broken, bad)
        failed = drawn(engine, "pocket-sd3", good, bad, weight=-2.0)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, LoraFileBroken)
        assert picture(engine, "pocket-sd3", good)[0] == before
