"""What strangers write reaches people and programs on one line, in bounded length, without letters that nobody sees."""

from __future__ import annotations

import pytest

from lora_catalog.card import LoraCard
from lora_catalog.plain import plain

UNSEEN = {
    "control": "\x00\x1b[31m\x7f\x85", "line ends": "\n\r\u2028\u2029",
    "bidirectional": "\u202a\u202e\u2066\u2069\u200f",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff", "tags": "\U000e0001\U000e0041\U000e007f",
    "variation selectors": "\ufe00\ufe0f\U000e0100\U000e01ef", "fillers": "\u115f\u1160\u3164\uffa0\u2800\u034f",
    "private": "\ue000\U000f0000", "surrogates": "\ud800",
}  # fmt: skip


@pytest.mark.parametrize("letters", UNSEEN.values(), ids=UNSEEN)
def test_unseen_letters_are_gone_and_words_stay_apart(letters: str) -> None:
    text = plain(f"neon{letters} lights", 100)
    assert not set(text) & set(letters) - set("[31m")
    assert text.startswith("neon")
    assert text.endswith(" lights")


def test_a_text_is_cut_to_its_length_however_long_it_was() -> None:
    assert plain("x" * 10**7, 20) == "x" * 19 + "…"
    assert plain(" a\t\tb ", 20) == "a b"


def test_towers_of_marks_are_cut_and_common_accents_stay() -> None:
    assert plain("Z" + "\u0300" * 50 + "algo", 100) == "Z" + "\u0300" * 4 + "algo"
    assert plain("Việt crème 漢字 العربية", 100) == "Việt crème 漢字 العربية"


def test_every_text_of_a_card_is_plain_whatever_source_it_comes_from() -> None:
    odd = "a\u202e\x00\U000e0041b" + "x" * 5000
    card = LoraCard(
        ref="bundled:x", title=odd, family="sdxl", licence=odd, triggers=(odd,), weight=1, downloads=0, likes=0,
        nsfw=False, gated=False, source="bundled", base=odd, preview=None, description=odd, author=odd,
    )  # fmt: skip
    for text in (card.title, card.licence, *card.triggers, card.base, card.description, card.author):
        assert text is not None
        assert text.startswith("a b")
        assert text.isprintable()
        assert len(text) <= 300
