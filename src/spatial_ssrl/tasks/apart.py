"""An exact uniform draw of places that keep apart, one from each of several groups."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def draw_apart(
    groups: Sequence[Places], distance: int, rng: np.random.Generator
) -> npt.NDArray[np.int64] | None:
    """Draw one place of each group, uniformly from all sets that keep a distance.

    A set is built place by place, each drawn in proportion to an upper bound on the sets that
    go on from it, and given up with the probability that the bound was too high. Bounds are
    made tighter on the way, so that the search ends: with a set, or with the proof that there
    is none.

    Args:
        groups: Places to draw from, each (row, column) in pixels, shape (n_i, 2).
        distance: Least distance of any two places drawn, pixels.
        rng: Source of the draw.

    Returns:
        One place of each group in their order, shape (k, 2), or None when no set exists.
    """
    # The smallest group first: its places are the ones that are looked at one by one.
    order = sorted(range(len(groups)), key=lambda index: len(groups[index]))
    root = _Branch([groups[index] for index in order], distance)
    while root.total > 0:
        drawn = root.draw(rng)
        if drawn is not None:
            chosen = np.empty((len(groups), 2), np.int64)
            chosen[order] = drawn
            return chosen
    return None


def count_apart(places: Places, others: Places, distance: int) -> npt.NDArray[np.int64]:
    """Count, for each place, the other places that lie at least a distance from it.

    Args:
        places: (row, column) in pixels, shape (n, 2).
        others: The same, shape (m, 2), no place twice.
        distance: In pixels.

    Returns:
        Shape (n,), int64.
    """
    if not len(others):
        return np.zeros(len(places), np.int64)
    top, left = others.min(axis=0)
    rows, columns = others.max(axis=0) - (top, left) + 1
    summed = np.zeros((rows, columns + 1), np.int64)
    summed[others[:, 0] - top, others[:, 1] - left + 1] = 1
    np.cumsum(summed, axis=1, out=summed)
    within = np.zeros(len(places), np.int64)
    for down in range(1 - distance, distance):
        half = isqrt(distance**2 - down**2 - 1)  # the widest offset that is still too close
        line = places[:, 0] + (down - top)
        start = np.clip(places[:, 1] - (half + left), 0, columns)
        stop = np.clip(places[:, 1] + (half + 1 - left), 0, columns)
        inside = (line >= 0) & (line < rows)
        line = np.where(inside, line, 0)
        within += np.where(inside, summed[line, stop] - summed[line, start], 0)
    return len(others) - within


class _Branch:
    """The sets that begin with some places already drawn.

    Args:
        groups: What may still be drawn, already apart from what was, at least one group.
        distance: Least distance of any two places drawn, pixels.
    """

    def __init__(self, groups: Sequence[Places], distance: int) -> None:
        self.groups = groups
        self.distance = distance
        first, *others = groups
        # Bound on the sets that go on from each place: as if the others did not see each other.
        self.bounds = np.ones(len(first))
        for other in others:
            self.bounds *= count_apart(first, other, distance)
        self.total = float(self.bounds.sum())
        self._branches: dict[int, _Branch] = {}

    def draw(self, rng: np.random.Generator) -> list[Places] | None:
        """Draw a set, or None when the bound was too high this time."""
        ends = np.cumsum(self.bounds)
        index = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
        # Rounding may step past the last place that leaves anything.
        index = min(index, int(np.flatnonzero(self.bounds)[-1]))
        place = self.groups[0][index]
        if len(self.groups) == 1:
            return [place]
        branch = self._branches.get(index) or self._enter(index)
        bound, known = float(self.bounds[index]), branch.total
        rest = branch.draw(rng) if rng.random() * bound < known else None
        self.bounds[index] = branch.total
        self.total = float(self.bounds.sum())
        return None if rest is None else [place, *rest]

    def _enter(self, index: int) -> _Branch:
        place = self.groups[0][index]
        far = [
            group[((group - place) ** 2).sum(axis=1) >= self.distance**2]
            for group in self.groups[1:]
        ]
        self._branches[index] = branch = _Branch(far, self.distance)
        return branch
