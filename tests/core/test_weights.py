"""What every way to have a model keeps to: blends that are exact, undone to the bit, and never left half-done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from core.lora.blend import Blender, Ingredient
from core.lora.parse import ParsedLora, parse_lora
from core.lora.stores import weights_of
from tests.core.conftest import write_lora
from tests.core.stores import WAYS, WIDTH, Failing, Way, by_peft, drawn

BLOCK = "transformer.transformer_blocks.{}."
LAYERS = {
    BLOCK.format(0) + "attn.to_q": (WIDTH, WIDTH),
    BLOCK.format(1) + "attn.add_k_proj": (WIDTH, WIDTH),
    BLOCK.format(1) + "ff.net.2": (WIDTH, 4 * WIDTH),
    "transformer.pos_embed.proj": (WIDTH, 4, 2, 2),  # not quantised anywhere
}


@pytest.fixture
def loras(tmp_path: Path) -> list[ParsedLora]:
    """Of different ranks; the second leaves half of the layers alone."""
    found = []
    for seed, rank in enumerate((3, 5, 2)):
        layers = dict(list(LAYERS.items())[:: 2 if seed == 1 else 1])
        file = tmp_path / f"{seed}.safetensors"
        found.append(parse_lora(file, write_lora(file, layers, rank, seed), f"lora {seed}", "sd3-medium"))
    return found


class Stand:
    """A model with its blend."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.model = way.model()

    def begin_anew(self) -> None:
        """As if this had just been loaded."""
        self._blender = Blender(weights_of({"transformer": self.model}, self.way.free))

    def blend(self, *parts: tuple[ParsedLora, float]) -> list[tuple[int, int]]:
        receipts = self._blender.apply([Ingredient(lora, "it", weight, 0.0) for lora, weight in parts])
        return [(receipt.applied, receipt.total) for receipt in receipts]

    def drawn(self, *parts: tuple[ParsedLora, float]) -> torch.Tensor:
        self.blend(*parts)
        return self.as_is()

    def as_is(self) -> torch.Tensor:
        return drawn(self.model, self.way.dtype)


@pytest.fixture(params=WAYS, scope="module")
def shared(request: pytest.FixtureRequest) -> Stand:
    """Compiled once."""
    return Stand(WAYS[request.param])


@pytest.fixture
def stand(shared: Stand) -> Iterator[Stand]:
    shared.begin_anew()
    yield shared
    shared.blend()


def test_a_blend_draws_as_peft_does_unfused_and_its_receipts_count_right(stand: Stand, loras: list[ParsedLora]) -> None:
    bare, blend = stand.drawn(), [(loras[0], 0.7), (loras[1], -1.2), (loras[2], 0.4)]
    expected = drawn(by_peft(stand.way.base(), blend))
    limit = stand.way.tolerance * expected.abs().max()
    assert (stand.drawn(*blend) - expected).abs().max() < limit
    assert (bare - expected).abs().max() > 10 * limit
    assert stand.blend(*blend) == [(4, 4), (2, 2), (4, 4)]


def test_the_same_blend_again_touches_nothing(stand: Stand, loras: list[ParsedLora]) -> None:
    blend = [(loras[0], 1.0), (loras[1], 0.5)]
    first = stand.drawn(*blend)
    with Failing(0, AssertionError("touched"), done=False) as watched:
        stand.blend(*blend)
    assert watched.seen == 0
    assert torch.equal(stand.as_is(), first)


def test_only_layers_whose_share_differs_are_rewritten(stand: Stand, loras: list[ParsedLora]) -> None:
    stand.blend((loras[0], 1.0), (loras[1], 1.0))
    with Failing(10**6, AssertionError(), done=False) as all_layers:
        stand.blend((loras[0], 0.9), (loras[1], 1.0))
    with Failing(10**6, AssertionError(), done=False) as half:
        stand.blend((loras[0], 0.9), (loras[1], 0.5))
    assert 0 < half.seen < 0.75 * all_layers.seen


def test_the_order_of_loras_never_changes_a_bit(stand: Stand, loras: list[ParsedLora]) -> None:
    parts = [(lora, 0.3 + number) for number, lora in enumerate(loras)]
    forward, bare = stand.drawn(*parts), stand.drawn()
    assert torch.equal(stand.drawn(*parts[::-1]), forward)
    assert not torch.equal(forward, bare)


def test_200_random_changes_leave_no_bit_behind(stand: Stand, loras: list[ParsedLora]) -> None:
    bare, blended = stand.drawn(), stand.drawn((loras[0], 0.8))
    numbers = random.Random(0)
    for _ in range(200):
        picked = numbers.sample(loras, numbers.randint(0, 3))
        stand.blend(*((lora, numbers.uniform(-5, 5)) for lora in picked))
    assert torch.equal(stand.drawn((loras[0], 0.8)), blended)
    assert torch.equal(stand.drawn(), bare)


@pytest.mark.parametrize(
    ("error", "done"),
    [(torch.OutOfMemoryError("no room"), False), (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True)],
    ids=["before an operation is done", "after it is done"],
)
def test_memory_that_runs_out_at_any_step_of_a_blend_leaves_the_model_untouched_and_able(
    stand: Stand, loras: list[ParsedLora], error: Exception, done: bool
) -> None:
    blend = [(loras[0], 0.7), (loras[1], -1.2)]
    wanted, bare, step = stand.drawn(*blend), stand.drawn(), 0
    while True:
        stand.begin_anew()
        try:
            with Failing(step, error, done):
                stand.blend(*blend)
            break
        except type(error):
            assert torch.equal(stand.as_is(), bare)
        step += 1
    assert step > 20
    assert torch.equal(stand.as_is(), wanted)


def test_what_could_not_even_be_restored_is_restored_by_the_next_blend(stand: Stand, loras: list[ParsedLora]) -> None:
    bare, wanted = stand.drawn(), stand.drawn((loras[0], 0.5))
    stand.blend((loras[0], 1.0))
    with Failing(0, MemoryError(), done=False, times=10**6), pytest.raises(MemoryError):
        stand.blend((loras[0], 0.5))
    assert torch.equal(stand.drawn((loras[0], 0.5)), wanted)
    with Failing(0, MemoryError(), done=False, times=10**6), pytest.raises(MemoryError):
        stand.blend((loras[0], 1.0))
    assert torch.equal(stand.drawn(), bare)


def test_a_layer_whose_restoring_failed_is_written_by_the_blend_that_it_had(
    stand: Stand, loras: list[ParsedLora]
) -> None:
    wanted = stand.drawn((loras[0], 0.5))
    for step in range(4):
        with Failing(step, MemoryError(), done=True, times=10**6), suppress(MemoryError):
            stand.blend()
        assert torch.equal(stand.drawn((loras[0], 0.5)), wanted)


def test_blends_never_have_a_compiled_model_compiled_again(stand: Stand, loras: list[ParsedLora]) -> None:
    bare = stand.drawn()
    with torch.compiler.set_stance("fail_on_recompile"):
        blended = [stand.drawn((loras[0], 1.0)), stand.drawn((loras[0], 0.5), (loras[1], -1.0))]
        assert torch.equal(stand.drawn(), bare)
    assert not any(torch.equal(one, other) for one, other in ((bare, blended[0]), (blended[0], blended[1])))
