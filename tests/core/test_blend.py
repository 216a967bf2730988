"""The blend: exact, independent of order, undone to the bit, and untouched by what fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from core.errors import LoraDoesNotFit, LoraRefused
from core.lora.blend import Blender, Ingredient
from core.lora.changes import LowRank
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of
from core.lora.weights import Share, Weight
from tests.core.conftest import parsed, write_lora

TO_Q = "transformer.transformer_blocks.0.attn.to_q"
TO_K = "transformer.transformer_blocks.1.attn.add_k_proj"
LAYERS = {TO_Q: (32, 32), TO_K: (32, 32)}


@pytest.fixture
def transformer() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=32, pooled_projection_dim=16,
        pos_embed_max_size=8,
    ).half()  # fmt: skip


def checksum(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def lora(path: Path, seed: int = 0, layers: Mapping[str, tuple[int, ...]] = LAYERS) -> ParsedLora:
    file = path / f"{seed}.safetensors"
    return parse_lora(file, write_lora(file, layers, seed=seed), f"lora {seed}", "sd3-medium")


def part(read: ParsedLora, weight: float, text_encoder: float = 0.0) -> Ingredient:
    return Ingredient(read, "the LoRA", weight, text_encoder)


@dataclass
class Watched:
    """A weight that says when it is written, after it was."""

    weight: Weight
    say: Callable[[], None]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def set(self, shares: Sequence[Share]) -> Sequence[torch.Tensor]:
        written = self.weight.set(shares)
        self.say()
        return written

    def restore(self) -> None:
        self.weight.restore()


@pytest.fixture
def blender(transformer: SD3Transformer2DModel) -> Blender:
    return Blender(weights_of({"transformer": transformer}))


def test_the_merged_weight_is_the_fp32_sum_rounded_once(
    transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path
) -> None:
    before = transformer.transformer_blocks[0].attn.to_q.weight.clone()
    first, second = lora(tmp_path, 1), lora(tmp_path, 2)
    blender.apply([part(first, 0.7), part(second, -1.3)])
    exact = before.double()
    for read, weight in ((first, 0.7), (second, -1.3)):
        factors = read.layers[TO_Q]
        assert isinstance(factors, LowRank)
        exact += weight * (factors.up.double() @ factors.down.double())
    merged = transformer.transformer_blocks[0].attn.to_q.weight
    assert (merged.double() - exact).abs().max() <= (exact.abs().max() * 2**-11) * 1.01


def test_order_does_not_matter_to_the_bit(transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path) -> None:
    parts = [part(lora(tmp_path, seed), 0.3 * seed) for seed in (1, 2, 3)]
    blender.apply(parts)
    forward = checksum(transformer)
    blender.apply([])
    blender.apply(parts[::-1])
    assert checksum(transformer) == forward


def test_an_empty_blend_is_the_untouched_model_after_any_changes(
    transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path
) -> None:
    before = checksum(transformer)
    for seed in range(20):
        blender.apply([part(lora(tmp_path, seed % 3), 0.1 * seed - 1), part(lora(tmp_path, 7), 0.5)])
    assert checksum(transformer) != before
    blender.apply([])
    assert checksum(transformer) == before


def test_weight_zero_is_no_lora_but_still_has_a_receipt(
    transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path
) -> None:
    before = checksum(transformer)
    (receipt,) = blender.apply([part(lora(tmp_path), 0.0)])
    assert checksum(transformer) == before
    assert (receipt.applied, receipt.total) == (2, 2)


def test_only_layers_that_change_are_written(transformer: SD3Transformer2DModel, tmp_path: Path) -> None:
    written: list[str] = []
    store = weights_of({"transformer": transformer})
    blender = Blender({layer: Watched(weight, partial(written.append, layer)) for layer, weight in store.items()})
    one, two = lora(tmp_path, 1, {TO_Q: (32, 32)}), lora(tmp_path, 2, {TO_K: (32, 32)})
    blender.apply([part(one, 1.0), part(two, 1.0)])
    written.clear()
    blender.apply([part(one, 1.0), part(two, 1.0)])
    assert written == []
    blender.apply([part(one, 1.0), part(two, 0.5)])
    assert written == [TO_K]


def test_a_foreign_lora_is_refused_before_anything_is_touched(
    transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path
) -> None:
    before = checksum(transformer)
    foreign = lora(tmp_path, 3, {"unet.mid_block.attentions.0.proj_in": (8, 8)})
    with pytest.raises(LoraDoesNotFit, match="none of its 1 layers match"):
        blender.apply([part(lora(tmp_path, 1), 1.0), part(foreign, 1.0)])
    assert checksum(transformer) == before


def test_a_partial_lora_is_said_and_only_used_when_allowed(blender: Blender, tmp_path: Path) -> None:
    half = lora(tmp_path, 4, {TO_Q: (32, 32), "transformer.nowhere": (4, 4), TO_K: (16, 16)})
    with pytest.raises(LoraDoesNotFit, match="Only 1 of 3 layers"):
        blender.apply([part(half, 1.0)])
    (receipt,) = blender.apply([part(half, 1.0)], allow_partial=True)
    assert (receipt.applied, receipt.total) == (1, 3)
    assert dict(receipt.skipped) == {
        "transformer.nowhere": "this model has no such layer",
        TO_K: "its shape is (16, 16), the model's is (32, 32)",
    }


def test_a_write_that_fails_leaves_every_layer_pristine(transformer: SD3Transformer2DModel, tmp_path: Path) -> None:
    full = iter([True])

    def fill() -> None:
        if next(full, False):
            raise torch.OutOfMemoryError("no room")

    before = checksum(transformer)
    store = weights_of({"transformer": transformer})
    blender = Blender({**store, TO_K: Watched(store[TO_K], fill)})
    with pytest.raises(torch.OutOfMemoryError):
        blender.apply([part(lora(tmp_path), 1.0)])
    assert checksum(transformer) == before
    blender.apply([part(lora(tmp_path), 1.0)])
    assert checksum(transformer) != before


def test_a_blend_beyond_the_storage_type_is_refused_and_leaves_every_layer_pristine(
    transformer: SD3Transformer2DModel, blender: Blender, tmp_path: Path
) -> None:
    before = checksum(transformer)
    ones = {f"{TO_K}.lora_A.weight": torch.ones(1, 32), f"{TO_K}.lora_B.weight": torch.full((32, 1), 50_000.0)}
    huge = parsed(tmp_path, ones, "sd3-medium")
    with pytest.raises(LoraRefused, match="lower the weights"):
        blender.apply([part(lora(tmp_path), 1.0), part(huge, 2.0)])
    assert checksum(transformer) == before
    blender.apply([part(huge, 0.5)])
    assert checksum(transformer) != before


def test_text_encoder_layers_take_their_own_weight_and_their_share_is_said(
    transformer: SD3Transformer2DModel, tmp_path: Path
) -> None:
    encoder = CLIPTextModel(CLIPTextConfig(hidden_size=8, intermediate_size=32, num_hidden_layers=2, vocab_size=10))
    fc1 = "text_encoder.text_model.encoder.layers.{}.mlp.fc1"
    read = lora(tmp_path, 5, {fc1.format(0): (32, 8), fc1.format(1): (32, 8), TO_Q: (32, 32)})
    blender = Blender(weights_of({"text_encoder": encoder, "transformer": transformer}))
    before = checksum(encoder), checksum(transformer)
    (receipt,) = blender.apply([part(read, 1.0, text_encoder=0.0)])
    assert (receipt.applied, receipt.total, receipt.text_encoder) == (3, 3, 2)
    assert checksum(encoder) == before[0]
    assert checksum(transformer) != before[1]
    blender.apply([part(read, 0.0, text_encoder=1.0)])
    assert checksum(encoder) != before[0]
    assert checksum(transformer) == before[1]


def test_linear_and_convolution_layers_draw_as_peft_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",), "block_out_channels": (32,), "layers_per_block": 1,
        "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 8,
    }  # fmt: skip
    unet = UNet2DConditionModel(**shape).eval()
    pristine = {k: v.clone() for k, v in unet.state_dict().items()}
    unet.add_adapter(
        LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules=["to_k", "conv1", "proj_in"])
    )
    x, words = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16)
    with torch.no_grad():
        expected = unet(x, 10, words).sample
    state = {k: v for k, v in unet.state_dict().items() if "lora_" in k}
    file = tmp_path / "peft.safetensors"
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 6})}
    save_file({f"unet.{k}": v.contiguous() for k, v in state.items()}, file, metadata)
    plain = UNet2DConditionModel(**shape).eval()
    plain.load_state_dict(pristine)
    read = parse_lora(file, "0" * 64, "it", "pocket-sdxl")
    (receipt,) = Blender(weights_of({"unet": plain})).apply([part(read, 1.0)])
    assert receipt.applied == len(state) // 2 > 4
    with torch.no_grad():
        assert torch.allclose(plain(x, 10, words).sample, expected, atol=1e-5)
