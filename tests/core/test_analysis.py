"""Overlap, norms and suggested weights: against whole matrices, and as sentences about simple blends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import core.lora.factors
from core.errors import Cancelled, ModelUnavailable
from core.lora.analysis import Look, gram_of, look_at, overlaps_of
from core.lora.blend import Ingredient
from core.lora.changes import Change, Hadamard, Kronecker, LowRank
from core.lora.factors import factors_of
from core.lora.parse import ParsedLora
from tests.core.changes import FORMS, dora, hadamard, kronecker, low_rank, some, tucker

Q = "transformer.transformer_blocks.{}.attn.to_q"  # 192 × 192 in Pocket SD3
WORDS = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(FORMS), min_size=1, max_size=4),
    st.integers(4, 12).map(lambda n: 2 * n),
    st.integers(4, 12).map(lambda n: 2 * n),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_inner_products_from_factors_are_those_of_the_matrices(
    forms: list[Callable[[int, int, int], Change]], rows: int, columns: int, rank: int, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = some(rows, columns)
    changes = [form(rows, columns, rank) for form in forms]
    matrices = torch.stack([change.delta(weight).flatten().double() for change in changes])
    exact = matrices @ matrices.T
    assert torch.allclose(gram_of(changes, lambda: weight), exact, rtol=1e-4, atol=1e-5 * float(exact.max()))


@pytest.mark.parametrize("form", [low_rank, tucker, hadamard, kronecker])
def test_every_low_rank_form_has_factors(form: Callable[[int, int, int], Change]) -> None:
    change = form(32, 24, 2)
    pair = factors_of(change, torch.float64)
    assert pair is not None
    assert torch.allclose((pair[0] @ pair[1]).float(), change.delta(some(32, 24)).flatten(1), atol=1e-6)


@pytest.mark.parametrize("form", [hadamard, kronecker])
def test_nothing_is_made_of_ranks_that_reach_the_layers_own(
    form: Callable[[int, int, int], Change], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = form(32, 24, 12)
    monkeypatch.setattr(core.lora.factors, "_split", None)
    assert factors_of(full, torch.float32) is None


def skewed(change: Change, power: float) -> Change:
    """The same product of unlike factors."""
    low = change.second if isinstance(change, Hadamard | Kronecker) else change
    assert isinstance(low, LowRank)
    odd = replace(low, up=low.up / power, down=low.down * power)
    return replace(change, second=odd) if isinstance(change, Hadamard | Kronecker) else odd


@pytest.mark.parametrize("power", [1e25, 1e-25, 1e35])
@pytest.mark.parametrize("form", [low_rank, tucker, hadamard, kronecker])
def test_factors_of_unlike_sizes_are_measured_as_what_they_make(
    form: Callable[[int, int, int], Change], power: float
) -> None:
    torch.manual_seed(0)
    one, other = form(32, 24, 2), low_rank(32, 24, 2)
    matrices = torch.stack([one.delta(some(1)).flatten().double(), other.delta(some(1)).flatten().double()])
    exact = matrices @ matrices.T
    found = gram_of([skewed(one, power), other], lambda: None)
    assert torch.allclose(found, exact, rtol=1e-4, atol=1e-5 * float(exact.max()))


def test_no_matrix_is_made_where_all_have_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in {type(form(16, 16, 1)) for form in (low_rank, hadamard, kronecker)}:
        monkeypatch.setattr(kind, "delta", None)
    gram_of([low_rank(16, 16, 2), hadamard(16, 16, 1), kronecker(16, 16, 1)], lambda: None)


def test_a_dora_needs_the_models_weights() -> None:
    with pytest.raises(ModelUnavailable, match="not on this machine"):
        gram_of([dora(8, 8, 2)], lambda: None)


def lora(seed: int, strength: float = 1.0, blocks: range = range(6), words: bool = False) -> ParsedLora:
    torch.manual_seed(seed)
    layers: dict[str, Change] = {Q.format(block): LowRank(some(192, 4), some(4, 192), strength) for block in blocks}
    if words:
        layers[WORDS] = LowRank(some(128, 4), some(4, 128), strength)
    return ParsedLora(str(seed), layers, origins={layer: layer for layer in layers})


def look(
    *parts: tuple[ParsedLora, float], base: float | None = 100.0, windows: Sequence[tuple[float, float]] = ()
) -> Look:
    blend = [Ingredient(read, "a LoRA", weight, weight) for read, weight in parts]
    overlaps = overlaps_of([part.lora for part in blend], "pocket-sd3", lambda layer: None)
    preferred = [math.copysign(1.0, weight) for _, weight in parts]
    return look_at(blend, preferred, overlaps, "pocket-sd3", lambda layer: base, windows)


def test_a_lora_and_itself_pull_the_same_way_and_share_its_weight() -> None:
    seen = look((lora(1), 1.0), (lora(1), 0.5))
    assert seen.pairs[0].conflict == pytest.approx(1.0)
    assert seen.suggested == (0.5, 0.5)
    assert list(seen.blocks) == [str(number) for number in range(6)]
    assert min(seen.blocks.values()) == pytest.approx(1.0)


def test_a_lora_against_itself_is_a_conflict_of_minus_one() -> None:
    seen = look((lora(1), 1.0), (lora(1), -0.3))
    assert seen.pairs[0].conflict == pytest.approx(-1.0)
    assert seen.suggested == (1.0, -1.0)


def test_strangers_have_nothing_in_common_and_keep_their_weights() -> None:
    seen = look((lora(1), 1.0), (lora(2), 1.0))
    assert abs(seen.pairs[0].conflict or 0.0) < 0.05
    assert seen.suggested == pytest.approx((1.0, 1.0), abs=0.03)


def test_a_lora_that_drowns_the_others_is_lowered() -> None:
    quiet, loud = look((lora(1), 1.0), (lora(2, strength=100.0), 1.0)).suggested
    assert quiet == pytest.approx(1.0, abs=0.03)
    assert loud == pytest.approx(2 * math.sqrt(100) / 100, abs=0.03)


def test_norms_are_told_at_weight_one_and_against_the_base() -> None:
    read = lora(1, words=True)
    exact = math.sqrt(sum(float(change.delta(some(1)).square().sum()) for change in read.layers.values()))
    seen = look((read, 0.1))
    assert seen.norms[0] == pytest.approx(exact, rel=1e-5)
    assert seen.relative[0] == pytest.approx(exact / math.sqrt(7 * 100), rel=1e-5)
    assert seen.layers == (7,)


def test_a_model_that_is_not_here_leaves_the_relative_norm_open() -> None:
    assert look((lora(1), 1.0), base=None).relative == (None,)


def test_words_and_blocks_are_told_apart() -> None:
    seen = look((lora(1, words=True), 1.0), (lora(1, blocks=range(3), words=True), 1.0))
    assert list(seen.blocks) == ["0", "1", "2", "words"]


def test_a_muted_lora_has_no_conflict_and_no_suggestion() -> None:
    seen = look((lora(1), 1.0), (lora(1), 0.0))
    assert seen.pairs[0].conflict is None
    assert seen.suggested == (1.0, None)


def test_loras_that_never_meet_are_not_compared() -> None:
    twins = (lora(1), 1.0), (lora(1), 1.0)
    apart = look(*twins, windows=[(0.0, 0.5), (0.5, 1.0)])
    assert (apart.pairs, apart.blocks, apart.suggested) == ((), {}, (1.0, 1.0))
    assert look(*twins, windows=[(0.0, 0.6), (0.5, 1.0)]) == look(*twins)


def test_blocks_tell_only_of_loras_that_meet() -> None:
    windows = [(0.0, 0.5), (0.5, 1.0), (0.0, 0.5)]
    seen = look((lora(1), 1.0), (lora(1), -1.0), (lora(1), 0.5), windows=windows)
    assert [(pair.a, pair.b) for pair in seen.pairs] == [(0, 2)]
    assert list(seen.blocks.values()) == pytest.approx([1.0] * 6)
    assert seen.suggested == (0.5, -1.0, 0.5)


def test_a_lora_drowns_only_those_it_meets() -> None:
    windows = [(0.0, 0.5), (0.5, 1.0)]
    assert look((lora(1), 1.0), (lora(2, strength=100.0), 1.0), windows=windows).suggested == (1.0, 1.0)


def test_looking_can_be_stopped_between_layers() -> None:
    asked: list[int] = []

    def go_on() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        overlaps_of([lora(1)], "pocket-sd3", lambda layer: None, go_on)
    assert len(asked) == 2


def test_a_layer_of_another_shape_is_left_out() -> None:
    odd = ParsedLora("odd", {Q.format(0): low_rank(64, 64, 2)})
    assert look((lora(1), 1.0), (odd, 1.0)).layers == (6, 0)
