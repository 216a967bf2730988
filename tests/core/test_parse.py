"""Reading a LoRA file: names, alphas and storage types understood, the rest said, and what is broken refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import LoraFileBroken
from core.lora import parse
from core.lora.parse import parse_lora
from lora_catalog.card import Family
from tests.core.conftest import parsed, write_lora

TO_Q = "transformer.transformer_blocks.0.attn.to_q"
KOHYA = "lora_unet_joint_blocks_0_x_block_attn_proj"
TO_OUT = "transformer.transformer_blocks.0.attn.to_out.0"
Tensors = dict[str, torch.Tensor]


def pair(layer: str, rank: int = 4, style: str = ".lora_A.weight .lora_B.weight") -> Tensors:
    """Ones: ΔW is the rank times the scale everywhere."""
    down, up = style.split()
    return {f"{layer}{down}": torch.ones(rank, 8), f"{layer}{up}": torch.ones(8, rank)}


KOHYA_STYLE = ".lora_down.weight .lora_up.weight"


def strength(folder: Path, layer: str, tensors: Tensors, metadata: dict[str, str] | None = None) -> float:
    """What ΔW of ones is, as a multiple of that at scale 1."""
    read = parsed(folder, tensors, "pocket-sd3", metadata)
    ranks = [len(tensor) for name, tensor in tensors.items() if name.endswith((".lora_A.weight", ".lora_down.weight"))]
    return float(read.layers[layer].delta(torch.zeros(8, 8))[0, 0]) / ranks[0]


@pytest.mark.parametrize(
    ("family", "layer", "style", "parameters"),
    [
        ("sd1", "unet.mid_block.attentions.0.proj_in", "peft", ["unet.mid_block.attentions.0.proj_in"]),
        ("sd1", "mid_block.attentions.0.proj_in", "diffusers", ["unet.mid_block.attentions.0.proj_in"]),
        (
            "sd1", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora", "old",
            ["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"],
        ),
        (
            "sd1", "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer", "old",
            ["text_encoder.text_model.encoder.layers.3.self_attn.q_proj"],
        ),
        ("sdxl", "base_model.model.mid_block.resnets.0.conv1", "diffusers", ["unet.mid_block.resnets.0.conv1"]),
        ("sd2", "lora_unet_mid_block_attentions_0_proj_in", "kohya", ["unet.mid_block.attentions.0.proj_in"]),
        (
            "sd2", "lora_te_text_model_encoder_layers_22_mlp_fc1", "kohya",
            ["text_encoder.text_model.encoder.layers.22.mlp.fc1"],
        ),
        ("sdxl", "lora_unet_input_blocks_4_1_proj_in", "kohya", ["unet.down_blocks.1.attentions.0.proj_in"]),
        ("ssd-1b", "lora_unet_output_blocks_2_1_proj_in", "kohya", ["unet.up_blocks.0.attentions.2.proj_in"]),
        ("sdxl", "lora_te2_text_projection", "kohya", ["text_encoder_2.text_projection"]),
        (
            "sd3.5-large", "lora_te3_encoder_block_0_layer_0_SelfAttention_k", "kohya",
            ["text_encoder_3.encoder.block.0.layer.0.SelfAttention.k"],
        ),
        (
            "sd3.5-medium", "lora_unet_joint_blocks_3_x_block_attn2_proj", "kohya",
            ["transformer.transformer_blocks.3.attn2.to_out.0"],
        ),
        (
            "pocket-sd3", "lycoris_transformer_blocks_5_ff_net_2", "kohya",
            ["transformer.transformer_blocks.5.ff.net.2"],
        ),
        ("pocket-sdxl", "lora_unet_up_blocks_1_upsamplers_0_conv", "kohya", []),
        ("pocket-sdxl", "lora_unet_up_blocks_0_upsamplers_0_conv", "kohya", ["unet.up_blocks.0.upsamplers.0.conv"]),
    ],
)  # fmt: skip
def test_every_way_of_writing_a_layers_name_is_known(
    tmp_path: Path, family: Family, layer: str, style: str, parameters: list[str]
) -> None:
    styles = {
        "diffusers": ".lora_A.weight .lora_B.weight",
        "peft": ".lora_A.default.weight .lora_B.default.weight",
        "old": ".down.weight .up.weight",
        "kohya": KOHYA_STYLE,
    }
    read = parsed(tmp_path, pair(layer, style=styles[style]), family)
    assert list(read.layers) == parameters
    assert len(read.skipped) == (not parameters)


@pytest.mark.parametrize(
    ("family", "layer", "parameter"),
    [
        ("sdxl", "lora_unet_input_blocks_1_0_in_layers_0", "unet.down_blocks.0.resnets.0.norm1"),
        ("sdxl", "lora_unet_mid_block_attentions_0_norm", "unet.mid_block.attentions.0.norm"),
        ("sd1", "lora_unet_conv_norm_out", "unet.conv_norm_out"),
        ("sd1", "diffusion_model.out.0", "unet.conv_norm_out"),
        (
            "sdxl", "lora_unet_mid_block_attentions_0_transformer_blocks_9_norm3",
            "unet.mid_block.attentions.0.transformer_blocks.9.norm3",
        ),
        (
            "sdxl", "lora_te2_text_model_encoder_layers_31_layer_norm2",
            "text_encoder_2.text_model.encoder.layers.31.layer_norm2",
        ),
        ("sd1", "lora_te_text_model_final_layer_norm", "text_encoder.text_model.final_layer_norm"),
        (
            "sd3.5-large", "lora_te3_encoder_block_23_layer_1_layer_norm",
            "text_encoder_3.encoder.block.23.layer.1.layer_norm",
        ),
        (
            "sd3.5-medium", "diffusion_model.joint_blocks.0.context_block.attn.ln_k",
            "transformer.transformer_blocks.0.attn.norm_added_k",
        ),
        (
            "sd3.5-medium", "diffusion_model.joint_blocks.0.x_block.attn2.ln_q",
            "transformer.transformer_blocks.0.attn2.norm_q",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", [".w_norm .b_norm", ".diff .diff_b"])
def test_normalisations_are_found_beside_the_layers_they_serve(
    tmp_path: Path, family: Family, layer: str, parameter: str, style: str
) -> None:
    weight, bias = style.split()
    read = parsed(tmp_path, {f"{layer}{weight}": torch.ones(8), f"{layer}{bias}": torch.zeros(8)}, family)
    assert list(read.layers) == [parameter, f"{parameter}.bias"]
    assert read.layers[parameter].delta(torch.zeros(8)).tolist() == [1.0] * 8


def test_the_model_decides_what_a_name_means(tmp_path: Path) -> None:
    block = pair("lora_unet_output_blocks_2_1_transformer_blocks_9_attn1_to_q", style=KOHYA_STYLE)
    assert list(parsed(tmp_path, block, "sdxl").layers) == list(parsed(tmp_path, block, "ssd-1b").layers)
    deep = pair("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q", style=KOHYA_STYLE)
    assert parsed(tmp_path, deep, "sdxl").skipped == ()
    assert [reason for _, reason in parsed(tmp_path, deep, "ssd-1b").skipped] == ["this model has no such layer"]


def test_what_is_not_understood_is_named_with_the_reason(tmp_path: Path) -> None:
    strange = {"bundle_emb.x.emb_params": torch.ones(4), f"{TO_Q}.lora_embedding_A": torch.ones(4)}
    foreign = pair("lora_unet_double_blocks_0_img_attn_qkv", style=KOHYA_STYLE)
    thin = {"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": torch.ones(4, 192),
            "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight": torch.ones(192, 4)}  # fmt: skip
    read = parsed(tmp_path, pair(TO_Q) | strange | foreign | thin, "pocket-sd3")
    assert list(read.layers) == [TO_Q]
    assert dict(read.skipped) == {
        "bundle_emb.x.emb_params": "not a name that this version reads",
        f"{TO_Q}.lora_embedding_A": "not a name that this version reads",
        "lora_unet_double_blocks_0_img_attn_qkv": "this model has no such layer",
        "lora_unet_joint_blocks_0_x_block_attn_qkv": (
            "it has 192 rows, the model's layers that it stands for have 576"
        ),
    }


def adapters(**config: object) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in config.items()})}


@pytest.mark.parametrize(
    ("extra", "metadata", "scale"),
    [
        ({}, {}, 1.0),
        ({".alpha": torch.tensor(2.0)}, {}, 0.5),
        ({".alpha": torch.tensor(2)}, {}, 0.5),
        ({".alpha": torch.tensor([2.0]).half()}, {}, 0.5),
        ({".alpha": torch.tensor(0.0)}, {}, 0.0),
        ({".alpha": torch.tensor(-4.0)}, {}, -1.0),
        ({".scalar": torch.tensor(3.0)}, {}, 3.0),
        ({".alpha": torch.tensor(2.0), ".scalar": torch.tensor(3.0)}, {}, 1.5),
        ({}, adapters(lora_alpha=8), 2.0),
        ({}, adapters(lora_alpha=8, use_rslora=True), 4.0),
        ({".alpha": torch.tensor(2.0)}, adapters(lora_alpha=8, use_rslora=True), 0.5),
        ({}, adapters(lora_alpha=8, alpha_pattern={"attn.to_out": 1}), 2.0),
        ({}, adapters(lora_alpha=8, alpha_pattern={r"attn\.to_out\.0": 16}), 4.0),
        ({}, adapters(lora_alpha=8, alpha_pattern={"^to_out.0": 16}), 2.0),
        ({}, adapters(lora_alpha=8, alpha_pattern={"^transformer_blocks.0.attn.to_out.0": 16}), 4.0),
        ({}, adapters(lora_alpha=8, alpha_pattern={"to_out.0": 16, "attn.to_out.0": 4}), 4.0),
        ({}, {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 8})}, 1.0),
        ({}, {"lora_adapter_metadata": json.dumps({"lora_alpha": 8})}, 2.0),
        ({}, {"ss_network_alpha": "2"}, 0.5),
        ({}, {"ss_network_alpha": "None"}, 1.0),
        ({}, {"ss_network_alpha": "nan"}, 1.0),
    ],
)
def test_the_scale_is_alpha_over_rank_wherever_alpha_stands(
    tmp_path: Path, extra: Tensors, metadata: dict[str, str], scale: float
) -> None:
    tensors = pair(KOHYA, style=KOHYA_STYLE) | {f"{KOHYA}{end}": value for end, value in extra.items()}
    assert strength(tmp_path, TO_OUT, tensors, metadata) == scale


def test_kohyas_common_alpha_counts_neither_beside_alpha_tensors_nor_for_a_converted_file(tmp_path: Path) -> None:
    other = {"lora_unet_joint_blocks_1_x_block_attn_proj.alpha": torch.tensor(1.0)}
    common = {"ss_network_alpha": "2"}
    assert strength(tmp_path, TO_OUT, pair(KOHYA, style=KOHYA_STYLE) | other, common) == 1.0
    assert strength(tmp_path, TO_Q, pair(TO_Q), common) == 1.0


def test_each_layer_has_its_own_rank(tmp_path: Path) -> None:
    both = pair(TO_Q, rank=4) | pair(TO_OUT, rank=2) | {f"{name}.alpha": torch.tensor(4.0) for name in (TO_Q, TO_OUT)}
    read = parsed(tmp_path, both, "pocket-sd3")
    assert [float(read.layers[name].delta(torch.zeros(8, 8))[0, 0]) for name in (TO_Q, TO_OUT)] == [4.0, 4.0]


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_every_storage_type_is_read_as_what_it_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    down, up = torch.randn(4, 8).to(dtype), torch.randn(8, 4).to(dtype)
    stored = {f"{TO_Q}.lora_A.weight": down, f"{TO_Q}.lora_B.weight": up}
    delta = parsed(tmp_path, stored, "pocket-sd3").layers[TO_Q].delta(torch.zeros(8, 8, dtype=torch.float16))
    assert delta.dtype == torch.float32
    assert torch.allclose(delta, up.float() @ down.float(), rtol=1e-6)


def test_a_parsed_lora_outlives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "it.safetensors"
    write_lora(file, {TO_Q: (8, 8)})
    read = parse_lora(file, "0" * 64, "it", "pocket-sd3")
    before = read.layers[TO_Q].delta(torch.zeros(8, 8))
    content = file.read_bytes()
    with file.open("r+b") as same:  # in place: a mapped file would show it
        same.write(b"\0" * len(content))
    assert torch.equal(read.layers[TO_Q].delta(torch.zeros(8, 8)), before)
    assert read.bytes == 4 * (4 * 8 + 8 * 4)


def without(end: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[TO_Q + end]

    return change


def having(**changed: torch.Tensor) -> Callable[[Tensors], None]:
    """Names as they stand behind the layer's, with `__` for dots within."""
    return lambda tensors: tensors.update(
        {f"{TO_Q}.{name.replace('__', '.')}": value for name, value in changed.items()}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(".lora_B.weight"), "lacks its up part"),
        (without(".lora_A.weight"), "lacks its down part"),
        (having(lora_B__weight=torch.zeros(8, 5)), "do not fit each other"),
        (having(lora_B__weight=torch.zeros(8)), "do not fit each other"),
        (having(lora_A__weight=torch.full((4, 8), float("nan"))), "not finite"),
        (having(lora_B__weight=torch.full((8, 4), float("-inf"))), "not finite"),
        (having(lora_A__weight=torch.full((4, 8), 1e300, dtype=torch.float64)), "not finite"),
        (having(lora_A__weight=torch.zeros(0, 8), lora_B__weight=torch.zeros(8, 0)), "is empty"),
        (having(lora_A__weight=torch.zeros(1025, 8), lora_B__weight=torch.zeros(8, 1025)), "has rank 1025"),
        (having(lora_A__weight=torch.ones(4, 8, dtype=torch.int32)), "is stored as I32"),
        (having(alpha=torch.tensor(float("inf"))), "alpha .* is not finite"),
        (having(alpha=torch.ones(2)), "alpha .* is not one number"),
        (having(alpha=torch.tensor(1e30)), "too large to compute with"),
        (having(lora_A__weight=torch.full((4, 8), 1e30)), "too large to compute with"),
        (having(dora_scale=torch.full((8, 1), 1e30)), "too large to compute with"),
        (having(dora_scale=torch.ones(7, 1)), "magnitudes .* are not of its shape"),
        (having(dora_scale=torch.ones(4, 2)), "magnitudes .* are not of its shape"),
        (having(dora_scale=torch.ones(())), "magnitudes .* are not of its shape"),
        (having(diff_b=torch.ones(7)), "bias .* is not of its shape"),
        (having(lora_B__bias=torch.ones(8, 1)), "bias .* is not of its shape"),
        (having(diff=torch.ones(8, 8)), "is there twice, written in two ways"),
        (having(hada_w1_a=torch.ones(8, 8)), "lacks its|is there twice"),
        (lambda tensors: tensors.update(pair("lora_unet_transformer_blocks_0_attn_to_q", style=KOHYA_STYLE)),
         "change the same layer"),
        (lambda tensors: tensors.update({"lora_unet_joint_blocks_0_x_block_attn_qkv.diff": torch.ones(576, 8)}),
         "change the same layer"),
        (lambda tensors: tensors.update({f"{TO_OUT}.dora_scale": torch.ones(8)}), "magnitude and nothing else"),
        (lambda tensors: tensors.update({f"{TO_OUT}.dora_scale": torch.ones(8), f"{TO_OUT}.diff_b": torch.ones(8)}),
         "magnitude and nothing else"),
        (lambda tensors: tensors.update({f"{TO_OUT}.oft_blocks": torch.ones(8)}), "OFT, a form that is not read"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_the_reason(
    tmp_path: Path, change: Callable[[Tensors], None], words: str
) -> None:
    tensors = pair(TO_Q)
    change(tensors)
    with pytest.raises(LoraFileBroken, match=rf"^the LoRA cannot be used: .*{words}.*\.$"):
        parsed(tmp_path, tensors, "pocket-sd3")


LOHA = {f"hada_w{n}_a": torch.ones(8, 2) for n in (1, 2)} | {f"hada_w{n}_b": torch.ones(2, 8) for n in (1, 2)}
LOKR = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(4, 4)}
CORE = torch.ones(2, 2, 3, 3)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (LOHA | {"hada_w2_b": torch.ones(2, 7)}, "do not fit each other"),
        (LOHA | {"hada_w1_a": torch.ones(8, 1025), "hada_w1_b": torch.ones(1025, 8)}, "has rank 1025"),
        (LOHA | {"hada_w2_a": torch.ones(8, 1025), "hada_w2_b": torch.ones(1025, 8)}, "has rank 1025"),
        (LOHA | {"hada_t1": CORE, "hada_w1_a": torch.ones(2, 8, 1), "hada_w2_b": torch.ones(2, 72)}, "is not a matrix"),
        (LOKR | {"lokr_w1": torch.ones(2, 2, 1, 1)}, "is not a matrix"),
        ({"lora_down.weight": torch.ones(2, 8, 3, 3), "lora_up.weight": torch.ones(8, 2), "lora_mid.weight": CORE},
         "have two kernels"),
        ({"diff": torch.ones(8), "dora_scale": torch.ones(8)}, "magnitudes .* are not of its shape"),
    ],
)  # fmt: skip
def test_a_broken_layer_of_another_form_is_refused_with_the_reason(
    tmp_path: Path, tensors: Tensors, words: str
) -> None:
    with pytest.raises(LoraFileBroken, match=words):
        parsed(tmp_path, {f"{TO_Q}.{name}": value for name, value in tensors.items()}, "pocket-sd3")


@pytest.mark.parametrize(
    "told",
    [
        "{", "[]", "[" * 100_000, '{"transformer.lora_alpha": "x"}', '{"transformer.lora_alpha": Infinity}',
        '{"transformer.alpha_pattern": []}', '{"transformer.alpha_pattern": {"a": "x"}}',
        '{"transformer.alpha_pattern": {"(a+)+": 1}}', '{"transformer.alpha_pattern": {"to_q": NaN}}',
    ],
)  # fmt: skip
def test_alphas_that_cannot_be_understood_are_not_guessed(tmp_path: Path, told: str) -> None:
    with pytest.raises(LoraFileBroken, match="its adapter metadata"):
        parsed(tmp_path, pair(TO_Q), "pocket-sd3", {"lora_adapter_metadata": told})


def test_a_torn_or_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    file = tmp_path / "torn.safetensors"
    write_lora(file, {TO_Q: (8, 8)})
    for content in (file.read_bytes()[:-10], b"", b"not a safetensors file", None):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(LoraFileBroken, match=r"^bundled:torn cannot be read: .*\. Fetch it again\.$") as caught:
            parse_lora(file, "0" * 64, "bundled:torn", "pocket-sd3")
        assert str(tmp_path) not in str(caught.value)


def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "it.safetensors"
    write_lora(file, {TO_Q: (8, 8)})
    save_file(load_file(file) | {f"{TO_OUT}.diff": torch.ones(100)}, file)
    monkeypatch.setattr(parse, "LARGEST_FILE", file.stat().st_size)
    parse_lora(file, "0" * 64, "it", "pocket-sd3")
    monkeypatch.setattr(parse, "LARGEST_FILE", file.stat().st_size - 1)
    with pytest.raises(LoraFileBroken, match="it is larger than"):
        parse_lora(file, "0" * 64, "it", "pocket-sd3")
