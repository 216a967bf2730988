"""Course: one run's blend over its steps, rewritten only at those where something changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from core.lora.blend import Blender, Ingredient
from core.lora.schedule import switches
from core.messages import Receipt


class Course:
    """`windows` are the start and end of each part (core/lora/schedule.py). Made, it has written the first blend.

    `receipts` count what a part matches, whenever it counts. Raises what `Blender.apply` raises.
    """

    def __init__(
        self,
        blender: Blender,
        parts: Sequence[Ingredient],
        windows: Sequence[tuple[float, float]],
        steps: int,
        allow_partial: bool,
    ) -> None:
        self._blender, self._parts, self._allow_partial = blender, parts, allow_partial
        self._windows = tuple(windows)
        self._switches = switches(windows, steps)
        self._now = self._switches[0]
        self.receipts = self._blended(self._now)

    def begin(self, steps: int) -> None:
        """A pass of so many steps begins: windows are shares of each pass's own."""
        self._switches = switches(self._windows, steps)
        self.before(0)

    def before(self, step: int) -> None:
        """Moves the weights to the blend of a step, counted from 0, if it is another than that of the step before."""
        held = self._switches.get(step, self._now)
        if held != self._now:
            self._blended(held)
            self._now = held

    @torch.inference_mode(False)  # pristine copies outlive the run: none may be an inference tensor
    def _blended(self, held: tuple[bool, ...]) -> tuple[Receipt, ...]:
        """Outside its window a part's denoiser layers count nothing; text encoders have read the words by then."""
        parts = [part if holds else replace(part, weight=0.0) for part, holds in zip(self._parts, held, strict=True)]
        return self._blender.apply(parts, allow_partial=self._allow_partial)
