"""Pairs of regions that lie clearly beside, behind, or diagonally behind each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks import regions
from spatial_ssrl.tasks.markers import marker_radius

# Lengths are fractions of the picture's shorter side, depths are normalised.
_WINDOW = 15 / 480
_VARIATION = 0.15  # largest range of depth inside a region
_CENTRAL = 0.45  # centres lie within this fraction of the size from the picture's centre
_APART = 1 / 8
_FAR_APART = 5 / 16  # 150 of 480 pixels
_LEVEL = 1 / 16  # 30 of 480 pixels
_DEPTH_APART = 0.25
_DEPTH_ALIKE = 0.10
_DRAWS = (1024, 8192, 65536)  # pairs tried at once, then again


@dataclass(frozen=True, slots=True)
class RegionSet:
    """Regions of one picture from which pairs are drawn, M of them.

    Args:
        rows: Row of each centre, shape (M,), pixels.
        columns: Column of each centre, shape (M,), pixels.
        low: Smallest normalised depth inside each region, shape (M,).
        high: Largest normalised depth inside each region, shape (M,).
        depth: Depth at each centre in the scene's unit, shape (M,).
        height: Of the picture, pixels.
        width: Of the picture, pixels.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    low: regions.Depth
    high: regions.Depth
    depth: regions.Depth
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.rows)


def find_regions(depth: regions.Depth) -> RegionSet:
    """Find the regions of steady depth away from the edge of the picture.

    Args:
        depth: Shape (H, W), NaN where unknown.

    Raises:
        SceneRejected: If there are fewer than two, or depth is constant.
    """
    height, width = depth.shape
    found = regions.steady_regions(
        regions.normalise(depth),
        regions.window_side(_WINDOW, height, width),
        _VARIATION,
        margin=marker_radius(height, width),
    )
    kept = np.flatnonzero(
        (np.abs(found.rows - (height - 1) / 2) <= _CENTRAL * height)
        & (np.abs(found.columns - (width - 1) / 2) <= _CENTRAL * width)
    )
    if len(kept) < 2:
        raise SceneRejected("no two regions of steady depth")
    rows, columns = found.rows[kept], found.columns[kept]
    return RegionSet(
        rows, columns, found.low[kept], found.high[kept], depth[rows, columns], height, width
    )


def draw_pair(
    found: RegionSet, offset: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Draw a pair, uniformly from all whose second region lies at `offset` from the first.

    Args:
        found: Regions to draw from.
        offset: Signs of (right, away), in {-1, 0, 1}; see `matches`.
        rng: Source of the draw.

    Returns:
        Indices of the first and the second region.

    Raises:
        SceneRejected: If none of many thousand random pairs will do.
    """
    # Drawing until one will do is uniform over those that do, without listing M * M pairs.
    for count in _DRAWS:
        first, second = rng.integers(len(found), size=(2, count))
        fitting = matches(found, offset, first, second)
        place = int(fitting.argmax())
        if fitting[place]:
            return int(first[place]), int(second[place])
    if 0 in offset:
        raise SceneRejected(f"no two regions {'beside' if offset[0] else 'behind'} each other")
    raise SceneRejected("no two regions on one of the diagonals")


def matches(
    found: RegionSet,
    offset: tuple[int, int],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Return which pairs lie clearly at an offset.

    Args:
        found: The regions.
        offset: Signs of (right, away) from the first to the second region. With (±1, 0) they
            are alike in depth and height and apart sideways; with (0, ±1) apart in depth and
            hardly sideways; with (±1, ±1) apart in both, to the same side in the picture and
            in space.
        first: Indices of first regions, shape (N,).
        second: Indices of second regions, shape (N,).

    Returns:
        Shape (N,), bool.
    """
    right, away = offset
    side = min(found.height, found.width)
    apart = max(_APART * side, 2 * marker_radius(found.height, found.width) + 1)
    across = found.columns[second] - found.columns[first]
    down = found.rows[second] - found.rows[first]
    if away == 0:
        return np.asarray(
            (across * right >= apart)
            & (np.abs(down) < _LEVEL * side)
            & (np.abs(_middle(found, second) - _middle(found, first)) <= _DEPTH_ALIKE)
        )
    behind, before = (second, first) if away > 0 else (first, second)
    fitting = found.low[behind] - found.high[before] >= _DEPTH_APART
    fitting &= across**2 + down**2 >= apart**2
    if right == 0:
        return np.asarray(fitting & (np.abs(across) <= _APART * side))
    # Seen through one lens, what is right in the picture need not be right in space.
    middle = (found.width - 1) / 2
    aside = (found.columns[second] - middle) * found.depth[second]
    aside -= (found.columns[first] - middle) * found.depth[first]
    return np.asarray(fitting & (across * right > _FAR_APART * side) & (aside * right > 0))


def _middle(found: RegionSet, index: npt.NDArray[np.int64]) -> regions.Depth:
    return np.asarray((found.low[index] + found.high[index]) / 2, dtype=np.float32)
