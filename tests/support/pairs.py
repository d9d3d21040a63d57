"""Pairs of regions by the rule in plain words, and regions to try it on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spatial_ssrl.tasks.pairs import RegionSet

OFFSETS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
SETTINGS: list[dict[str, float]] = [
    {},
    {"noise": 0.05},
    {"focal": 55.4},
    {"noise": 0.02, "focal": 90.0},
]


def scattered(seed: int, count: int = 45, **settings: Any) -> RegionSet:
    """Regions at random places, with depths in a few clusters."""
    rng = np.random.default_rng(seed)
    height, width = (64, 64) if seed % 2 else (48, 96)
    places = rng.choice(height * width, size=count, replace=False)
    depth = rng.choice([1.0, 1.2, 3.0, 5.0], size=count) * rng.uniform(0.97, 1.03, count)
    middle = (depth - 0.9) / 4.4
    spread = rng.uniform(0, 0.06, count)
    return RegionSet(
        rows=places // width,
        columns=places % width,
        low=(middle - spread).astype(np.float32),
        high=(middle + spread).astype(np.float32),
        depth=depth.astype(np.float32),
        height=height,
        width=width,
        **settings,
    )


def plain_match(found: RegionSet, offset: tuple[int, int], i: int, j: int, radius: int = 6) -> bool:
    """The rule in plain words, for one pair, with points in space where it speaks of space."""
    right, away = offset
    side = min(found.height, found.width)
    dx = int(found.columns[j]) - int(found.columns[i])
    dy = int(found.rows[j]) - int(found.rows[i])
    apart = max(side / 8, 2 * radius + 1)
    middles = [(float(found.low[k]) + float(found.high[k])) / 2 for k in (i, j)]
    aside = [
        (int(found.columns[k]) - (found.width - 1) / 2) * float(found.depth[k]) for k in (i, j)
    ]
    if found.focal is None:
        longer_aside = longer_away = True
    else:
        sideways = abs(aside[1] - aside[0]) / found.focal
        forward = abs(float(found.depth[j]) - float(found.depth[i]))
        longer_aside, longer_away = sideways > forward, forward > sideways
        if away == 0 and (aside[1] - aside[0]) * right <= 0:
            return False
    if away == 0:
        alike = abs(dy) < side / 16 and abs(middles[1] - middles[0]) <= 0.10
        return dx * right >= apart and alike and longer_aside
    gap = found.low[j] - found.high[i] if away > 0 else found.low[i] - found.high[j]
    if gap < 0.25 or np.hypot(dx, dy) < apart:
        return False
    if right == 0:
        return abs(dx) <= side / 8 and longer_away
    # The nearest the two can come sideways when both depths are off by the noise.
    left, right_one = (aside[0], aside[1]) if right > 0 else (aside[1], aside[0])
    least = right_one - abs(right_one) * found.noise - left - abs(left) * found.noise
    return dx * right > side * 5 / 16 and least > 0


def all_pairs(found: RegionSet) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the indices of all first and all second regions."""
    return tuple(grid.ravel() for grid in np.meshgrid(*[np.arange(len(found))] * 2, indexing="ij"))
