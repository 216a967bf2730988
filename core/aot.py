"""Blocks compiled ahead of time, for ZeroGPU, where no compiler may run; used for inputs of the kind met then."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from core.speed import BLOCKS

log = logging.getLogger(__name__)

_ABOUT, _COMPLETE = "kind.json", "complete"
_PACKAGE = Path("root", "package.pt2")  # as spaces writes and torch reads them


@dataclass(frozen=True)
class Kind:
    """Blocks that are alike and are called alike: one of them, and what it was called with."""

    block: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def about(self) -> dict[str, str]:
        """What tells it from all others."""
        return {"block": _measures(self.block), "inputs": inputs_of(self.args, self.kwargs)}

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(self.about).encode()).hexdigest()[:16]


def folder_for(above: Path, model: str) -> Path:
    """Packages are for one version of torch, one kind of GPU and one model's shapes; weights are none of theirs."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    name = f"{model}-{torch.__version__}-{device}"
    return above / "".join(letter if letter.isalnum() or letter in ".-+" else "-" for letter in name)


def is_complete(folder: Path) -> bool:
    """Whether all kinds of blocks were compiled."""
    return (folder / _COMPLETE).is_file()


def compile_ahead(denoiser: torch.nn.Module, draw: Callable[[], object], folder: Path) -> int:
    """Compiles each kind of block that `draw` calls and the folder lacks; says how many there were to compile.

    It takes minutes. What is written is whole or not there.
    """
    from spaces import aoti_compile_and_save

    missing = [kind for kind in _kinds(denoiser, draw) if not (folder / kind.name / _ABOUT).is_file()]
    for kind in missing:
        with torch.no_grad():
            exported = torch.export.export(kind.block, kind.args, dict(kind.kwargs))
        aoti_compile_and_save(folder / kind.name, exported)
        (folder / kind.name / _ABOUT).write_text(json.dumps(kind.about), encoding="utf-8")  # the last: it is whole
    (folder / _COMPLETE).touch()
    return len(missing)


class Ahead:
    """The blocks of a denoiser, each with the packages of a folder that are for its kind."""

    def __init__(self, denoiser: torch.nn.Module, folder: Path) -> None:
        packages: dict[str, dict[str, Any]] = defaultdict(dict)
        for file in sorted(folder.glob(f"*/{_ABOUT}")):
            about = json.loads(file.read_text(encoding="utf-8"))
            packages[about["block"]][about["inputs"]] = _lazy(file.parent / _PACKAGE)
        found = ((block, packages.get(_measures(block))) for block in _blocks(denoiser))
        self._forwards = [_Forward(block, models) for block, models in found if models]
        for forward in self._forwards:
            forward.block.forward = forward

    def __len__(self) -> int:
        return len(self._forwards)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """While it lasts every block runs as it was written: what hooks do in a block is compiled in no package."""
        with ExitStack() as stack:
            for forward in self._forwards:
                stack.callback(setattr, forward.block, "forward", forward)
                forward.block.forward = forward.plain
            yield


class _Forward:
    """A block's forward: compiled for inputs of a kind that was met ahead of time, plain for any other."""

    def __init__(self, block: Any, models: Mapping[str, Any]) -> None:
        self.block, self.plain, self._models = block, block.forward, models
        self._weights: dict[str, torch.Tensor] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model = self._models.get(inputs_of(args, kwargs))
        if model is None:
            return self.plain(*args, **kwargs)
        first = self._weights is None
        if self._weights is None:
            # Not before the first call: only in the worker do the weights lie where the GPU reads them. They stay the
            # block's own memory, so that a blend is seen, which is written in place.
            self._weights = dict(self.block.state_dict())
        return model(self._weights, first, *args, **kwargs)


def _lazy(package: Path) -> Any:
    """Spaces' own, which it has no public name for but through what replaces a block's forward for all inputs."""
    from spaces.zero.torch.aoti import LazyAOTIModel

    return LazyAOTIModel(str(package))


def _kinds(denoiser: torch.nn.Module, draw: Callable[[], object]) -> Sequence[Kind]:
    calls: dict[torch.nn.Module, tuple[Any, Any]] = {}

    def met(block: torch.nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(block, (args, kwargs))

    with ExitStack() as stack:
        for block in _blocks(denoiser):
            stack.callback(block.register_forward_pre_hook(met, with_kwargs=True).remove)
        draw()
    # copies: tensors of a run in inference mode can be exported nowhere else
    own = partial(pytree.tree_map_only, torch.Tensor, lambda tensor: tensor.detach().clone())
    kinds = (Kind(block, own(args), own(kwargs)) for block, (args, kwargs) in calls.items())
    return tuple({kind.name: kind for kind in kinds}.values())


def _blocks(denoiser: torch.nn.Module) -> Iterator[Any]:
    return (module for module in denoiser.modules() if type(module).__name__ in BLOCKS)


def _measures(block: torch.nn.Module) -> str:
    """Its class, its settings as far as they show, and the sizes of its weights."""
    weights = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in block.state_dict().items()}
    return f"{type(block).__name__} {weights}"


def inputs_of(args: Any, kwargs: Any) -> str:
    """What of a call a package depends on: shapes and types of tensors, and the values of all else."""
    leaves, form = pytree.tree_flatten((args, dict(kwargs)))
    kinds = [
        f"{tuple(leaf.shape)} {leaf.dtype} {leaf.device.type}" if isinstance(leaf, torch.Tensor) else repr(leaf)
        for leaf in leaves
    ]
    return f"{form} {kinds}"
