"""Answers found in the pixels alone, by other ways than those that made the questions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.optimize import linear_sum_assignment

Pixels = npt.NDArray[np.uint8]


def cells(image: Pixels, rows: int, columns: int) -> list[npt.NDArray[np.float32]]:
    """Return the cells of a grid in reading order; what fills no cell is left out."""
    height, width = image.shape[0] // rows, image.shape[1] // columns
    return [
        image[r * height : (r + 1) * height, c * width : (c + 1) * width].astype(np.float32)
        for r in range(rows)
        for c in range(columns)
    ]


def bare(cell: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the pixels that neither a border nor an index covers, (n, 3)."""
    height, width = cell.shape[:2]
    edge = 2 + min(height, width) // 20
    kept = np.zeros((height, width), bool)
    kept[edge : height - edge, edge : width - edge] = True
    kept[: max(height // 2, 14), : max(width // 2, 16)] = False
    return cell[kept]


def solve_shuffled(images: tuple[Pixels, ...], source: Pixels, rows: int, columns: int) -> str:
    """Match the patches to the places they are most alike; white ones take what is left."""
    shown = cells(images[0], rows, columns)
    if len(images) > 1:
        shown = [image.astype(np.float32) for image in images]
    places = cells(source, rows, columns)
    cost = np.array([[np.abs(bare(a) - bare(b)).mean() for b in places] for a in shown])
    for index, patch in enumerate(shown):
        if (bare(patch) == 255).all():
            cost[index] = 0
    patch_at_place = linear_sum_assignment(cost.T)[1]
    return ",".join(map(str, patch_at_place))


def solve_flipped(image: Pixels, source: Pixels, rows: int, columns: int) -> str:
    """Find the cell that is most like a mirror image of what stood there."""
    best = (0.0, "")
    pairs = zip(cells(image, rows, columns), cells(source, rows, columns), strict=True)
    for index, (now, before) in enumerate(pairs):
        unlike = np.abs(bare(now) - bare(before)).mean()
        for axis, flipped in (("horizontal", before[:, ::-1]), ("vertical", before[::-1])):
            gain = float(unlike - np.abs(bare(now) - bare(flipped)).mean())
            best = max(best, (gain, f"{index},{axis}"))
    return best[1]


def solve_inpainting(images: tuple[Pixels, ...], source: Pixels) -> str:
    """Locate every candidate in the source; the answer lies at the hole and fits best there."""
    rows, columns = np.nonzero((images[0] != source).any(axis=-1))
    found = [locate(candidate, source) for candidate in images[1:]]
    errors = [
        error if max(abs(top - rows.min()), abs(left - columns.min())) <= 3 else np.inf
        for top, left, error in found
    ]
    return "ABCD"[int(np.argmin(errors))]


def locate(patch: Pixels, source: Pixels) -> tuple[int, int, float]:
    """Find the place of least squared error of a patch among all places, by Fourier transform.

    Returns:
        Top row, left column, and mean squared error there.
    """
    inner = patch.astype(np.float64) - 128
    outer = source.astype(np.float64) - 128
    side_y, side_x = patch.shape[:2]
    shape = tuple(int(fft.next_fast_len(size, real=True)) for size in source.shape[:2])
    spectrum = fft.rfft2(outer, shape, axes=(0, 1)) * fft.rfft2(inner, shape, axes=(0, 1)).conj()
    matches = fft.irfft2(spectrum.sum(axis=2), shape, axes=(0, 1))
    sums = np.pad((outer**2).sum(axis=2), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    energy = sums[side_y:, side_x:] - sums[:-side_y, side_x:]
    energy += sums[:-side_y, :-side_x] - sums[side_y:, :-side_x]
    error = energy - 2 * matches[: energy.shape[0], : energy.shape[1]] + (inner**2).sum()
    top, left = np.unravel_index(np.argmin(error), error.shape)
    return int(top), int(left), float(error[top, left]) / patch.size
