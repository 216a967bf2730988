"""Keep total strength: how a blend's weights are scaled so that together they count as much as asked."""

from __future__ import annotations

from collections.abc import Iterable


def factor_for(weights: Iterable[float], total: float | None) -> float:
    """What every weight is multiplied by so that their magnitudes sum to `total`; 1 where nothing is to be kept."""
    together = sum(map(abs, weights))
    return 1.0 if total is None or not together else total / together
