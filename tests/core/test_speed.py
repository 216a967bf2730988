"""Compiled blocks, attention kernels and recorded forwards on small real pipelines; CUDA itself is not run."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import core.drawing
from core.attention import FLASH, MATH, Kernel, only, working_kernel
from core.base_models import BASE_MODELS
from core.drawing import Easel
from core.graphs import MOST_SHAPES, Replayed
from core.loading import denoiser_of
from core.memory import PLANS
from core.messages import Job, LoraFile
from core.request import request_from
from core.speed import BLOCKS, PLAIN, Speed, Switches, switches_for
from tests.core.conftest import write_lora
from tests.core.stores import drawn as seen
from tests.core.stores import transformer

LAYERS = {
    "pocket-sd3": "transformer.transformer_blocks.0.attn.to_q",
    "pocket-sdxl": "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
}
COMPILED = Switches(blocks=True, decoder=True, channels_last=True)


def again(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """What a CUDA graph does, by running the function over the same buffers."""
    outputs = function()

    def replay() -> None:
        for old, new in zip(outputs, function(), strict=True):
            old.copy_(new)

    return replay, outputs


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def easel(random_pocket: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Easel]:
    def made(key: str, switches: Switches, backend: Any = "eager") -> Easel:
        monkeypatch.setattr(
            core.drawing,
            "accelerated",
            lambda pipeline, entry, device, plan, speed: Speed(pipeline, entry, device, switches, backend, again),
        )
        return Easel(BASE_MODELS[key], "cpu")

    return made


def lora(folder: Path, easel: Easel, weight: float) -> LoraFile:
    layer = LAYERS[easel.entry.key]
    component, name = layer.split(".", 1)
    path = folder / "lora.safetensors"
    shape = tuple(getattr(easel.pipeline, component).get_submodule(name).weight.shape)
    return LoraFile("local:lora", write_lora(path, {layer: shape}), path, weight, weight)


def drawn(easel: Easel, files: tuple[LoraFile, ...] = (), side: int = 64) -> bytes:
    key = easel.entry.key
    request = request_from({"prompt": "a cat", "steps": 2, "width": side, "height": side, "seed": 3}, key)
    course = easel.blend(Job(request, files))
    return easel.draw(request, course, lambda: False, lambda message: None)[0].raster.data


def apart(one: bytes, other: bytes) -> int:
    first, second = (torch.frombuffer(bytearray(data), dtype=torch.uint8).int() for data in (one, other))
    return int((first - second).abs().max())


def test_only_a_denoiser_that_stays_unpacked_on_cuda_is_compiled() -> None:
    assert switches_for("cpu", PLANS["full"], packed=False) == switches_for("mps", PLANS["full"], False) == PLAIN
    assert switches_for("cuda", PLANS["full"], False, "plain") == PLAIN
    for name in ("full", "encoders-off", "tiled"):
        assert switches_for("cuda", PLANS[name], False).blocks
    for name, packed in (("model-offload", False), ("group-offload", False), ("nf4", True)):
        found = switches_for("cuda", PLANS[name], packed)
        assert (found.blocks, found.decoder, found.graphs_up_to, found.attention) == (False, False, 0.0, True)
    assert not switches_for("cuda", PLANS["tiled"], False).decoder


@pytest.mark.parametrize("key", LAYERS)
def test_a_blend_shows_in_compiled_blocks_and_never_compiles_again(
    easel: Callable[..., Easel], tmp_path: Path, key: str
) -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    plain, ours = easel(key, PLAIN), easel(key, COMPILED, counting)
    file = lora(tmp_path, ours, 1.0)
    before = drawn(ours)
    first = len(graphs)
    assert first > 2
    assert apart(before, drawn(plain)) <= 1
    blended = drawn(ours, (file,))
    assert apart(blended, drawn(plain, (file,))) <= 1
    assert blended != before
    assert drawn(ours) == before
    assert len(graphs) == first
    drawn(ours, side=128)
    assert drawn(ours) == before
    assert drawn(ours, (file,)) == blended


def test_the_real_compiler_changes_last_bits_alone_and_follows_what_is_written_in_place() -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler, g++")
    plain, fast = transformer(), transformer()
    blocks = [part for part in fast.modules() if type(part).__name__ in BLOCKS]
    for block in blocks:
        block.compile(dynamic=False)
    for _ in range(2):
        assert torch.allclose(seen(fast), seen(plain), rtol=0, atol=1e-4)
        assert torch.equal(seen(fast), seen(fast))
        for model in (plain, fast):
            model.get_submodule("transformer_blocks.0.attn.to_q").weight.mul_(-1)  # type: ignore[operator]


@pytest.mark.parametrize("key", LAYERS)
def test_under_shortcuts_nothing_is_compiled_or_recorded(easel: Callable[..., Easel], key: str) -> None:
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    ours = easel(key, Switches(blocks=True, graphs_up_to=100.0), counting)
    tried = len(graphs)
    request = request_from({"prompt": "a cat", "steps": 20, "width": 64, "height": 64, "lossy": ["pab"]}, key)
    ours.draw(request, ours.blend(Job(request)), lambda: False, lambda message: None)
    denoiser: Any = denoiser_of(ours.pipeline)
    assert (len(graphs), len(denoiser.forward._kept)) == (tried, 0)
    drawn(ours)
    assert len(graphs) > tried
    assert len(denoiser.forward._kept) == 1


def test_a_machine_without_a_compiler_draws_uncompiled(
    easel: Callable[..., Easel], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        raise RuntimeError("no triton")

    ours = easel("pocket-sd3", COMPILED, broken)
    assert [record.getMessage() for record in caplog.records if "compiled" in record.message] == [
        "Nothing can be compiled here (BackendCompilerFailed): drawing without."
    ]
    assert apart(drawn(ours), drawn(easel("pocket-sd3", PLAIN))) <= 1


@pytest.mark.parametrize("key", LAYERS)
def test_attention_really_switches(easel: Callable[..., Easel], key: str) -> None:
    plain = easel(key, PLAIN)
    for kernel, operator in (
        (FLASH, "scaled_dot_product_flash_attention"),
        (MATH, "scaled_dot_product_attention_math"),
    ):
        plain.speed._kernel = kernel
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            drawn(plain)
        names = {event.name for event in seen.events() if "_scaled_dot_product" in event.name}
        assert names
        assert all(operator in name for name in names), names


def test_the_first_kernel_that_computes_is_taken() -> None:
    missing = Kernel("missing", FLASH.backend, "FA0")
    assert working_kernel((64,), torch.float32, "cpu", (missing, FLASH, MATH)) is FLASH
    assert working_kernel((64,), torch.float32, "cpu", (missing,)) is None
    with only(None):
        pass


@pytest.mark.parametrize("key", LAYERS)
def test_a_recorded_forward_draws_the_same_and_sees_a_blend(
    easel: Callable[..., Easel], tmp_path: Path, key: str
) -> None:
    plain, ours = easel(key, PLAIN), easel(key, Switches(graphs_up_to=100.0))
    file = lora(tmp_path, ours, 1.0)
    assert drawn(ours) == drawn(plain)
    assert drawn(ours, (file,)) == drawn(plain, (file,)) != drawn(plain)
    denoiser: Any = denoiser_of(ours.pipeline)
    assert len(denoiser.forward._kept) == 1


def test_few_shapes_are_kept_and_what_pays_nothing_is_not_recorded() -> None:
    made: list[int] = []

    def record(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        made.append(1)
        return again(function)

    forward = Replayed(lambda x, scale: (x * scale,), torch.device("cpu"), record, lambda numbers: numbers < 50)
    for side in range(1, MOST_SHAPES + 3):
        assert torch.equal(forward(torch.full((side,), 2.0), scale=3)[0], torch.full((side,), 6.0))
    assert len(forward._kept) == MOST_SHAPES
    count = len(made)
    assert torch.equal(forward(torch.ones(MOST_SHAPES + 2), scale=3)[0], torch.full((MOST_SHAPES + 2,), 3.0))
    assert len(made) == count
    assert torch.equal(forward(torch.ones(MOST_SHAPES + 2), scale=4)[0], torch.full((MOST_SHAPES + 2,), 4.0))
    assert len(made) == count + 1
    assert len(forward(torch.ones(64), scale=2)[0]) == 64
    assert len(made) == count + 1


def test_a_recording_that_fails_is_drawn_plainly_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def full(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward = Replayed(lambda x: (x + 1,), torch.device("cpu"), full, lambda numbers: True)
    assert forward(torch.zeros(1))[0] == forward(torch.zeros(1))[0] == 1
    assert len(caplog.records) == 1


def test_what_a_failed_recording_took_is_let_go_before_the_picture_is_drawn_without() -> None:
    taken: list[weakref.ref[torch.Tensor]] = []

    def full(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        memory = torch.zeros(8)
        taken.append(weakref.ref(memory))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def plain(x: torch.Tensor) -> tuple[torch.Tensor]:
        assert [one() for one in taken] == [None]
        return (x + 1,)

    assert Replayed(plain, torch.device("cpu"), full, lambda numbers: True)(torch.zeros(1))[0] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.usefixtures("random_pocket")
def test_on_cuda_a_blend_shows_with_every_switch_on(tmp_path: Path) -> None:
    ours, plain = (Easel(BASE_MODELS["pocket-sdxl"], "cuda", speed=speed) for speed in ("auto", "plain"))
    ours.warm_up()
    file = lora(tmp_path, ours, 1.0)
    assert apart(drawn(ours, (file,)), drawn(plain, (file,))) <= 8
    assert drawn(ours) == drawn(ours)
