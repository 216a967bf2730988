"""The page's parts without a server: values in, requests and HTML out."""

from __future__ import annotations

import logging
from typing import get_args

import pytest

from core.base_models import BASE_MODELS
from core.errors import BadRequest
from core.messages import Drawn, Preview, Progress, Raster
from core.request import request_from
from lora_catalog.card import LoraCard
from lora_catalog.errors import UnknownRef
from lora_catalog.search import SearchFamily
from tests.core.recipes import lora, recipe
from ui.about import about_html
from ui.blend_rows import blend_rows, loras_in, refitted, shown
from ui.form import raw_request
from ui.loras import FAMILIES
from ui.messages import sentence_for
from ui.runs import Pace, Runs
from ui.stage import Stage
from ui.take_away import take_away_html
from ui.words import PocketWords, examples_html, words_html

PIXEL = Raster(1, 1, b"\x00\x80\xff")


def row(**fields: object) -> dict[str, object]:
    base: dict[str, object] = {
        "ref": "bundled:pixel", "title": "Pixel", "family": "pocket-sd3", "also": None, "triggers": [], "weight": 1,
    }  # fmt: skip
    return base | {"muted": False, "why_not": None, "said": []} | fields


def card(**fields: object) -> LoraCard:
    base = {
        "ref": "bundled:pixel", "title": "Pixel", "family": "pocket-sd3", "licence": None, "triggers": (),
        "weight": 1.0,
        "downloads": 0, "likes": 0, "nsfw": False, "gated": False, "source": "bundled", "base": None, "preview": None,
        "description": "", "author": None,
    }  # fmt: skip
    return LoraCard.model_validate(base | fields)


def test_rows_become_loras_by_name_without_those_that_do_not_fit() -> None:
    rows = [row(weight=0.5, muted=True), row(ref="bundled:other", why_not="Too big.")]
    assert loras_in({"family": "pocket-sd3", "rows": rows}) == [{"ref": "bundled:pixel", "weight": 0.5, "muted": True}]


def test_a_rows_controls_are_sent_and_of_its_blocks_those_of_the_models_family() -> None:
    here = {"groups": {"0-1": 0.5, "2-3": None}, "single": "0: 2,, 4-5:-1"}
    one = row(text_encoder=0.3, start=0.25, end=None, blocks={"pocket-sd3": here, "pocket-sdxl": {"groups": {"in": 9}}})
    blend = {"family": "pocket-sd3", "rows": [one], "total_strength": 2}
    raw = raw_request({"prompt": "x", "loras": blend})
    (lora,) = raw["loras"]
    assert (lora["text_encoder"], lora["start"], "end" in lora) == (0.3, 0.25, False)
    assert lora["blocks"] == {"0-1": 0.5, "0": 2.0, "4-5": -1.0}
    assert request_from(raw, "pocket-sd3").total_strength == 2


@pytest.mark.parametrize(
    ("single", "words"), [("5", "blocks.5 must be a number"), ("3: x", "must be a number"), ("in: 1", "not “in”")]
)
def test_blocks_that_are_no_blocks_are_refused_by_name(single: str, words: str) -> None:
    blend = {"family": "pocket-sd3", "rows": [row(blocks={"pocket-sd3": {"groups": {}, "single": single}})]}
    with pytest.raises(BadRequest, match=words):
        request_from(raw_request({"prompt": "x", "loras": blend}), "pocket-sd3")


@pytest.mark.parametrize("odd", [5, {"pocket-sd3": 5}, {"pocket-sd3": {"groups": 5, "single": 5}}])
def test_odd_blocks_are_none(odd: object) -> None:
    (lora,) = loras_in({"family": "pocket-sd3", "rows": [row(blocks=odd)]})
    assert "blocks" not in lora


@pytest.mark.parametrize("odd", [None, 5, "x", {"rows": 5}, [5]])
def test_odd_blends_are_left_for_the_schema_to_refuse(odd: object) -> None:
    assert loras_in(odd) in (None, 5, "x", [5])


def test_a_model_switch_says_what_it_leaves_out_and_takes_it_back() -> None:
    away = refitted({"rows": [row()]}, "pocket-sdxl")
    assert away["rows"][0]["why_not"] == "Made for pocket-sd3: left out while Pocket SDXL draws."
    assert away["family"] == "pocket-sdxl"
    assert refitted(away, "pocket-sd3")["rows"][0]["why_not"] is None


def test_a_model_switch_keeps_the_total_strength_and_brings_the_models_blocks() -> None:
    blend = refitted({"rows": [row(end=0.5)], "total_strength": 2}, "pocket-sdxl")
    assert (blend["total_strength"], blend["groups"], blend["rows"][0]["end"]) == (2, ["in", "mid", "out"], 0.5)


def test_a_lora_that_may_fit_is_left_to_be_tried() -> None:
    unknown, perhaps = refitted({"rows": [row(family="unknown"), row(also="pocket-sdxl")]}, "pocket-sdxl")["rows"]
    assert (unknown["why_not"], perhaps["why_not"]) == (None, None)


@pytest.mark.parametrize("odd", [None, 5, {"rows": 5}, {"rows": [5, None]}])
def test_a_model_switch_takes_any_blend(odd: object) -> None:
    assert refitted(odd, "pocket-sdxl")["rows"] == []


def test_a_locked_negative_prompt_is_not_sent() -> None:
    assert raw_request({"model": "pocket-sdxl-lcm", "negative_prompt": "fog"})["negative_prompt"] is None
    assert raw_request({"model": "pocket-sd3", "negative_prompt": "fog"})["negative_prompt"] == "fog"


def test_an_accelerator_is_no_card_to_pick() -> None:
    cards = [card(), card(ref="bundled:pocket-sdxl-lcm", title="LCM", family="pocket-sdxl")]
    offered = blend_rows(cards, BASE_MODELS["pocket-sd3"]).props["cards"]
    assert [one["ref"] for one in offered] == ["bundled:pixel"]


def test_a_card_without_a_preview_has_no_address_of_one() -> None:
    assert shown(card())["picture"] is None
    assert shown(card(preview="preview.png"))["picture"] == "./loom/preview?ref=bundled%3Apixel"


def test_every_family_of_a_search_can_be_chosen() -> None:
    families = [family for literal in get_args(SearchFamily) for family in get_args(literal)]
    assert set(FAMILIES) == set(families)


def test_only_our_own_errors_become_messages(caplog: pytest.LogCaptureFixture) -> None:
    assert sentence_for(BadRequest("steps", "steps must be small.")) == "steps must be small."
    assert "bundled:x" in sentence_for(UnknownRef("bundled:x"))
    with caplog.at_level(logging.ERROR):
        sentence = sentence_for(OSError("/secret/path"))
    assert "/secret" not in sentence
    assert "/secret/path" in caplog.text


def test_a_stop_reaches_the_runs_of_one_session_only() -> None:
    runs = Runs()
    with runs.run("mine") as mine, runs.run("yours") as yours:
        runs.stop("mine")
        runs.stop("nobody")
        assert (mine.is_set(), yours.is_set()) == (True, False)
    assert yours.is_set(), "a run that has ended must not draw on"


def test_a_pace_is_due_once_in_its_time() -> None:
    times = iter([0.0, 0.0, 0.05, 0.11, 0.2, 0.22])
    pace = Pace(0.1, lambda: next(times))
    assert [pace.due() for _ in range(5)] == [True, False, True, False, True]


def test_the_stage_counts_steps_within_a_picture() -> None:
    stage = Stage(images=2)
    stage.follow(Progress("Drawing", 20, 40))
    assert "step 20 of 20 · picture 1 of 2" in stage.drawing()
    stage.follow(Drawn(0, 5, PIXEL))
    stage.follow(Preview(1, PIXEL))
    stage.follow(Progress("Drawing", 21, 40))
    assert "step 1 of 20 · picture 2 of 2" in stage.drawing()
    assert 'aria-valuenow="52"' in stage.drawing()


def test_a_download_is_told_in_megabytes() -> None:
    stage = Stage(images=2)
    stage.follow(Progress("Fetching glow.safetensors", 4_500_000, 18_000_000, "bytes"))
    assert "Fetching glow.safetensors · 4.5 MB of 18 MB</p>" in stage.drawing()
    assert 'aria-valuenow="25"' in stage.drawing()


def test_a_stage_without_figures_says_what_it_does() -> None:
    stage = Stage(images=1)
    stage.follow(Progress("Loading Pocket SD3"))
    assert "Loading Pocket SD3 …" in stage.drawing()


def test_a_recipe_that_is_too_long_for_a_link_says_so_instead() -> None:
    blocks = {f"in.{number}": 0.123456789 for number in range(300)}
    loras = tuple(lora(f"bundled:style-{number}", blocks=blocks) for number in range(12))
    assert 'href="?recipe=' in take_away_html(recipe(loras=loras[:1]), {})
    long = take_away_html(recipe(loras=loras), {})
    assert "href" not in long
    assert "too long for a link" in long


def test_whatever_others_wrote_is_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    words = PocketWords(things=(hostile,), examples=(hostile,))
    model = {"title": hostile, "key": hostile, "available": False, "why_not": hostile}
    stage = Stage(images=1)
    stage.follow(Progress(hostile))
    for html in (words_html(words), examples_html(words), about_html([model]), stage.drawing()):
        assert "<script" not in html
