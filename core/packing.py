"""bitsandbytes, imported without torch's compiler, which it would load at once for functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch


def import_packing() -> None:
    """Before diffusers, which imports bitsandbytes whatever is drawn: 2 of the 10 seconds to a first picture."""
    at_once = torch.compile
    torch.compile = _at_first_call(at_once)
    try:
        with suppress(ImportError):
            import bitsandbytes  # noqa: F401
    finally:
        torch.compile = at_once


def _at_first_call(compiler: Any) -> Any:
    def compiled_later(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return lambda given: compiled_later(given, **options)
        compiled: list[Callable[..., Any]] = []

        def run(*inputs: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(compiler(function, **options))
            return compiled[0](*inputs, **named)

        return run

    return compiled_later
