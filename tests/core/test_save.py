"""A blend saved as one LoRA: the same sum here and in diffusers, its error as told, and what no such file can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.base_models import BASE_MODELS
from core.errors import Cancelled, LoraDoesNotFit, LoraRefused, ModelUnavailable
from core.loading import load_pipeline
from core.lora.blend import Blender, Ingredient
from core.lora.changes import Change, LowRank, Whole
from core.lora.parse import ParsedLora
from core.lora.save import OneLora, one_lora
from core.lora.stores import weights_of
from tests.core.changes import FORMS, dora, low_rank, some, whole
from tests.core.conftest import parsed

OUT = "transformer.proj_out"  # 64 × 192 in Pocket SD3
CONV = "transformer.pos_embed.proj"  # 192 × 16 × 2 × 2
Q = "transformer.transformer_blocks.0.attn.to_q"  # 192 × 192
WORDS = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"  # 128 × 128
WORDS_2 = WORDS.replace("text_encoder", "text_encoder_2")  # 192 × 192
XL_K = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
XL_CONV = "unet.down_blocks.0.resnets.0.conv1"

Form = Callable[[int, int, int], Change]


def part(
    weight: float, text_encoder: float = 1.0, more: Mapping[str, Change] = MappingProxyType({}), **layers: Change
) -> Ingredient:
    names = {"out": OUT, "conv": CONV, "q": Q, "words": WORDS}
    named = {names[name]: change for name, change in layers.items()}
    return Ingredient(ParsedLora(str(weight), {**named, **more}), "the LoRA", weight, text_encoder)


def saved(*blend: Ingredient, rank: int | None = None, dtype: torch.dtype = torch.float32) -> OneLora:
    return one_lora(blend, "pocket-sd3", lambda layer: None, rank, dtype)


def matrix_of(lora: OneLora, layer: str) -> torch.Tensor:
    down, up = (lora.tensors[f"{layer}.lora_{end}.weight"].double().flatten(1) for end in "AB")
    return up @ down


def sum_of(layer: str, *blend: Ingredient, weight: torch.Tensor | None = None) -> torch.Tensor:
    base = torch.empty(0) if weight is None else weight
    return sum(
        (one.weight_of(layer) * one.lora.layers[layer].delta(base).double().flatten(1) for one in blend),
        start=torch.zeros(()),
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(FORMS), min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 1000))
def test_an_exact_one_is_the_blends_sum(forms: list[Form], rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = some(64, 192)
    blend = [part((-1) ** at * 0.7, out=form(64, 192, rank)) for at, form in enumerate(forms)]
    one = one_lora(blend, "pocket-sd3", lambda layer: weight, None, torch.float32)
    exact = sum_of(OUT, *blend, weight=weight)
    assert torch.allclose(matrix_of(one, OUT), exact, atol=1e-5 * float(exact.abs().max()))
    assert one.error < 1e-6


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(FORMS), min_size=1, max_size=3), st.integers(1, 12),
    st.sampled_from([torch.float32, torch.float16]), st.integers(0, 1000),
)  # fmt: skip
def test_a_compressed_one_is_the_nearest_of_its_rank_and_tells_its_error(
    forms: list[Form], rank: int, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = some(64, 192)
    blend = [part(0.5 + at, out=form(64, 192, 5)) for at, form in enumerate(forms)]
    one = one_lora(blend, "pocket-sd3", lambda layer: weight, rank, dtype)
    exact = sum_of(OUT, *blend, weight=weight)
    left = torch.linalg.svdvals(exact)[rank:].square().sum().sqrt() / exact.norm()
    really = (matrix_of(one, OUT) - exact).norm() / exact.norm()
    assert one.error == pytest.approx(float(really), abs=1e-5)
    assert float(really) == pytest.approx(float(left), abs=1e-5 if dtype == torch.float32 else 1e-3)
    assert one.rank <= rank


def test_a_large_whole_layer_is_cut_nearly_as_well_as_can_be() -> None:
    torch.manual_seed(0)
    steep = Whole(some(192, 192) * 0.9 ** torch.arange(192))
    one = saved(part(1.0, q=steep), rank=8)
    left = torch.linalg.svdvals(steep.diff.double())[8:].square().sum().sqrt() / steep.diff.double().norm()
    assert float(left) <= one.error <= 1.001 * float(left)
    assert one.error == pytest.approx(float((matrix_of(one, Q) - steep.diff).norm() / steep.diff.double().norm()))


def test_the_error_is_told_of_all_layers_and_of_the_worst() -> None:
    blend = part(1.0, out=low_rank(64, 192, 2), q=low_rank(192, 192, 30))
    one = saved(blend, rank=2)
    errors = {layer: (matrix_of(one, layer) - sum_of(layer, blend)).norm() for layer in (OUT, Q)}
    assert one.worst[0] == Q
    assert one.worst[1] == pytest.approx(float(errors[Q] / sum_of(Q, blend).norm()))
    both = torch.cat([sum_of(layer, blend).flatten() for layer in (OUT, Q)]).norm()
    assert one.error == pytest.approx(math.hypot(*errors.values()) / float(both))


def test_ranks_add_up_and_all_layers_of_a_part_have_the_same() -> None:
    one = saved(part(1.0, out=low_rank(64, 192, 3), q=low_rank(192, 192, 2)), part(-2.0, out=low_rank(64, 192, 4)))
    assert one.rank == 7
    assert {tuple(tensor.shape) for tensor in one.tensors.values()} == {(7, 192), (64, 7), (192, 7)}
    assert one.applied == (2, 1)


def test_words_take_their_own_weight() -> None:
    blend = part(0.0, 0.5, words=low_rank(128, 128, 2), q=low_rank(192, 192, 2))
    one = saved(blend)
    assert set(one.tensors) == {f"{WORDS}.lora_A.weight", f"{WORDS}.lora_B.weight"}
    assert torch.allclose(matrix_of(one, WORDS), sum_of(WORDS, blend), atol=1e-6)


@pytest.mark.parametrize("rank", [None, 8])
def test_what_was_saved_is_read_here_as_the_same_changes(tmp_path: Path, rank: int | None) -> None:
    kernel = LowRank(some(192, 4), some(4, 16, 2, 2), 0.5)
    blend = [part(0.7, 0.3, out=low_rank(64, 192, 4), conv=kernel, words=low_rank(128, 128, 4)),
             part(-1.2, out=low_rank(64, 192, 3), conv=tucker_kernel())]  # fmt: skip
    read = parsed(tmp_path, saved(*blend, rank=rank).tensors, "pocket-sd3")
    assert read.skipped == ()
    for layer in (OUT, CONV, WORDS):
        have = [one for one in blend if layer in one.lora.layers]
        assert torch.allclose(
            read.layers[layer].delta(torch.empty(0)).flatten(1).double(), sum_of(layer, *have), atol=1e-4
        )


def tucker_kernel() -> LowRank:
    return LowRank(some(192, 2), some(3, 16), 1.0, some(2, 3, 2, 2))


def test_a_dora_is_saved_by_the_models_weights_or_not_at_all() -> None:
    blend, weight = part(0.8, out=dora(64, 192, 2)), some(64, 192)
    one = one_lora([blend], "pocket-sd3", lambda layer: weight, None, torch.float32)
    assert torch.allclose(matrix_of(one, OUT), sum_of(OUT, blend, weight=weight), atol=1e-5)
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        saved(blend)


@pytest.mark.parametrize("layer", ["transformer.proj_out.bias", "transformer.transformer_blocks.0.attn.norm_q"])
def test_biases_and_norms_are_refused_rather_than_dropped(layer: str) -> None:
    with pytest.raises(LoraRefused, match="the LoRA changes normalisations or biases"):
        saved(part(1.0, out=low_rank(64, 192, 2), more={layer: Whole(some(64))}))


def test_an_exact_rank_beyond_what_a_lora_has_is_refused_with_a_way_out() -> None:
    blend = Ingredient(
        ParsedLora("x", {"unet.mid_block.attentions.0.proj_in": whole(1280, 1280, 0)}), "the LoRA", 1.0, 1.0
    )
    with pytest.raises(LoraRefused, match=r"rank 1280.*choose a rank"):
        one_lora([blend], "sdxl", lambda layer: None, None, torch.float16)


def test_nothing_is_saved_of_a_muted_blend_or_of_one_that_does_not_fit() -> None:
    with pytest.raises(LoraRefused, match="nothing to save"):
        saved(part(0.0, out=low_rank(64, 192, 2)))
    with pytest.raises(LoraDoesNotFit, match="none of its layers"):
        saved(part(1.0, out=low_rank(64, 64, 2)))


def test_what_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(LoraRefused, match="float32"):
        saved(part(1.0, out=Whole(some(64, 192) * 1e6)), dtype=torch.float16)


def test_half_precision_holds_factors_of_unlike_sizes() -> None:
    blend = part(1.0, out=LowRank(some(64, 2) * 1e-25, some(2, 192) * 1e25))
    one, exact = saved(blend, dtype=torch.float16), sum_of(OUT, blend)
    assert torch.allclose(matrix_of(one, OUT), exact, atol=2e-3 * float(exact.abs().max()))


def test_only_what_had_more_rank_than_asked_for_is_cut() -> None:
    blend = part(1.0, out=low_rank(64, 192, 4), conv=whole(192, 64, 0))
    assert [saved(blend, rank=rank).cut for rank in (None, 64, 63, 3)] == [False, False, True, True]
    assert saved(blend, rank=64).error < 1e-6


def test_saving_can_be_stopped_between_layers() -> None:
    asked: list[int] = []

    def go_on() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise Cancelled("Cancelled.")

    blend = part(1.0, out=low_rank(64, 192, 2), q=low_rank(192, 192, 2), words=low_rank(128, 128, 2))
    with pytest.raises(Cancelled):
        one_lora([blend], "pocket-sd3", lambda layer: None, None, torch.float32, go_on)
    assert len(asked) == 2


SD3 = {Q: (192, 192), CONV: (192, 16, 2, 2), WORDS: (128, 128), WORDS_2: (192, 192)}
SDXL = {XL_K: (64, 320), XL_CONV: (64, 64, 3, 3), WORDS: (128, 128), WORDS_2: (192, 192)}


@pytest.mark.usefixtures("random_pocket")
@pytest.mark.parametrize(("key", "shapes"), [("pocket-sd3", SD3), ("pocket-sdxl", SDXL)])
def test_diffusers_draws_the_same_picture_with_it(key: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    torch.manual_seed(3)
    blend = [lora_for(shapes, 4, 0.6, 0.3), lora_for(dict(list(shapes.items())[1:]), 2, -0.4, 0.8)]
    pipeline = load_pipeline(BASE_MODELS[key])
    plain = drawn(pipeline)
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    blender = Blender(weights_of(modules))
    blender.apply(blend)
    blended = drawn(pipeline)
    blender.apply([])
    file = tmp_path / "blend.safetensors"
    save_file(one_lora(blend, BASE_MODELS[key].family, lambda layer: None, None, torch.float32).tensors, file)
    pipeline.load_lora_weights(str(file))
    loaded = drawn(pipeline)
    difference = float((blended - plain).abs().max())
    assert difference > 0.01
    assert torch.allclose(loaded, blended, atol=2e-3 * difference)


def lora_for(shapes: dict[str, tuple[int, ...]], rank: int, weight: float, text_encoder: float) -> Ingredient:
    layers = {layer: LowRank(some(shape[0], rank), some(rank, *shape[1:]), 0.5) for layer, shape in shapes.items()}
    return Ingredient(
        ParsedLora(str(rank), layers, origins={layer: layer for layer in layers}), "a LoRA", weight, text_encoder
    )


def drawn(pipeline: Any) -> torch.Tensor:
    tokens = {"max_sequence_length": 1} if "transformer" in pipeline.components else {}
    with torch.inference_mode():
        latents: torch.Tensor = pipeline(
            prompt="a red circle",
            num_inference_steps=2,
            width=64,
            height=64,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
            **tokens,
        ).images
    return latents
