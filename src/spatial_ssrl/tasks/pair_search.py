"""A uniform draw of a pair of regions, or the proof that no pair will do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks.pairs import Fact, Index, RegionSet, matches, may_match

_DRAWS = (1024, 8192, 65536)  # pairs tried at once, then again
_MOST_BOXES = 1 << 17  # pairs of boxes held at once
_AT_ONCE = 1 << 13  # pairs of boxes split at once where only one pair is looked for

Boxes = tuple[Index, Index]


def draw_pair(
    found: RegionSet, offset: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Draw a pair, uniformly from all whose second region lies at `offset` from the first.

    Args:
        found: Regions to draw from.
        offset: Signs of (right, away), in {-1, 0, 1}; see `pairs.may_match`.
        rng: Source of the draw.

    Returns:
        Indices of the first and the second region.

    Raises:
        SceneRejected: If there is no such pair.
    """
    # Drawing until one will do is uniform over those that do, without listing M * M pairs.
    for count in _DRAWS:
        first, second = rng.integers(len(found), size=(2, count))
        drawn = _first_match(found, offset, first, second)
        if drawn is not None:
            return drawn
    drawn = search_pair(found, offset, rng)
    if drawn is not None:
        return drawn
    if 0 in offset:
        raise SceneRejected(f"no two regions {'beside' if offset[0] else 'behind'} each other")
    raise SceneRejected("no two regions on one of the diagonals")


def search_pair(
    found: RegionSet, offset: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draw a pair like `draw_pair`, for pairs that are rare, or return None: there is none.

    Regions are gathered in boxes of neighbours, and pairs of boxes that can hold no pair are
    dropped; what is left is split into smaller boxes, down to single regions. On the way pairs
    are drawn alike from all that are left, and the first that will do is uniform among those.
    """
    tree = _Tree(found)

    def narrow(level: int, boxes: Boxes) -> Boxes:
        kept = may_match(found, offset, tree.at(level, boxes[0]), tree.at(level, boxes[1]))
        return boxes[0][kept], boxes[1][kept]

    level = tree.height
    top = np.zeros(1, np.int64)
    boxes = narrow(level, (top, top))
    while len(boxes[0]):
        drawn = _first_match(found, offset, *tree.draw(level, boxes, _DRAWS[1], rng))
        if drawn is not None:
            return drawn
        # At level 0 every pair left will do, so that a draw has returned already.
        if len(boxes[0]) > _MOST_BOXES:
            if not _holds_any(tree, level, boxes, narrow):
                return None
            while drawn is None:
                drawn = _first_match(found, offset, *tree.draw(level, boxes, _DRAWS[2], rng))
            return drawn
        boxes = narrow(level - 1, tree.split(level, boxes))
        level -= 1
    return None


def _first_match(
    found: RegionSet, offset: tuple[int, int], first: Index, second: Index
) -> tuple[int, int] | None:
    fitting = matches(found, offset, first, second)
    place = int(fitting.argmax())
    return (int(first[place]), int(second[place])) if fitting[place] else None


def _holds_any(
    tree: _Tree, level: int, boxes: Boxes, narrow: Callable[[int, Boxes], Boxes]
) -> bool:
    """Return whether some pair of boxes holds a pair that will do, looking in depth first."""
    waiting = [(level, boxes)]
    while waiting:
        level, (first, second) = waiting.pop()
        if len(first) > _AT_ONCE:
            half = len(first) // 2
            waiting += [(level, (first[part], second[part])) for part in _halves(half)]
        elif len(first) and level == 0:
            return True
        elif len(first):
            waiting.append((level - 1, narrow(level - 1, tree.split(level, (first, second)))))
    return False


def _halves(half: int) -> tuple[slice, slice]:
    return slice(None, half), slice(half, None)


class _Tree:
    """Regions in nested square boxes; a box of level n is 2**n pixels wide.

    Args:
        found: The regions; no two share a centre.
    """

    def __init__(self, found: RegionSet) -> None:
        self.found = found
        codes = np.zeros(len(found), np.int64)
        bits = int(max(found.rows.max(), found.columns.max())).bit_length()
        for bit in range(bits):  # interleaved, so that the regions of a box follow each other
            codes |= (found.rows >> bit & 1) << (2 * bit + 1) | (
                found.columns >> bit & 1
            ) << 2 * bit
        self.order = np.argsort(codes)
        codes = codes[self.order]
        self.height = bits
        #: First region of each box in that order, and the number of regions at the end.
        self.starts = [np.arange(len(found) + 1)]
        #: First box of the level below in each box, and the number of those boxes.
        self.children = [self.starts[0]]
        for level in range(1, bits + 1):
            below = codes[self.starts[-1][:-1]] >> 2 * level
            first = np.flatnonzero(np.diff(below, prepend=-1))
            self.children.append(np.append(first, len(below)))
            self.starts.append(self.starts[-1][self.children[-1]])
        self._extremes: dict[tuple[int, str], tuple[Fact, Fact]] = {}

    def at(self, level: int, index: Index) -> _Boxes:
        """Return boxes of a level by their indices."""
        return _Boxes(self, level, index)

    def extremes(self, level: int, name: str) -> tuple[Fact, Fact]:
        """Return the least and the greatest value of a fact in every box of a level."""
        if (level, name) not in self._extremes:
            if level == 0:
                fact = self.found.fact(name, self.order)
                both = fact, fact
            else:
                least, most = self.extremes(level - 1, name)
                first = self.children[level][:-1]
                both = np.minimum.reduceat(least, first), np.maximum.reduceat(most, first)
            self._extremes[level, name] = both
        return self._extremes[level, name]

    def split(self, level: int, boxes: Boxes) -> Boxes:
        """Return all pairs of the boxes one level below."""
        first, second = (self.children[level][box] for box in boxes)
        ones, others = (np.diff(self.children[level])[box] for box in boxes)
        counts = ones * others
        parent = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
        one, other = np.divmod(number, others[parent])
        return first[parent] + one, second[parent] + other

    def draw(self, level: int, boxes: Boxes, count: int, rng: np.random.Generator) -> Boxes:
        """Draw pairs of regions, alike from all that pairs of boxes hold, as their indices."""
        starts = self.starts[level]
        sizes = np.diff(starts)
        ends = np.cumsum(sizes[boxes[0]] * sizes[boxes[1]])
        pair = np.searchsorted(ends, rng.integers(ends[-1], size=count), side="right")
        first, second = (
            self.order[starts[box[pair]] + rng.integers(sizes[box[pair]])] for box in boxes
        )
        return first, second


class _Boxes:
    """Some boxes of one level."""

    def __init__(self, tree: _Tree, level: int, index: Index) -> None:
        self._tree, self._level, self._index = tree, level, index

    def least(self, name: str) -> Fact:
        """Return the least value of a fact in each box."""
        return self._tree.extremes(self._level, name)[0][self._index]

    def most(self, name: str) -> Fact:
        """Return the greatest value of a fact in each box."""
        return self._tree.extremes(self._level, name)[1][self._index]
