"""Lays lossy caches around a denoiser for one run, and takes them off again whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

_HOOK = "pyramid_attention_broadcast"  # as diffusers/hooks/pyramid_attention_broadcast.py names its hook
_EVERY = 2  # of so many steps one computes its attentions
_BETWEEN = (100, 800)  # of 1000 timesteps: the first steps decide on the layout, the last ones on details


@contextmanager
def shortcuts(denoiser: torch.nn.Module, names: Sequence[str]) -> Iterator[None]:
    """For one run of a pipeline, from its first step to its last: what they remember is of that run alone."""
    with ExitStack() as laid:
        for name in names:
            laid.enter_context(_WAYS[name](denoiser))
        yield


@contextmanager
def _broadcast_attention(denoiser: torch.nn.Module) -> Iterator[None]:
    """Pyramid Attention Broadcast (https://arxiv.org/abs/2408.12588), by diffusers' hook, which wraps `forward` of each
    attention; names of modules and parameters stay. It wants to know the timestep, which the denoiser is called with.
    """
    now = [0.0]

    def heard(module: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        timestep = options["timestep"] if "timestep" in options else args[1]
        now[0] = float(torch.as_tensor(timestep).flatten()[0])

    before = [(one, "_diffusers_hook" in vars(one), "forward" in vars(one)) for one in denoiser.modules()]
    listening = denoiser.register_forward_pre_hook(heard, with_kwargs=True)
    try:
        apply_pyramid_attention_broadcast(
            denoiser,
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=_EVERY, cross_attention_block_skip_range=_EVERY,
                spatial_attention_timestep_skip_range=_BETWEEN, cross_attention_timestep_skip_range=_BETWEEN,
                current_timestep_callback=lambda: now[0],
            ),
        )  # fmt: skip
        yield
    finally:
        listening.remove()
        for module, had_hooks, had_forward in before:
            hooks = vars(module).get("_diffusers_hook")
            if hooks is None or hooks.get_hook(_HOOK) is None:
                continue
            hooks.remove_hook(_HOOK, recurse=False)
            if not had_hooks:
                del module._diffusers_hook
            if not had_forward:
                del module.forward  # what diffusers puts back is the class's own, bound


_WAYS: dict[str, Callable[[torch.nn.Module], AbstractContextManager[None]]] = {"pab": _broadcast_attention}
