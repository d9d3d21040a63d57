"""Square crops of a picture, all sampled alike; pure functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_TRIES = 512  # sets of places drawn at once
_BATCHES = 4


def sample(
    source: Image.Image, top: int, left: int, side: int, extent: float, points: int
) -> Pixels:
    """Sample a square with the centre of a hole onto a coarse grid.

    Args:
        source: The picture, RGB.
        top: First row of the hole, in pixels.
        left: First column of the hole, in pixels.
        side: Side of the hole, in pixels.
        extent: Side of the square relative to the hole. A square that reaches over the edge
            is shifted inward.
        points: Side of the grid, in samples.

    Returns:
        Shape (points, points, 3), uint8.
    """
    shown = extent * side
    x = min(max(left + (side - shown) / 2, 0), source.width - shown)
    y = min(max(top + (side - shown) / 2, 0), source.height - shown)
    box = (x, y, x + shown, y + shown)
    return np.asarray(source.resize((points, points), Image.Resampling.BICUBIC, box=box))


def enlarge(patch: Pixels, side: int) -> Pixels:
    """Enlarge a square, (g, g, 3), to (side, side, 3)."""
    picture = Image.fromarray(np.ascontiguousarray(patch))
    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC))


def apart(
    shape: tuple[int, int], side: int, shift: float, count: int, rng: np.random.Generator
) -> npt.NDArray[np.int64] | None:
    """Draw places of squares, exchangeable and each two of them shifted well apart.

    All places of a set are drawn alike and the set is kept or dropped as a whole, so nothing
    sets one of them apart from the others.

    Args:
        shape: Height and width of the picture, in pixels.
        side: Side of a square, in pixels.
        shift: Least distance of two squares along rows or columns, relative to `side`.
        count: Number of squares.
        rng: Source of every draw.

    Returns:
        Top rows and left columns, shape (count, 2); None when no set was found.
    """
    first, second = np.triu_indices(count, k=1)
    ends = (shape[0] - side + 1, shape[1] - side + 1)
    for _ in range(_BATCHES):
        places = rng.integers(ends, size=(_TRIES, count, 2))
        distance = np.abs(places[:, first] - places[:, second]).max(axis=2).min(axis=1)
        found = int(np.argmax(distance >= shift * side))
        if distance[found] >= shift * side:
            kept: npt.NDArray[np.int64] = places[found]
            return kept
    return None
