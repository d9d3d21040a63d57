"""Pairs of two recordings that were made at nearly the same time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatial_ssrl.core.errors import ConfigError


def check_tolerance(tolerance: float) -> None:
    """Check the largest difference in time allowed.

    Raises:
        ConfigError: If it is below 0.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must be 0 seconds or more, got {tolerance}.")


def nearest_pairs(
    first: Sequence[float], second: Sequence[float], tolerance: float
) -> list[tuple[int, int]]:
    """Return which times belong together, the nearest pairs first served, each time used once.

    Args:
        first: Times, in seconds, in any order.
        second: Times, in seconds, in any order.
        tolerance: Largest difference within a pair, in seconds.

    Returns:
        Pairs of positions in `first` and `second`, sorted.
    """
    order = np.argsort(np.asarray(second, np.float64), kind="stable")
    ordered = np.asarray(second, np.float64)[order]
    candidates = []
    for one, time in enumerate(first):
        start = np.searchsorted(ordered, time - tolerance, "left")
        end = np.searchsorted(ordered, time + tolerance, "right")
        candidates += [
            (abs(float(ordered[place]) - time), one, int(order[place]))
            for place in range(int(start), int(end))
        ]
    pairs: dict[int, int] = {}
    used: set[int] = set()
    for _, one, other in sorted(candidates):
        if one not in pairs and other not in used:
            pairs[one] = other
            used.add(other)
    return sorted(pairs.items())
