"""When a LoRA counts: the steps of a run that lie between its start and its end."""

from __future__ import annotations

from collections.abc import Iterable


def on_at(start: float, end: float, step: int, steps: int) -> bool:
    """Whether step number `step`, from 0, of `steps` lies in the window: start <= step / steps < end.

    So an end of 1 takes the last step in, and windows that meet share no step.
    """
    return start <= step / steps < end


def steps_on(start: float, end: float, steps: int) -> range:
    """The numbers, from 0, of the steps in the window; there may be none where it is narrower than a step."""
    held = [step for step in range(steps) if on_at(start, end, step, steps)]
    return range(held[0], held[-1] + 1) if held else range(0)


def switches(windows: Iterable[tuple[float, float]], steps: int) -> dict[int, tuple[bool, ...]]:
    """Which of the windows hold, by step: at step 0, and at every step where that changes."""
    windows = tuple(windows)
    found: dict[int, tuple[bool, ...]] = {}
    now = None
    for step in range(steps):
        held = tuple(on_at(start, end, step, steps) for start, end in windows)
        if held != now:
            found[step] = now = held
    return found
