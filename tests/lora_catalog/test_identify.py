"""Identification: names and shapes tell a LoRA's family and format; what fits none, or several alike, is unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lora_catalog.card import Family
from lora_catalog.errors import BadHeader
from lora_catalog.families.table import MODEL_OF, MODELS, Model
from lora_catalog.families.weights import Shape
from lora_catalog.header import MoreNeeded, header_from, read_header
from lora_catalog.identify import fits, identify
from tests.lora_catalog import lora_headers as write
from tests.lora_catalog.lora_headers import header, identified

POCKETS = Path(__file__).parents[2] / "models" / "pocket" / "loras"
FAMILIES = tuple(MODEL_OF)
SD3_QUERY = "transformer.transformer_blocks.5.attn.to_q"
SDXL_KEY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def dotted(family: Family, *components: str, containing: str = "") -> dict[str, Shape]:
    return write.dotted(MODEL_OF[family], *components, containing=containing)


def replaced(prefix: str, layers: dict[str, Shape]) -> dict[str, Shape]:
    return {name.replace("lora_unet_", prefix, 1): shape for name, shape in layers.items()}


# How trainers write a whole LoRA, and the format it is told as. Layers that diffusers splits are fused in originals.
WRITTEN: dict[str, tuple[str, Callable[[Model], dict[str, Shape]]]] = {
    "diffusers": ("diffusers", lambda m: write.lora(write.dotted(m))),
    "diffusers before PEFT": ("diffusers", lambda m: write.lora(write.dotted(m), write.lora_old)),
    "PEFT": ("peft", lambda m: write.lora(write.bare(m, "base_model.model."))),
    "no prefix": ("diffusers", lambda m: write.lora(write.bare(m, ""))),
    "ComfyUI": ("diffusers", lambda m: write.lora(write.original(m, "diffusion_model.", "."))),
    "kohya": ("kohya", lambda m: write.lora(write.original(m, "lora_unet_", "_"), write.lora_kohya)),
    "kohya, diffusers' names": ("kohya", lambda m: write.lora(write.flat(m), write.lora_kohya)),
    "OneTrainer": (
        "kohya",
        lambda m: write.lora(replaced("lora_transformer_", write.flat(m, m.backbone)), write.lora_kohya),
    ),
    "LoCon": ("kohya", lambda m: write.lora(write.original(m, "lora_unet_", "_"), write.locon_tucker)),
    "LoHa": ("loha", lambda m: write.lora(write.original(m, "lora_unet_", "_"), write.loha)),
    "LoHa, Tucker": ("loha", lambda m: write.lora(write.flat(m), write.loha_tucker)),
    "LoKr": ("lokr", lambda m: write.lora(replaced("lycoris_", write.flat(m, m.backbone)), write.lokr)),
    "LoKr, Tucker": ("lokr", lambda m: write.lora(write.original(m, "lora_unet_", "_"), write.lokr_tucker)),
    "DoRA, kohya": ("dora", lambda m: write.lora(write.flat(m), write.dora)),
    "DoRA, PEFT": ("dora", lambda m: write.lora(write.bare(m, "base_model.model."), write.dora_peft)),
    "full": ("full", lambda m: write.lora(write.original(m, "lora_unet_", "_"), write.full)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("written", WRITTEN)
def test_a_lora_of_each_family_is_known_however_it_is_written(tmp_path: Path, family: Family, written: str) -> None:
    form, shapes = WRITTEN[written]
    found = identify(read_header(write.write_file(tmp_path / "x.safetensors", shapes(MODEL_OF[family]))))
    assert (found.family, found.format, found.outside, found.reason) == (family, form, 0, "")
    assert found.layers == sum(found.parts.values()) > 0
    assert fits(found, family) == ("yes", None)
    for other in set(FAMILIES) - {family}:
        verdict, why = fits(found, other)
        assert verdict == "no", other
        assert why == f"This LoRA was made for {family}, and the model is {other}."


def test_what_safetensors_itself_writes_is_known(tmp_path: Path) -> None:
    layer = "lora_unet_output_blocks_0_1_transformer_blocks_9_attn2_to_k"
    tensors = {
        f"{layer}.lora_down.weight": np.zeros((16, 2048), np.float16),
        f"{layer}.lora_up.weight": np.zeros((1280, 16), np.float16),
        f"{layer}.alpha": np.array(8, np.float16),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"ss_output_name": "dog"})
    found = identify(read_header(tmp_path / "x.safetensors"))
    assert (found.family, found.format, found.ranks, found.alphas) == ("sdxl", "kohya", (16,), "tensors")
    assert (found.title, found.parts) == ("dog", {"unet": 1})


@pytest.mark.parametrize("file", sorted(POCKETS.glob("*/*.safetensors")), ids=lambda file: file.stem)
def test_the_loras_that_come_with_the_project_are_of_their_family(file: Path) -> None:
    assert file.stem.startswith(identify(read_header(file)).family)


def test_ranks_and_parts_are_told() -> None:
    layers = dotted("sdxl", "unet", containing="attn2.to_k")
    shapes = write.lora(layers) | {
        "text_encoder_2.text_projection.lora_A.weight": (32, 1280),
        "text_encoder_2.text_projection.lora_B.weight": (1280, 32),
    }
    found = identify(header(shapes))
    assert (found.rank, found.ranks, found.layers) == (32, (4, 32), 71)
    assert found.parts == {"unet": 70, "text_encoder_2": 1}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (SD3_QUERY, (192, 1536)),
        (SD3_QUERY, (1536, 192)),
        (SD3_QUERY.replace("5", "6"), (192, 192)),  # a seventh block
        (SDXL_KEY, (320, 2048)),  # SDXL's first level has no attention
        (SDXL_KEY, (640, 768)),
        ("transformer.single_transformer_blocks.0.attn.to_q", (192, 192)),
        ("lora_unet_double_blocks_0_img_attn_qkv", (3072, 3072)),
    ],
)
def test_right_names_with_other_widths_and_other_names_are_unknown(name: str, shape: Shape) -> None:
    found = identified({name: shape})
    assert (found.family, found.candidates, found.layers, found.format) == ("unknown", (), 1, "diffusers")
    assert f"the first is “{name}”, {shape[1]} to {shape[0]} wide" in found.reason
    assert fits(found, "pocket-sd3") == ("unknown", f"What this LoRA was made for cannot be told: {found.reason}.")


def test_layers_of_two_models_at_once_are_unknown() -> None:
    assert identified({SD3_QUERY: (192, 192), SDXL_KEY: (64, 320)}).family == "unknown"


# Stable Diffusion 3: both mediums are 24 blocks of 1536; SD3.5's has a second attention in 13 of them.
ATTENTION = dotted("sd3-medium", "transformer", containing=".attn.")
SECOND = dotted("sd3.5-medium", "transformer", containing=".attn2.")
ALIKE = "its layers fit sd3-medium and sd3.5-medium alike"


def test_attention_alone_does_not_tell_the_two_mediums_apart() -> None:
    found = identified(ATTENTION)
    assert (found.family, found.candidates, found.reason) == ("unknown", ("sd3-medium", "sd3.5-medium"), ALIKE)
    for family in ("sd3-medium", "sd3.5-medium"):
        assert fits(found, family) == ("unknown", f"Whether this LoRA was made for {family} cannot be told: {ALIKE}.")
    why = "This LoRA was made for sd3-medium or sd3.5-medium, and the model is sd3.5-large."
    assert fits(found, "sd3.5-large") == ("no", why)


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "sd3-medium"),
        ({"modelspec.architecture": "stable-diffusion-3-5-medium/lora"}, "sd3.5-medium"),
        ({"ss_base_model_version": "5-medium"}, "sd3.5-medium"),
        ({"ss_base_model_version": "medium"}, "sd3-medium"),
        ({"ss_sd_model_name": "sd3.5_medium.safetensors"}, "sd3.5-medium"),
        ({"ss_sd_model_name": "sd3_medium.safetensors"}, "sd3-medium"),
        ({"ss_base_model_version": "5-medium", "ss_sd_model_name": "sd3_medium.safetensors"}, "sd3.5-medium"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "unknown"),
    ],
)
def test_metadata_decide_between_families_that_fit(metadata: dict[str, str], family: str) -> None:
    assert identified(ATTENTION, metadata).family == family


def test_metadata_never_outdo_shapes() -> None:
    assert (
        identified(ATTENTION | SECOND, {"modelspec.architecture": "stable-diffusion-3-medium"}).family == "sd3.5-medium"
    )
    assert identified({SD3_QUERY: (192, 192)}, {"ss_base_model_version": "sdxl_base_v1-0"}).family == "pocket-sd3"


def test_a_second_attention_or_the_width_of_a_norm_tells_the_mediums_apart() -> None:
    assert identified(ATTENTION | SECOND).family == "sd3.5-medium"
    norm = "transformer.transformer_blocks.0.norm1.linear"
    assert identified(ATTENTION | {norm: (9 * 1536, 1536)}).family == "sd3.5-medium"
    assert identified(ATTENTION | {norm: (6 * 1536, 1536)}).family == "sd3-medium"


# SSD-1B has some of SDXL's layers and no others.
@pytest.mark.parametrize("containing", ["", "to_", "attn2.to_v", "ff.net", "resnets"])
def test_all_of_ssd_1bs_layers_of_a_kind_and_none_beyond_mean_ssd_1b(containing: str) -> None:
    found = identified(dotted("ssd-1b", "unet", containing=containing))
    assert (found.family, found.candidates) == ("ssd-1b", ("ssd-1b",))
    assert fits(found, "sdxl")[0] == "no"


def test_one_layer_beyond_ssd_1bs_means_sdxl() -> None:
    beyond = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert identified(dotted("ssd-1b", "unet", containing="to_q") | {beyond: (1280, 1280)}).family == "sdxl"


def test_some_of_the_layers_of_both_mean_sdxl_rather_than_ssd_1b_unless_the_metadata_say_so() -> None:
    some = dotted("ssd-1b", "unet", containing="down_blocks.1")
    found = identified(some)
    assert (found.family, found.candidates) == ("sdxl", ("sdxl", "ssd-1b"))
    assert fits(found, "sdxl") == ("yes", None)
    assert fits(found, "ssd-1b") == ("unknown", "This LoRA was made for sdxl more likely than for ssd-1b.")
    assert identified(some, {"ss_sd_model_name": "SSD-1B.safetensors"}).family == "ssd-1b"


def test_segmind_vega_and_the_refiner_are_not_taken_for_sdxl() -> None:
    for title in ("Segmind Vega", "the SDXL refiner"):
        model = next(model for model in MODELS if model.title == title)
        found = identified(write.dotted(model))
        assert (found.family, found.reason) == ("other", f"it was made for {title}")


def test_stable_diffusion_1_and_2_differ_by_what_the_text_is_wide() -> None:
    own = dotted("sd1", "unet", containing="attn1.to_q")
    assert identified(own).candidates == ("sd1", "sd2")
    assert identified(own, {"ss_v2": "True"}).family == "sd2"
    assert identified(own, {"ss_base_model_version": "sd_v1"}).family == "sd1"
    assert identified(own | dotted("sd1", "unet", containing="attn2.to_k")).family == "sd1"
    assert identified(own | dotted("sd2", "unet", containing="attn2.to_k")).family == "sd2"


def test_text_encoders_alone_leave_the_families_that_share_them() -> None:
    found = identified(dotted("sd1", "text_encoder"))
    assert found.family == "unknown"
    assert {"sd1", "sdxl", "flux"} < set(found.candidates)
    assert found.reason.startswith("its layers fit sd3-medium, ")
    assert found.reason.endswith(" and Segmind Vega alike")
    assert identified(dotted("sd2", "text_encoder")).family == "sd2"
    assert identified(dotted("flux", "text_encoder", "text_encoder_2")).family == "flux"


def test_a_few_layers_that_a_model_lacks_are_left_out_and_many_are_too_many() -> None:
    layers = dotted("sdxl", "unet", containing="to_q")
    assert len(layers) == 140
    strange: dict[str, Shape] = {f"unet.strange.{n}": (8, 8) for n in range(15)}
    found = identified(layers | strange)
    assert (found.family, found.layers, found.outside) == ("sdxl", 155, 15)
    left_out = "15 of this LoRA's 155 layers are not in the model and are left out."
    assert fits(found, "sdxl") == ("yes", left_out)
    assert identified(layers | strange | {"unet.strange.15": (8, 8)}).family == "unknown"


def test_the_format_is_that_of_most_layers_and_dora_where_any_is() -> None:
    names = list(write.flat(MODEL_OF["sd1"], "unet").items())
    loha = write.lora(dict(names[:20]), write.loha)
    lokr = write.lora(dict(names[20:30]), write.lokr)
    assert identify(header(loha | lokr)).format == "loha"
    assert identify(header(loha | lokr | write.dora(*names[30]))).format == "dora"


def test_changes_of_normalisations_and_biases_are_not_judged() -> None:
    layers = write.lora(write.flat(MODEL_OF["sd1"], "unet"), write.lora_kohya)
    extra: dict[str, Shape] = {
        "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": (320,),
        "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": (320,),
        "lora_unet_conv_in.diff_b": (320,),
        "lora_unet_strange.alpha": (),
    }
    found = identify(header(layers | extra))
    assert (found.family, found.layers, found.outside) == ("sd1", 282, 0)


def test_a_biases_change_beside_a_lora_does_not_hide_the_lora() -> None:
    shapes = write.lora_kohya("lora_unet_conv_in", (320, 4, 3, 3)) | {"lora_unet_conv_in.diff_b": (320,)}
    found = identify(header(shapes))
    assert (found.format, found.ranks, found.layers) == ("kohya", (4,), 1)


Q = SD3_QUERY


@pytest.mark.parametrize(
    ("tensors", "because"),
    [
        ({}, "no tensors that are named as a LoRA's are"),
        ({"alpha": ()}, "no tensors that are named as a LoRA's are"),
        ({f"{Q}.lora_A.weight": (4, 192)}, "lacks its up part"),
        ({f"{Q}.lora_B.weight": (192, 4)}, "lacks its down part"),
        ({f"{Q}.lora_A.weight": (4, 192), f"{Q}.lora_B.weight": (192, 8)}, "do not fit each other"),
        ({f"{Q}.lora_A.weight": (4,), f"{Q}.lora_B.weight": (4,)}, "do not fit each other"),
        ({f"{Q}.lora_A.weight": (), f"{Q}.lora_B.weight": ()}, "do not fit each other"),
        ({f"{Q}.lora_A.weight": (0, 192), f"{Q}.lora_B.weight": (192, 0)}, "is empty"),
        ({f"{Q}.lora_A.weight": (4, 192), f"{Q}.lora_B.weight": (192, 4, 3, 3)}, "do not fit each other"),
        ({f"{Q}.lora_A.weight": (4, 192), f"{Q}.lora_down.weight": (4, 192)}, "is there twice"),
        ({f"{Q}.hada_w1_a": (192, 4), f"{Q}.hada_w1_b": (4, 192)}, "lacks its w2_a part"),
        (write.loha(Q, (192, 192)) | {f"{Q}.hada_w2_b": (4, 64)}, "do not fit each other"),
        ({f"{Q}.lokr_w1": (4, 4)}, "lacks its w2_a part"),
        ({f"{Q}.lokr_w1": (4,), f"{Q}.lokr_w2": (48, 48)}, "do not fit each other"),
        ({f"{Q}.dora_scale": (192,)}, "a DoRA magnitude and nothing else"),
        ({f"{Q}.oft_blocks": (4, 4, 4)}, "written as OFT"),
        ({f"{Q}.a1.weight": (4, 4)}, "written as GLoRA"),
        ({f"{Q}.w_norm": (192,)}, "nothing but normalisations"),
        ({f"{Q}.diff": (192,)}, "nothing but normalisations"),
    ],
)
def test_what_is_torn_or_no_lora_is_unknown_and_fits_nothing(tensors: dict[str, Shape], because: str) -> None:
    found = identify(header(tensors))
    assert (found.family, found.rank, found.layers) == ("unknown", None, 0)
    assert because in found.reason
    assert fits(found, "pocket-sd3") == ("no", f"This file cannot be used as a LoRA: {found.reason}.")


@pytest.mark.parametrize(
    ("tensors", "form", "because"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "full", "a model's own weights"),
        ({"text_model.final_layer_norm.bias": (768,)}, "full", "a model's own weights"),
        ({"emb_params": (2, 768)}, "unknown", "a textual inversion"),
        ({"string_to_param.*": (2, 768)}, "unknown", "a textual inversion"),
    ],
)
def test_a_whole_model_or_an_embedding_is_other_and_fits_nothing(
    tensors: dict[str, Shape], form: str, because: str
) -> None:
    found = identify(header(tensors))
    assert (found.family, found.format, found.layers) == ("other", form, 0)
    assert because in found.reason
    assert fits(found, "sd1")[0] == "no"


def test_a_name_in_a_reason_is_cut_to_a_readable_length() -> None:
    found = identified({"unet." + "n" * 5000: (8, 8)})
    assert len(found.reason) < 250


def test_without_a_model_only_a_useless_file_is_judged() -> None:
    assert fits(identified({SD3_QUERY: (192, 192)}), None)[0] == "unknown"
    assert fits(identify(header({})), None)[0] == "no"


KEYS = st.sampled_from(
    [name for shapes in (w[1](MODEL_OF["pocket-sd3"]) for w in WRITTEN.values()) for name in list(shapes)[:8]]
    + ["", ".", "alpha", ".alpha", "lora_unet_", "lora_unet_.alpha", "unet..lora_A.weight", "base_model.model..diff"]
)
SHAPES = st.lists(st.sampled_from([0, 1, 4, 64, 192, 1536, 2**40]), max_size=5).map(tuple)
METADATA_KEYS = st.sampled_from(
    [
        "ss_tag_frequency",
        "ss_dataset_dirs",
        "ss_network_alpha",
        "lora_adapter_metadata",
        "ss_v2",
        "ss_base_model_version",
        "ss_sd_model_name",
        "modelspec.trigger_phrase",
        "modelspec.architecture",
        "modelspec.title",
    ]
)
JSON_TEXTS = st.sampled_from(
    ['{"a": {"b": 1}}', '{"a": {"img_count": 5}}', "[" * 100_000, '{"lora_alpha": [1]}', "NaN", "1e999"]
)


@settings(deadline=None)
@given(st.dictionaries(KEYS | st.text(), SHAPES, max_size=8), st.dictionaries(METADATA_KEYS, JSON_TEXTS | st.text()))
def test_whatever_a_header_holds_is_identified_without_an_error(
    shapes: dict[str, Any], metadata: dict[str, str]
) -> None:
    found = identify(header(shapes, metadata))
    assert found.layers == sum(found.parts.values())
    assert (found.rank is None) == (found.ranks == ())
    assert (found.reason == "") == (found.family not in ("unknown", "other"))
    for family in FAMILIES:
        verdict, why = fits(found, family)
        assert verdict == "yes" or why


def test_a_mutated_header_is_read_and_identified_or_refused(tmp_path: Path) -> None:
    shapes = write.lora(write.flat(MODEL_OF["pocket-sd3"], "transformer", containing="attn.to_q"), write.dora)
    good = write.write_file(tmp_path / "x.safetensors", shapes, {"ss_v2": "True"}).read_bytes()
    length = 8 + int.from_bytes(good[:8], "little")

    @settings(deadline=None)
    @given(st.dictionaries(st.integers(0, length - 1), st.integers(0, 255), min_size=1, max_size=4))
    def mutated(changes: dict[int, int]) -> None:
        content = bytearray(good)
        for place, byte in changes.items():
            content[place] = byte
        try:
            found = header_from("x.safetensors", bytes(content), len(content))
        except BadHeader:
            return
        assert not isinstance(found, MoreNeeded)
        identify(found)

    mutated()
