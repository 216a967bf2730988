"""Speed: which of torch's switches a laid-out model gets: compiled blocks, memory format, attention, CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from core.attention import Kernel, only, working_kernel
from core.base_models import BaseModel
from core.graphs import Record, Replayed, cuda_graph
from core.loading import denoiser_of
from core.lora.quantised import kind_of
from core.memory import MemoryPlan
from core.work import forward_tflop

log = logging.getLogger(__name__)

# The classes of the denoisers' repeated blocks: compiled one by one, each for all of its kind.
BLOCKS = ("JointTransformerBlock", "BasicTransformerBlock")
# TFLOP of a forward for one picture above which kernels take longer than their launches: an estimate, not measured.
GRAPHS_UP_TO = 12.0
# Graphs that one block's code may have: its variants in a model, times the sizes drawn since the start.
_MOST_GRAPHS = 256


@dataclass(frozen=True)
class Switches:
    """What a model gets; `graphs_up_to` are TFLOP of a forward, 0 for no graphs at all."""

    blocks: bool = False
    decoder: bool = False
    channels_last: bool = False
    attention: bool = False
    graphs_up_to: float = 0.0


PLAIN = Switches()
_RESTING = ("device", "encoders")  # plans under which the denoiser stays where it is


def switches_for(device: str, plan: MemoryPlan, packed: bool, speed: str = "auto") -> Switches:
    """`packed`: the denoiser has bitsandbytes' layers, which a blend swaps for others."""
    if speed == "plain" or device != "cuda":
        return PLAIN
    stays = plan.rest in _RESTING and not packed
    # A tiled decoder meets a new shape at every edge.
    return Switches(stays, stays and not plan.tiled, stays, True, GRAPHS_UP_TO if stays else 0.0)


class Speed:
    """The switches as they are on for one pipeline; `said` names them for the log."""

    def __init__(
        self, pipeline: Any, entry: BaseModel, device: str, switches: Switches,
        backend: str | Callable[..., Any] = "inductor", record: Record = cuda_graph,
    ) -> None:  # fmt: skip
        denoiser: Any = denoiser_of(pipeline)
        self._kernel: Kernel | None = None
        self.put_to_sleep: list[Callable[[], AbstractContextManager[None]]] = []  # where a run must be plain
        self._compiled = (switches.blocks or switches.decoder) and _compiles(device, backend)
        said = []
        if switches.channels_last:
            for part in (pipeline.vae, *([denoiser] if hasattr(pipeline, "unet") else [])):
                part.to(memory_format=torch.channels_last)
            said.append("channels last")
        if switches.attention:
            self._kernel = working_kernel(_heads(denoiser), _dtype(denoiser), device)
            said.append(f"{self._kernel.name if self._kernel else 'any'} attention")
        if self._compiled:
            parts = [part for part in denoiser.modules() if switches.blocks and type(part).__name__ in BLOCKS]
            for part in (*parts, *([pipeline.vae.decoder] if switches.decoder else [])):
                part.compile(backend=backend, dynamic=False)  # in place: its weights keep their names
            said.append(f"{len(parts)} compiled blocks")
        if switches.graphs_up_to:
            cells = pipeline.vae_scale_factor**2 / denoiser.config.in_channels

            def pays(numbers: int) -> bool:
                """Of the latents: with guidance there are two to a picture."""
                return forward_tflop(entry, int(numbers * cells)) <= switches.graphs_up_to

            forward = Replayed(denoiser.forward, next(denoiser.parameters()).device, record, pays)
            denoiser.forward = forward
            self.put_to_sleep.append(forward.asleep)
            said.append("CUDA graphs of small forwards")
        self.said = ", ".join(said)
        self.on = switches != PLAIN
        if self.on:
            log.info("Drawing with %s", self.said)

    @contextmanager
    def drawing(self, plainly: bool = False) -> Iterator[None]:
        """Around every run: torch keeps compiler settings by thread, and kernels for the whole process. `plainly`
        leaves compiled blocks and graphs out, for hooks that are laid around a denoiser for one run."""
        with ExitStack() as stack:
            stack.enter_context(only(self._kernel))
            for asleep in self.put_to_sleep if plainly else ():
                stack.enter_context(asleep())
            if plainly and self._compiled:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            elif self._compiled:
                stack.enter_context(
                    torch._dynamo.config.patch(
                        recompile_limit=_MOST_GRAPHS, accumulated_recompile_limit=64 * _MOST_GRAPHS,
                        suppress_errors=True, automatic_dynamic_shapes=False,
                    )
                )  # fmt: skip
            yield


def accelerated(pipeline: Any, entry: BaseModel, device: str, plan: MemoryPlan, speed: str = "auto") -> Speed:
    """Switches on what the model gets, before anything holds on to its weights."""
    packed = any(kind_of(module) for module in denoiser_of(pipeline).modules())
    return Speed(pipeline, entry, device, switches_for(device, plan, packed, speed))


def _compiles(device: str, backend: str | Callable[..., Any]) -> bool:
    """Whether there is a compiler that works, tried on the smallest of functions."""
    try:
        torch.compile(lambda x: x * 2 + 1, backend=backend, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 (no triton, no C++ compiler, a GPU too old: all the same here)
        log.warning("Nothing can be compiled here (%s): drawing without.", type(error).__name__)
        return False
    return True


def _heads(denoiser: torch.nn.Module) -> tuple[int, ...]:
    """The sizes of its attention heads."""
    layers: list[Any] = [
        module for module in denoiser.modules() if hasattr(module, "to_q") and hasattr(module, "heads")
    ]
    return tuple(sorted({layer.to_q.out_features // layer.heads for layer in layers}))


def _dtype(denoiser: Any) -> torch.dtype:
    dtype: torch.dtype = denoiser.dtype
    return dtype
