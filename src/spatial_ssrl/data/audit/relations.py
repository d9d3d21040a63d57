"""How candidate patches relate to one another: who is part of whom, turned by how much.

The right patch betrays itself when every wrong one is made from it: of a patch and its two
turns it is the one a quarter turn from both, of three zooms the one in the middle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.data.audit.candidates import (
    Embedding,
    Pixels,
    TimmEmbedding,
    Vector,
    appearance,
    shrunk,
)

Grey = npt.NDArray[np.float32]

_SIDE = 32
_SHARES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1)  # of a candidate that another may fill
_LEAST_OVERLAP = 0.3  # of the area of two neighbours


def relations(candidates: list[Pixels]) -> Vector:
    """Describe each candidate by its likeness to the others.

    Likeness is the correlation of grey values where two fit best, in [-1, 1]: one shrunk to
    six sizes, turned four ways and laid anywhere in the other; or the two shifted so that they
    overlap in part, as neighbouring crops do.

    Args:
        candidates: At least two, each (h, w, 3) uint8.

    Returns:
        Shape (A, 102), float32: for six sizes and four turns the best likeness as the
        surroundings and as the part (48), the second best (48), and the mean, largest and
        smallest likeness and overlap as a neighbour (6).
    """
    grey = np.stack([shrunk(candidate, _SIDE).mean(axis=2) for candidate in candidates])
    count = len(grey)
    parts = _part_likeness(grey)  # (surroundings, part, size, turn)
    itself = np.eye(count, dtype=bool)
    around = np.where(itself[:, :, None, None], -1.0, parts)
    within = around.swapaxes(0, 1)
    both = np.concatenate([around.reshape(count, count, -1), within.reshape(count, count, -1)], -1)
    ranked = -np.sort(-both, axis=1)
    second = ranked[:, min(1, count - 2)]
    likeness, overlap = _neighbour_likeness(grey)
    others = ~itself
    neighbours = np.stack(
        [
            summary(table[place][others[place]])
            for table in (likeness, overlap)
            for summary in (np.mean, np.max, np.min)
            for place in range(count)
        ]
    ).reshape(6, count)
    return np.concatenate([ranked[:, 0], second, neighbours.T], axis=1).astype(np.float32)


def _part_likeness(grey: Grey) -> Grey:
    """Return the best correlation of each candidate with a part of each, (A, A, sizes, 4)."""
    count = len(grey)
    table = np.zeros((count, count, len(_SHARES), 4), dtype=np.float32)
    extent = (2 * _SIDE, 2 * _SIDE)
    spectra = np.fft.rfft2(grey, extent)
    for number, share in enumerate(_SHARES):
        side = round(_SIDE * share)
        small = np.stack([_resized(one, side) for one in grey])
        small -= small.mean(axis=(1, 2), keepdims=True)
        small /= np.sqrt((small**2).sum(axis=(1, 2), keepdims=True)) + 1e-3
        turned = np.stack([np.rot90(small, turn, axes=(1, 2)) for turn in range(4)], axis=1)
        spread = np.stack([_window_spread(one, side) for one in grey])
        products = spectra[:, None, None] * np.conj(np.fft.rfft2(turned, extent))[None]
        places = _SIDE - side + 1
        match = np.fft.irfft2(products, extent)[..., :places, :places]
        table[:, :, number] = (match / spread[:, None, None]).max(axis=(-2, -1))
    return table


def _window_spread(grey: Grey, side: int) -> Grey:
    """Return the root of the summed squared deviations in each window, (places, places)."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (side, side))
    return np.asarray(windows.std(axis=(-2, -1)) * side + 1e-2)


def _neighbour_likeness(grey: Grey) -> tuple[Grey, Grey]:
    """Return the best correlation of overlapping areas and the overlap there, each (A, A)."""
    count, extent = len(grey), (2 * _SIDE, 2 * _SIDE)
    ones = np.ones((_SIDE, _SIDE), dtype=np.float32)
    flat, first, square = (np.fft.rfft2(part, extent) for part in (ones, grey, grey**2))

    def correlate(one: npt.NDArray[np.complexfloating], other: npt.ArrayLike) -> Grey:
        return np.asarray(np.fft.irfft2(one * np.conj(other), extent))

    area = np.maximum(correlate(flat, flat), 1.0)
    allowed = area >= _LEAST_OVERLAP * _SIDE**2
    likeness, overlap = np.zeros((2, count, count), dtype=np.float32)
    for i in range(count):
        for j in range(i + 1, count):
            mean_i, mean_j = correlate(first[i], flat) / area, correlate(flat, first[j]) / area
            spread_i = correlate(square[i], flat) / area - mean_i**2
            spread_j = correlate(flat, square[j]) / area - mean_j**2
            shared = correlate(first[i], first[j]) / area - mean_i * mean_j
            fit = shared / np.sqrt(np.maximum(spread_i * spread_j, 1e-6))
            best = np.unravel_index(np.argmax(np.where(allowed, fit, -2)), fit.shape)
            likeness[i, j] = likeness[j, i] = fit[best]
            overlap[i, j] = overlap[j, i] = area[best] / _SIDE**2
    return likeness, overlap


def _resized(grey: Grey, side: int) -> Grey:
    picture = Image.fromarray(grey).resize((side, side), Image.Resampling.BOX)
    return np.array(picture, dtype=np.float32)


def appearance_and_relations(candidates: list[Pixels]) -> Vector:
    """Describe each candidate by itself and by its likeness to the others, shape (A, D)."""
    return np.concatenate([appearance(candidates), relations(candidates)], axis=1)


def feature_sets(model: str | None = None) -> dict[str, Embedding]:
    """Return what a guesser may be told of candidates, by name.

    Args:
        model: Name of a timm model whose features are one more set.

    Raises:
        ConfigError: If timm has no such model or its weights cannot be had.
    """
    sets: dict[str, Embedding] = {
        "candidates": appearance,
        "candidates and their relations": appearance_and_relations,
    }
    if model is not None:
        sets[f"candidates, {model}"] = TimmEmbedding(model)
    return sets
