"""CUDA graphs: a module's forward recorded once per shape of its inputs, and replayed over buffers that stay."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

log = logging.getLogger(__name__)

MOST_SHAPES = 4  # recordings kept, each of which holds its own memory; the least recently used goes first

Record = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Runs a function once, and gives what runs it again and the outputs that this writes into."""


@dataclass(frozen=True)
class _Recording:
    inputs: list[torch.Tensor]
    replay: Callable[[], None]
    outputs: Any


class Replayed:
    """A forward that replays. Weights that change in place are seen, for their memory stays where it was."""

    def __init__(self, forward: Callable[..., Any], device: torch.device, record: Record, pays: Callable[[int], bool]):
        """`pays` is asked with the number of the largest input's elements whether a recording is worth it."""
        self._forward, self._device, self._record, self._pays = forward, device, record, pays
        self._kept: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._failed = self._asleep = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, form = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        largest = max((tensor.numel() for tensor in tensors[:1]), default=0)
        if self._failed or self._asleep or not self._pays(largest):
            return self._forward(*args, **kwargs)
        key = (str(form), *(_kind(leaf) for leaf in leaves))
        if key not in self._kept and not self._keeps(key, leaves, form):
            return self._forward(*args, **kwargs)
        self._kept.move_to_end(key)
        recording = self._kept[key]
        for buffer, tensor in zip(recording.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        recording.replay()
        return pytree.tree_map_only(torch.Tensor, torch.clone, recording.outputs)

    def _keeps(self, key: Hashable, leaves: list[Any], form: Any) -> bool:
        """Whether there is a recording now. Behind its end nothing holds the memory of one that failed."""
        try:
            self._kept[key] = self._recorded(leaves, form)
        except Exception as error:  # noqa: BLE001 (a picture never fails for it)
            self._failed = True
            self._kept.clear()
            log.warning("No CUDA graph of the denoiser (%s): drawing without.", type(error).__name__)
            return False
        while len(self._kept) > MOST_SHAPES:
            self._kept.popitem(last=False)
        return True

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """While it lasts every call is a plain one: hooks that decide anew at each step would be replayed as they
        decided first."""
        self._asleep = True
        try:
            yield
        finally:
            self._asleep = False

    def _recorded(self, leaves: list[Any], form: Any) -> _Recording:
        """Numbers that came from the CPU lie on the device here: a recording would copy the first ones for ever."""
        still = [leaf.to(self._device, copy=True) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(still, form)
        replay, outputs = self._record(lambda: self._forward(*args, **kwargs))
        return _Recording([leaf for leaf in still if isinstance(leaf, torch.Tensor)], replay, outputs)


def _kind(leaf: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device)
    return repr(leaf)


def cuda_graph(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A Record of CUDA's: warmed up on a stream of its own, as torch asks for."""
    current = torch.cuda.current_stream()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # torch.cuda.graph leaves the thread on its own stream where a recording fails
    with torch.cuda.stream(current), torch.cuda.graph(graph):
        outputs = function()
    return graph.replay, outputs
