"""Requests: what is filled in, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.request import GenerationRequest, request_from

LORA = {"ref": "bundled:pocket-sd3-neon"}


def ask(**fields: Any) -> GenerationRequest:
    return request_from({"prompt": "a cat"} | fields, "pocket-sd3")


@pytest.mark.parametrize("key", BASE_MODELS)
def test_a_prompt_alone_takes_every_default_of_its_model(key: str) -> None:
    request, entry = ask(model=key), BASE_MODELS[key]
    assert (request.steps, request.guidance, request.width, request.sampler) == (
        entry.steps, entry.guidance, entry.side, entry.samplers[0],
    )  # fmt: skip


def test_null_means_the_models_own_default() -> None:
    assert ask(steps=None, guidance=None, loras=None, seed=None) == ask()
    over = {"image": "a" * 64, "upscale": 1.5}
    assert ask(steps=20.0, **over) == ask(steps=20, **over)  # as JSON and sliders write it


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"steps": 0}, "steps", "from 1 to 100"),
        ({"steps": 101}, "steps", "from 1 to 100"),
        ({"steps": 2.5}, "steps", "whole number"),
        ({"steps": "20"}, "steps", "whole number"),
        ({"steps": True}, "steps", "whole number"),
        ({"model": "pocket-sdxl-lcm", "steps": 13}, "steps", "from 1 to 12 for pocket-sdxl-lcm"),
        ({"guidance": 20.5}, "guidance", "from 1 to 20"),
        ({"guidance": float("nan")}, "guidance", "a number from 1 to 20"),
        ({"guidance": float("inf")}, "guidance", "a number from 1 to 20"),
        ({"guidance": 10**400}, "guidance", "a number from 1 to 20"),
        ({"steps": 10**400}, "steps", "from 1 to 100 for pocket-sd3"),
        ({"steps": "30"}, "steps", "a whole number from 1 to 100"),
        ({"width": "128"}, "width", "a multiple of 16 from 64 to 256"),
        ({"prompt": "<lo<lora:bundled:a:1>ra:bundled:b:1> a fish"}, "prompt", "inside another"),
        ({"model": "pocket-sdxl-lcm", "guidance": 5}, "guidance", "from 1 to 2"),
        ({"width": 100}, "width", "multiple of 16 from 64 to 256"),
        ({"height": 48}, "height", "multiple of 16 from 64 to 256"),
        ({"width": 1024}, "width", "from 64 to 256 for pocket-sd3"),
        ({"seed": -2}, "seed", "from -1 (random) to 4294967295"),
        ({"seed": 2**32}, "seed", "from -1 (random) to 4294967295"),
        ({"seed": 2**32 - 1, "images": 2}, "seed", "its own seed"),
        ({"images": 0}, "images", "from 1 to 8"),
        ({"images": 9}, "images", "from 1 to 8"),
        ({"prompt": "x" * 4001}, "prompt", "at most 4000 characters"),
        ({"prompt": 7}, "prompt", "must be text"),
        ({"prompt": None}, "prompt", "is required"),
        ({"negative_prompt": ["x"]}, "negative_prompt", "must be text"),
        ({"model": "pocket-sdxl-lcm", "negative_prompt": "x"}, "negative_prompt", "left empty"),
        ({"model": "sdx"}, "model", "must be one of pocket-sd3"),
        ({"model": 3}, "model", "must be one of pocket-sd3"),
        ({"sampler": "magic"}, "sampler", "must be flow-euler or flow-heun for pocket-sd3"),
        ({"consent": "maybe"}, "consent", "'none', 'recipe' or 'picture'"),
        ({"visitor": "a/b"}, "visitor", "characters it cannot have"),
        ({"loras": "neon"}, "loras", "must be a list"),
        ({"loras": ["neon"]}, "loras[0]", "must be an object with a ref"),
        ({"loras": [{}]}, "loras[0].ref", "is required"),
        ({"loras": [LORA | {"weight": 6}]}, "loras[0].weight", "from -5 to 5"),
        ({"loras": [LORA | {"weight": float("nan")}]}, "loras[0].weight", "from -5 to 5"),
        ({"loras": [LORA | {"wieght": 1}]}, "loras[0].wieght", "not an input"),
        ({"loras": [LORA | {"start": 0.5, "end": 0.5}]}, "loras[0].start", "less than end, not 0.5 and 0.5"),
        ({"loras": [LORA | {"start": 1}]}, "loras[0].start", "less than end"),
        ({"loras": [LORA | {"end": 1.5}]}, "loras[0].end", "from 0 to 1"),
        ({"loras": [LORA | {"blocks": {"in": 1}}]}, "loras[0].blocks", "must name 0 to 5 or ranges such as 0-1 for"),
        ({"loras": [LORA | {"blocks": {"6": 1}}]}, "loras[0].blocks", "not “6”"),
        ({"loras": [LORA | {"blocks": {"5-4": 1}}]}, "loras[0].blocks", "not “5-4”"),
        ({"loras": [LORA | {"blocks": {"0": 5.5}}]}, "loras[0].blocks", "numbers from -5 to 5"),
        ({"loras": [LORA | {"blocks": {"0": "half"}}]}, "loras[0].blocks.0", "must be a number"),
        ({"loras": [LORA | {"blocks": {"0-2": 1, "2-4": 0}}]}, "loras[0].blocks", "“0-2” and “2-4” overlap"),
        ({"loras": [LORA | {"blocks": [0.5]}]}, "loras[0].blocks", "must be an object"),
        ({"model": "sdxl", "loras": [LORA, {"ref": "a/b", "blocks": {"0": 1}}]}, "loras[1].blocks",
         "must name in, mid, out, in.0 to in.2 or out.0 to out.2 for sdxl, not “0”"),
        ({"prompt": "a cat <lora:a/b:1 in=0>"}, "loras[0].blocks", "not “in”"),
        ({"prompt": "a cat <lora:a/b:1 dyn=8>"}, "prompt", "te, unet, in, mid and out"),
        ({"prompt": "a cat <lora:a/b te=much>"}, "prompt", "as a number"),
        ({"prompt": "a cat <lora:a/b te=1 te=0>"}, "prompt", "each once"),
        ({"loras": [{"ref": "../../etc/passwd"}]}, "loras[0].ref", "loras[0]"),
        ({"loras": [LORA, LORA]}, "loras", "once"),
        ({"loras": [LORA] * 17}, "loras", "at most 16"),
        ({"total_strength": 0}, "total_strength", "above 0, at most 10"),
        ({"total_strength": 10.5}, "total_strength", "above 0, at most 10"),
        ({"total_strength": "1"}, "total_strength", "above 0, at most 10"),
        ({"image": "x"}, "image", "characters it cannot have"),
        ({"colour": "red"}, "colour", "not an input"),
    ],
)  # fmt: skip
def test_what_it_cannot_be_is_said_in_one_sentence(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(**fields)
    sentence = str(caught.value)
    assert caught.value.field == field
    assert words in sentence
    assert "\n" not in sentence
    assert len(sentence) < 400


@given(
    st.dictionaries(
        st.sampled_from([*GenerationRequest.model_fields, "image", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_json_is_either_a_request_or_one_sentence(raw: dict[str, Any]) -> None:
    try:
        request_from(raw, "pocket-sd3")
    except BadRequest as error:
        assert str(error).endswith((".", "”"))
        assert "pydantic" not in str(error)


def test_null_inside_a_lora_means_its_default_too() -> None:
    assert ask(loras=[LORA | {"weight": None, "muted": None}]) == ask(loras=[LORA])


def test_tags_leave_the_prompt_and_join_the_blend() -> None:
    request = ask(prompt="a cat <lora:bundled:pocket-sd3-neon:0.5>, sitting", loras=[{"ref": "bundled:other"}])
    assert request.prompt == "a cat, sitting"
    assert [(lora.ref, lora.weight) for lora in request.loras] == [
        ("bundled:other", 1.0), ("bundled:pocket-sd3-neon", 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "ref", "weight"),
    [
        ("<lora:bundled:dots>", "bundled:dots", 1.0),
        ("<lora:bundled:dots:-1.5>", "bundled:dots", -1.5),
        ("<LORA:user/repo:a.safetensors:2>", "user/repo:a.safetensors", 2.0),
        ("<lora:user/repo@abc:a.safetensors>", "user/repo@abc:a.safetensors", 1.0),
    ],
)
def test_the_last_number_of_a_tag_is_its_weight(tag: str, ref: str, weight: float) -> None:
    lora = ask(prompt=f"a cat {tag}").loras[0]
    assert (lora.ref, lora.weight) == (ref, weight)


@pytest.mark.parametrize(
    ("tag", "fields"),
    [
        ("<lora:a/b:0.5 te=0.2>", {"weight": 0.5, "text_encoder": 0.2}),
        ("<lora:a/b:0.5 unet=0.2>", {"weight": 0.2, "text_encoder": 0.5}),
        ("<lora:a/b te=0 unet=-1>", {"weight": -1.0, "text_encoder": 0.0}),
        ("<lora:a/b:0.5:te=0.2:unet=.9>", {"weight": 0.9, "text_encoder": 0.2}),
        ("<lora:a/b:2 in=0 mid=0.5 out=1>", {"weight": 2.0, "blocks": {"in": 0.0, "mid": 0.5, "out": 1.0}}),
        ("<lora:a/b:c te=1.safetensors:0.5>", {"ref": "a/b:c te=1.safetensors", "weight": 0.5}),
        ("<lora:/huggingface.co/user/repo:0.8>", {"ref": "https://huggingface.co/user/repo", "weight": 0.8}),
    ],
)
def test_a_tag_names_the_parts_of_the_model_as_sd_next_does(tag: str, fields: dict[str, Any]) -> None:
    request = ask(prompt=f"a cat {tag}, sitting", model="pocket-sdxl")
    assert request.prompt == "a cat, sitting"
    assert request.loras == ask(loras=[{"ref": "a/b"} | fields], model="pocket-sdxl").loras


@given(st.text("<lora:a/b =.01teinmidout", max_size=40))
def test_any_tag_is_a_lora_or_one_sentence(body: str) -> None:
    try:
        ask(prompt=f"a cat <lora:{body}>")
    except BadRequest as error:
        assert "\n" not in str(error)
