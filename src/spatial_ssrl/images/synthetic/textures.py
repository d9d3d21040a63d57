"""Painted surfaces: patterns over texture coordinates, blurred to the size of a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images.synthetic.camera import Array

Colour = tuple[float, float, float]
Pattern = Callable[[Array, Array, Array, float], tuple[Array, "Array | float"]]

_SIDE = 256  # Noise table side; a power of two, so that wrapping is a bit mask.
_LEVELS = 4


@dataclass(frozen=True, slots=True)
class Material:
    """How a surface is painted.

    Args:
        pattern: Name of a pattern, a key of `PATTERNS`.
        first: Main colour, red, green and blue in [0, 1].
        second: The other colour of the pattern.
        period: Length after which the pattern repeats, in metres.
        turn: Angle of the pattern on the surface, in radians.
        shift: Offset that decides the pattern's phase and its random cells.
        grain: Strength of the fine irregular shading, in [0, 1].
    """

    pattern: str
    first: Colour
    second: Colour
    period: float
    turn: float = 0.0
    shift: float = 0.0
    grain: float = 0.1


def paint(material: Material, a: Array, b: Array, footprint: Array) -> Array:
    """Return the colour of surface points before any light falls on them.

    Args:
        material: What the surface is painted with.
        a: First texture coordinate, shape (N,), in metres.
        b: Second texture coordinate, shape (N,), in metres.
        footprint: Length of surface that one pixel covers, shape (N,), in metres.

    Returns:
        Colours, shape (N, 3), float32, about [0, 1].
    """
    scale = 1.0 / material.period
    cos, sin = math.cos(material.turn) * scale, math.sin(material.turn) * scale
    u = a * cos - b * sin + material.shift
    v = a * sin + b * cos + material.shift * 0.37
    blur = footprint * scale
    share, tone = PATTERNS[material.pattern](u, v, blur, material.shift)
    if material.grain > 0:
        tone = tone * (1 + material.grain * (cloud(u * 0.9, v * 0.9, blur * 0.9) - 0.5))
    first = np.array(material.first, np.float32)
    step = np.array(material.second, np.float32) - first
    colour: Array = first + share[:, None] * step
    return colour * (tone[:, None] if isinstance(tone, np.ndarray) else np.float32(tone))


def cloud(u: Array, v: Array | np.float32, blur: Array | float) -> Array:
    """Return smooth fractal noise in [0, 1] that repeats every 8 units.

    Args:
        u: First coordinate; one unit is the size of the largest blob.
        v: Second coordinate.
        blur: Size of a pixel in the same unit; finer detail than that is left out.
    """
    table = _noise_tables()
    cells = _SIDE / 8
    level = np.clip(np.log2(np.maximum(blur, 1e-3) * 8), 0, _LEVELS - 1).astype(np.intp)
    row = np.floor(u * cells).astype(np.intp) & (_SIDE - 1)
    col = np.floor(v * cells).astype(np.intp) & (_SIDE - 1)
    noise: Array = table[(level * _SIDE + row) * _SIDE + col]
    return noise


@lru_cache(maxsize=1)
def _noise_tables() -> Array:
    """Return value noise, each level without the finest octave of the one before, flattened."""
    rng = rng_for(0, "synthetic_noise")
    octaves = []
    for cells in (8, 16, 32, 64):
        lattice = rng.random((cells, cells)).astype(np.float32)
        place = np.arange(_SIDE, dtype=np.float32) * (cells / _SIDE)
        low = place.astype(np.int64)
        part = place - low
        part = part * part * (3 - 2 * part)
        high = (low + 1) % cells
        rows = lattice[low] * (1 - part)[:, None] + lattice[high] * part[:, None]
        octaves.append(rows[:, low] * (1 - part) + rows[:, high] * part)
    levels = []
    for kept in range(len(octaves), 0, -1):
        level = sum((octaves[k] - 0.5) * 0.6**k for k in range(kept))
        levels.append(np.clip(0.5 + level * 0.75, 0, 1))
    return np.ravel(np.array(levels, np.float32))


def pulse(x: Array, duty: float, blur: Array) -> Array:
    """Return how much of a pixel lies in the middle `duty` of each unit period, in [0, 1]."""
    inside = (duty / 2 - np.abs(x - np.floor(x) - 0.5)) / np.maximum(blur, 0.02) + 0.5
    share = np.clip(inside, 0, 1)
    return share + np.clip(blur * 2 - 0.6, 0, 1) * (duty - share)


def _cells(u: Array, v: Array, blur: Array) -> Array:
    """Return one tone per unit cell, in [0, 1], fading to the mean where cells are too small."""
    row = (np.floor(u).astype(np.intp) * 37) & (_SIDE - 1)
    col = (np.floor(v).astype(np.intp) * 91) & (_SIDE - 1)
    tone = _noise_tables()[row * _SIDE + col]
    return 0.5 + (tone - 0.5) * np.clip(1.6 - 2 * blur, 0, 1)


def _checker(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    p, q = pulse(u * 0.5, 0.5, blur * 0.5), pulse(v * 0.5, 0.5, blur * 0.5)
    return p + q - 2 * p * q, 1.0


def _stripes(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    return pulse(v, 0.5, blur), 1.0


def _bands(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    return pulse(v, 0.22, blur), 1.0


def _bricks(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    rows = v * 2
    course = np.floor(rows)
    along = u + 0.5 * (course - 2 * np.floor(course * 0.5))
    joint = 1 - pulse(along, 0.93, blur) * pulse(rows, 0.86, blur * 2)
    return joint, 0.8 + 0.4 * _cells(along, rows, blur * 2)


def _tiles(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    joint = 1 - pulse(u, 0.93, blur) * pulse(v, 0.93, blur)
    return joint, 0.85 + 0.3 * _cells(u, v, blur)


def _planks(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    along = u * 0.3 + 0.37 * np.floor(v)
    seam = 1 - pulse(v, 0.94, blur) * pulse(along, 0.985, blur)
    fibre = cloud(u * 0.4, v * 5, blur * 4)
    return seam * 0.8, 0.65 + 0.4 * _cells(along, v, blur) + 0.3 * fibre


def _dots(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    x, y = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    share = np.clip((0.3 - np.sqrt(x * x + y * y)) / np.maximum(blur, 0.02) + 0.5, 0, 1)
    return share + np.clip(blur * 2 - 0.6, 0, 1) * (0.28 - share), 1.0


def _zigzag(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    return pulse(v + 0.8 * np.abs(u - np.floor(u) - 0.5), 0.5, blur * 1.3), 1.0


def _blotches(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    return np.clip(cloud(u * 0.7, v * 0.7, blur * 0.7) * 2.4 - 0.7, 0, 1), 1.0


def _grass(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    large = cloud(u * 0.35, v * 0.35, blur * 0.35)
    return large, 0.7 + 0.6 * cloud(u * 2.2 + 3, v * 2.2, blur * 2.2)


def _windows(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    glass = pulse(u, 0.5, blur) * pulse(v * 0.8, 0.55, blur)
    return glass, 1 + glass * (_cells(u, v * 0.8, blur) - 0.5)


def _plain(u: Array, v: Array, blur: Array, shift: float) -> tuple[Array, Array | float]:
    return cloud(u * 0.5, v * 0.5, blur * 0.5) * 0.5, 1.0


PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "checker": _checker,
    "stripes": _stripes,
    "bands": _bands,
    "bricks": _bricks,
    "tiles": _tiles,
    "planks": _planks,
    "dots": _dots,
    "zigzag": _zigzag,
    "blotches": _blotches,
    "grass": _grass,
    "windows": _windows,
}
