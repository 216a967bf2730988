"""Blocks compiled ahead of time by what ZeroGPU has for it, on the CPU: as exact, and a blend shows in them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
import torch

from core.aot import Ahead, compile_ahead, folder_for
from core.engine import LocalEngine
from core.gpu import COMPILING, run_ahead
from core.machine import Machine
from core.messages import Done, Job
from core.request import request_from
from tests.core.stores import drawn, transformer

NEEDS = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, g++")


@pytest.fixture(scope="module")
def spaces_on_a_cpu() -> Iterator[None]:
    """Spaces' own functions without what it does to a torch for CUDA, which this one is not."""
    import spaces.zero

    without = ModuleType("spaces.zero.torch")
    without.__path__ = [str(Path(spaces.zero.__file__).parent / "torch")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "spaces.zero.torch", without)
        yield


@pytest.fixture(scope="module")
def packages(spaces_on_a_cpu: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of both kinds of block that the small transformer has: the last one has no words to give on."""
    folder = tmp_path_factory.mktemp("aot")
    model = transformer()
    assert compile_ahead(model, lambda: drawn(model), folder) == 2
    assert compile_ahead(model, lambda: drawn(model), folder) == 0  # they are there
    return folder


def other_size(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    x, words, pooled = (torch.randn(shape, generator=generator) for shape in ((1, 4, 4, 8), (1, 5, 16), (1, 16)))
    with torch.inference_mode():
        found: torch.Tensor = model(x, words, pooled, torch.tensor([500.0]), return_dict=False)[0]
    return found.clone()


@NEEDS
def test_compiled_blocks_compute_the_same_follow_a_blend_and_leave_other_sizes_alone(packages: Path) -> None:
    plain, ahead = transformer(), transformer()
    names = set(ahead.state_dict())
    blocks = Ahead(ahead, packages)
    assert len(blocks) == 2
    assert set(ahead.state_dict()) == names
    assert torch.allclose(drawn(ahead), drawn(plain), rtol=0, atol=1e-4)
    assert not torch.equal(drawn(ahead), drawn(plain))  # it was another code that ran
    for model in (plain, ahead):
        model.get_submodule("transformer_blocks.0.attn.to_q").weight.mul_(-1)  # type: ignore[operator]
    assert torch.allclose(drawn(ahead), drawn(plain), rtol=0, atol=1e-4)
    assert torch.equal(other_size(ahead), other_size(plain))
    with blocks.asleep():
        assert torch.equal(drawn(ahead), drawn(plain))
    assert not torch.equal(drawn(ahead), drawn(plain))


@NEEDS
def test_a_model_of_other_blocks_takes_none_of_them(packages: Path) -> None:
    other: Any = transformer()
    other.transformer_blocks[0].ff.net[2] = torch.nn.Linear(256, 64, bias=False)
    assert len(Ahead(other, packages)) == 1
    assert len(Ahead(transformer(), packages / "nothing")) == 0


def test_packages_are_kept_by_what_they_are_for(tmp_path: Path) -> None:
    name = folder_for(tmp_path, "USER/REPO@1").name
    assert torch.__version__ in name
    assert "/" not in name


class Lending:
    """What spaces.GPU is, in this process, or refusing."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.seconds = refuses, 0

    def __call__(self, function: Any, duration: Callable[[Job], int]) -> Any:
        def lent(job: Job) -> Iterator[Any]:
            self.seconds = duration(job)
            if self.refuses:
                raise RuntimeError("ZeroGPU quota exceeded")
            yield from function(job)

        return lent


class Engine(LocalEngine):
    """Compiles nothing, and tells which folder it was asked for."""

    def compile_ahead(self, key: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "complete").touch()


@pytest.mark.usefixtures("random_pocket")
def test_a_space_compiles_once_and_starts_whatever_goes_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine, refusing = Engine(Machine("cpu")), Lending(refuses=True)
    run_ahead(engine, "pocket-sd3", tmp_path, refusing)
    assert "No block was compiled ahead of time (RuntimeError)" in caplog.text
    run_ahead(engine, "pocket-sd3", tmp_path, lending := Lending())
    assert lending.seconds == COMPILING
    run_ahead(engine, "pocket-sd3", tmp_path, again := Lending())
    assert again.seconds == 0  # no GPU was asked for
    request = request_from({"prompt": "", "seed": 1, "steps": 2}, "pocket-sd3")
    done = list(engine.run(Job(request), Event()))
    assert isinstance(done[-1], Done)
