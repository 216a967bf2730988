"""Metadata: what trainers write is told, cut and cleaned; what is malformed counts as not said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_catalog.card import Family
from lora_catalog.said import LONGEST, read_said


def tagged(counts: dict[str, int], pictures: int = 20) -> dict[str, str]:
    """What sd-scripts writes of one folder of captioned pictures."""
    return {
        "ss_tag_frequency": json.dumps({"10_dog": counts}),
        "ss_dataset_dirs": json.dumps({"10_dog": {"n_repeats": 10, "img_count": pictures}}),
    }


def test_the_authors_own_phrase_is_the_trigger() -> None:
    assert read_said({"modelspec.trigger_phrase": " sks  dog"} | tagged({"ohwx": 20})).triggers == ("sks dog",)


@pytest.mark.parametrize(
    ("counts", "triggers"),
    [
        ({"ohwx": 20, "outdoors": 7}, ("ohwx",)),
        ({"outdoors": 7, "ohwx": 19}, ("ohwx",)),
        ({"ohwx": 20, "dog": 20}, ("ohwx",)),
        ({"1girl": 20, "Solo": 20, "ohwx": 20}, ("ohwx",)),
        ({"1girl": 20}, ()),
        ({"outdoors": 18}, ()),
        ({"a\nb": 20}, ("a b",)),
        ({" ": 20}, ()),
        ({}, ()),
    ],
)
def test_else_it_is_the_first_tag_of_nearly_all_captions(counts: dict[str, int], triggers: tuple[str, ...]) -> None:
    assert read_said(tagged(counts)).triggers == triggers


def test_a_few_pictures_or_none_counted_have_no_trigger() -> None:
    assert read_said(tagged({"ohwx": 3}, pictures=3)).triggers == ()
    assert read_said({"ss_tag_frequency": tagged({"ohwx": 20})["ss_tag_frequency"]}).triggers == ()


def test_tags_count_over_all_folders() -> None:
    metadata = {
        "ss_tag_frequency": json.dumps({"1_a": {"ohwx": 5, "red": 5}, "1_b": {"ohwx": 5}}),
        "ss_dataset_dirs": json.dumps({"1_a": {"img_count": 5}, "1_b": {"img_count": 5}}),
    }
    assert read_said(metadata).triggers == ("ohwx",)


@pytest.mark.parametrize(
    ("metadata", "families"),
    [
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, ["sdxl"]),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, ["sd1"]),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, ["sd2"]),
        ({"modelspec.architecture": "stable-diffusion-3-5-large/lora"}, ["sd3.5-large"]),
        ({"modelspec.architecture": "flux-1-dev/lora"}, ["flux"]),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, ["sdxl"]),
        ({"ss_base_model_version": "sd_v1"}, ["sd1"]),
        ({"ss_base_model_version": "sd_1.5"}, ["sd1"]),
        ({"ss_base_model_version": "sd_v2"}, ["sd2"]),
        ({"ss_base_model_version": "5-large"}, ["sd3.5-large"]),
        ({"ss_base_model_version": "flux1"}, ["flux"]),
        ({"ss_sd_model_name": "v1-5-pruned-emaonly.safetensors"}, ["sd1"]),
        ({"ss_sd_model_name": "v2-1_768-ema-pruned.ckpt"}, ["sd2"]),
        ({"ss_sd_model_name": "sd_xl_base_1.0.safetensors"}, ["sdxl"]),
        ({"ss_sd_model_name": "sd3_medium_incl_clips.safetensors"}, ["sd3-medium"]),
        ({"ss_sd_model_name": "segmind/SSD-1B"}, ["ssd-1b"]),
        ({"ss_sd_model_name": "mymodel.safetensors"}, []),
        ({"ss_v2": "True"}, ["sd2"]),
        ({"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v2-512"}, ["sd2", "sd1"]),
    ],
)
def test_a_bases_name_means_a_family(metadata: dict[str, str], families: list[Family]) -> None:
    assert list(read_said(metadata).families) == families


@pytest.mark.parametrize(
    ("metadata", "alpha"),
    [
        ({"ss_network_alpha": "16"}, 16),
        ({"ss_network_alpha": "None"}, None),
        ({"ss_network_alpha": "inf"}, None),
        ({"lora_adapter_metadata": '{"transformer.r": 4, "transformer.lora_alpha": 8}'}, 8),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": []}'}, None),
        ({"lora_adapter_metadata": "[]"}, None),
        ({"lora_adapter_metadata": "{"}, None),
        ({}, None),
    ],
)
def test_one_alpha_for_all_layers_is_told(metadata: dict[str, str], alpha: float | None) -> None:
    assert read_said(metadata).alpha == alpha


def test_title_and_base_are_those_that_people_know() -> None:
    said = read_said(
        {"ss_output_name": "dog-v2", "ss_base_model_version": "sd_v1", "ss_sd_model_name": "dreamshaper_8"}
    )
    assert (said.title, said.base) == ("dog-v2", "dreamshaper_8")
    assert read_said({"modelspec.title": "Dog", "ss_output_name": "dog-v2"}).title == "Dog"
    assert read_said({"ss_sd_model_name": "None"}).base is None


def test_texts_are_put_on_one_line_cleaned_and_cut() -> None:
    said = read_said(
        {"modelspec.description": "a\n\x00b\u202e " + "x" * 1000, "ss_steps": "10", "sshs_model_hash": "0f"}
    )
    assert said.shown == {"modelspec.description": "a b " + "x" * (LONGEST - 5) + "…", "ss_steps": "10"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda it: st.lists(it) | st.dictionaries(st.text(), it)
    )
)
def test_whatever_json_stands_where_numbers_are_expected_is_passed_over(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"10_dog": value})):
        said = read_said({"ss_tag_frequency": text, "ss_dataset_dirs": text, "lora_adapter_metadata": text})
        assert len(said.triggers) <= 1
