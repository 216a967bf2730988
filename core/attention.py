"""Attention kernels: the first of torch's that computes a model's attention on its device, found by running each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """`backend` is the only one that torch may take; `implementation` is what is put behind it first, if anything."""

    name: str
    backend: SDPBackend
    implementation: str | None = None


FA3 = Kernel("FlashAttention-3", SDPBackend.FLASH_ATTENTION, "FA3")
CUDNN = Kernel("cuDNN", SDPBackend.CUDNN_ATTENTION)
FLASH = Kernel("flash", SDPBackend.FLASH_ATTENTION)
EFFICIENT = Kernel("memory-efficient", SDPBackend.EFFICIENT_ATTENTION)
MATH = Kernel("math", SDPBackend.MATH)
PREFERRED = (FA3, CUDNN, FLASH, EFFICIENT, MATH)


def working_kernel(
    heads: Sequence[int], dtype: torch.dtype, device: str, preferred: Sequence[Kernel] = PREFERRED
) -> Kernel | None:
    """The first that computes attention for each of these head sizes; None leaves every choice to torch."""
    return next((kernel for kernel in preferred if _works(kernel, heads, dtype, device)), None)


@contextmanager
def only(kernel: Kernel | None) -> Iterator[None]:
    """Attention by this kernel; by others in their order where it cannot compute one, as a VAE's wide head."""
    if kernel is None:
        yield
        return
    # Only those after it: on a CPU torch takes no notice of their order.
    later = [other.backend for other in PREFERRED[PREFERRED.index(kernel) + 1 :]]
    behind = [backend for backend in later if backend is not kernel.backend]
    with _implemented(kernel), sdpa_kernel([kernel.backend, *behind], set_priority=True):
        yield


def _works(kernel: Kernel, heads: Sequence[int], dtype: torch.dtype, device: str) -> bool:
    try:
        with torch.inference_mode(), _implemented(kernel), sdpa_kernel(kernel.backend):
            for head in heads:
                tensor = torch.ones(1, 2, 64, head, dtype=dtype, device=device)
                if not torch.isfinite(torch.nn.functional.scaled_dot_product_attention(tensor, tensor, tensor)).all():
                    return False
    except Exception as error:  # noqa: BLE001 (whatever keeps it from working, another one is tried)
        log.info("No attention by %s here: %s", kernel.name, type(error).__name__)
        return False
    return True


@contextmanager
def _implemented(kernel: Kernel) -> Iterator[None]:
    if kernel.implementation is None:
        yield
        return
    from torch.nn import attention

    attention.activate_flash_attention_impl(kernel.implementation)
    try:
        yield
    finally:
        attention.restore_flash_attention_impl()
