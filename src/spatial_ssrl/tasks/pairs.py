"""Pairs of regions that lie clearly beside, behind, or diagonally behind each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks import regions
from spatial_ssrl.tasks.markers import marker_radius

Index = npt.NDArray[np.int64]
Fact = npt.NDArray[Any]  # integers for places, floats for depths

# Lengths are fractions of the picture's shorter side, depths are normalised.
_WINDOW = 15 / 480
_VARIATION = 0.15  # largest range of depth inside a region
_CENTRAL = 0.45  # centres lie within this fraction of the size from the picture's centre
_APART = 1 / 8
_FAR_APART = 5 / 16  # 150 of 480 pixels
_LEVEL = 1 / 16  # 30 of 480 pixels
_DEPTH_APART = 0.25
_DEPTH_ALIKE = 0.10


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
        noise: Share of a depth by which it may be off.
        focal: Focal length in pixels, or None when nothing is known of the lens.
    """

    rows: Index
    columns: Index
    low: regions.Depth
    high: regions.Depth
    depth: regions.Depth
    height: int
    width: int
    noise: float = 0.0
    focal: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def fact(self, name: str, index: Index | slice) -> Fact:
        """Return a fact of some regions, shape (N,).

        "row" and "column" are pixels; "low", "high" and "middle" normalised depths. The others
        are depths in the scene's unit: "leftmost" and "rightmost" how far aside of the viewing
        axis a region lies, noise taken off and added, times the focal length; "right_near"
        and "right_far" how far a region lies along the two diagonals seen from above.
        """
        if name in ("row", "column"):
            return (self.rows if name == "row" else self.columns)[index]
        if name in ("low", "high"):
            return (self.low if name == "low" else self.high)[index]
        if name == "middle":
            return np.asarray((self.low[index] + self.high[index]) / 2, dtype=np.float32)
        depth = self.depth[index]
        aside = (self.columns[index] - (self.width - 1) / 2) * depth
        if name in ("leftmost", "rightmost"):
            sign = -1 if name == "leftmost" else 1
            return np.asarray(aside + sign * self.noise * np.abs(aside))
        aside /= self.focal or 1.0  # without a lens nobody asks for these
        return np.asarray(aside - depth if name == "right_near" else aside + depth)


class Group(Protocol):
    """Regions, or boxes that hold several each, N of them."""

    def least(self, name: str) -> Fact:
        """Return the least value of a fact in each, shape (N,)."""

    def most(self, name: str) -> Fact:
        """Return the greatest value of a fact in each, shape (N,)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Single regions, by their indices: the least of a fact is also the greatest."""

    found: RegionSet
    index: Index

    def least(self, name: str) -> Fact:
        """Return a fact of each region, shape (N,)."""
        return self.found.fact(name, self.index)

    most = least


def find_regions(
    depth: regions.Depth, noise: float = 0.0, field_of_view: float | None = None
) -> RegionSet:
    """Find the regions of steady depth away from the edge of the picture.

    Args:
        depth: Shape (H, W), NaN where unknown.
        noise: Share of a depth by which it may be off.
        field_of_view: Of the longer side, degrees, or None when nothing is known of the lens.

    Raises:
        SceneRejected: If there are fewer than two, depth is constant, or regions that count as
            apart in depth could be so by noise.
    """
    height, width = depth.shape
    near, far = regions.depth_range(depth)
    if _DEPTH_APART * (far - near) < 2 * noise * far:
        raise SceneRejected("depths too close for the sensor's noise")
    found = regions.steady_regions(
        regions.normalise(depth, near, far),
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
    focal = None
    if field_of_view is not None:
        focal = max(height, width) / 2 / math.tan(math.radians(field_of_view) / 2)
    return RegionSet(
        rows, columns, found.low[kept], found.high[kept], depth[rows, columns], height, width,
        noise, focal,
    )  # fmt: skip


def matches(
    found: RegionSet, offset: tuple[int, int], first: Index, second: Index
) -> npt.NDArray[np.bool_]:
    """Return which pairs of regions lie clearly at an offset; see `may_match`.

    Args:
        found: The regions.
        offset: Signs of (right, away) from the first to the second region.
        first: Indices of first regions, shape (N,).
        second: Indices of second regions, shape (N,).

    Returns:
        Shape (N,), bool.
    """
    return may_match(found, offset, Chosen(found, first), Chosen(found, second))


def may_match(
    found: RegionSet, offset: tuple[int, int], first: Group, second: Group
) -> npt.NDArray[np.bool_]:
    """Return which pairs of boxes may hold regions that lie clearly at an offset.

    Exact when every box holds one region. With (±1, 0) two regions are alike in depth and height
    and apart sideways; with (0, ±1) apart in depth and hardly sideways; with (±1, ±1) apart in
    both, to the same side in the picture and in space, whatever the noise. When the lens is
    known, the sideways distance in space is larger than that in depth with (±1, 0), and smaller
    with (0, ±1).

    Args:
        found: The regions, for their picture.
        offset: Signs of (right, away), in {-1, 0, 1}, from the first to the second region.
        first: Boxes of first regions, N of them.
        second: Boxes of second regions, N of them.

    Returns:
        Shape (N,), bool. False means that no pair of the two boxes will do.
    """
    right, away = offset
    side = min(found.height, found.width)
    apart = max(_APART * side, 2 * marker_radius(found.height, found.width) + 1)
    if (away or right) < 0:  # turned round, the second lies behind, or else to the right
        first, second, right = second, first, -right
    if away == 0:
        fits = _most_gain(first, second, "column") >= apart
        fits &= _least_change(first, second, "row") < _LEVEL * side
        fits &= _least_change(first, second, "middle") <= _DEPTH_ALIKE
        if found.focal is not None:
            fits &= _most_gain(first, second, "right_near") > 0
            fits &= _most_gain(first, second, "right_far") > 0
        return np.asarray(fits)
    fits = second.most("low") - first.least("high") >= _DEPTH_APART
    across = _most_change(first, second, "column")
    fits &= across**2 + _most_change(first, second, "row") ** 2 >= apart**2
    if right == 0:
        fits &= _least_change(first, second, "column") <= _APART * side
        if found.focal is not None:
            fits &= _most_gain(second, first, "right_near") > 0
            fits &= _most_gain(first, second, "right_far") > 0
        return np.asarray(fits)
    left_one, right_one = (first, second) if right > 0 else (second, first)
    fits &= _most_gain(left_one, right_one, "column") > _FAR_APART * side
    # Seen through one lens, what is right in the picture need not be right in space.
    fits &= right_one.most("leftmost") > left_one.least("rightmost")
    return np.asarray(fits)


def _most_gain(first: Group, second: Group, name: str) -> Fact:
    """Return by how much a fact may at most be larger in the second."""
    return np.asarray(second.most(name) - first.least(name))


def _most_change(first: Group, second: Group, name: str) -> Fact:
    """Return by how much a fact may at most differ."""
    return np.asarray(np.maximum(_most_gain(first, second, name), _most_gain(second, first, name)))


def _least_change(first: Group, second: Group, name: str) -> Fact:
    """Return by how much a fact differs at least, 0 or less when it may be equal."""
    return np.asarray(
        np.maximum(_least_gain(first, second, name), _least_gain(second, first, name))
    )


def _least_gain(first: Group, second: Group, name: str) -> Fact:
    return np.asarray(second.least(name) - first.most(name))
