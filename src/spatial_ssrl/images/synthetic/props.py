"""Things made of solids: balls, crates, pillars, trees, houses and piles."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from spatial_ssrl.images.synthetic.solids import (
    Ellipsoid,
    Frustum,
    Solid,
    block,
    prism,
    roof,
)
from spatial_ssrl.images.synthetic.textures import Material

Rng = np.random.Generator

_PATTERNS = (
    "plain",
    "plain",
    "checker",
    "stripes",
    "bands",
    "bricks",
    "dots",
    "zigzag",
    "blotches",
    "planks",
)
PROPS = (
    "ball", "ball", "crate", "crate", "crate", "column", "column", "cone",
    "tree", "fir", "house", "pillar", "pile", "snowman",
)  # fmt: skip


def prop(name: str, rng: Rng, x: float, z: float, size: float, hue: float) -> list[Solid]:
    """Return the solids of one thing.

    Args:
        name: One of `PROPS`.
        rng: Decides proportions and paint.
        x: Right coordinate of its axis, in metres.
        z: Forward coordinate of its axis, in metres.
        size: About its height, in metres; it stays within half of it around its axis.
        hue: Main hue, in [0, 1).

    Returns:
        Solids that stand on the ground or on each other.
    """
    yaw = rng.uniform(0, math.pi / 2)
    main = _paint(rng, hue, size)
    match name:
        case "ball":
            return [Ellipsoid(x, z, 0.0, yaw, size * 0.85, main, size * 0.425)]
        case "column":
            radius = size * rng.uniform(0.2, 0.42)
            return [Frustum(x, z, 0.0, yaw, size, main, radius, radius * rng.uniform(0.75, 1.0))]
        case "cone":
            return [Frustum(x, z, 0.0, yaw, size, main, size * rng.uniform(0.28, 0.42), 0.0)]
        case "pillar":
            return [prism(x, z, yaw, size, size * rng.uniform(0.22, 0.4), main)]
        case "tree":
            return _tree(rng, x, z, size)
        case "fir":
            return _fir(rng, x, z, size)
        case "house":
            return _house(rng, x, z, size, yaw, main, hue)
        case "pile":
            return _pile(rng, x, z, size, yaw, main, hue)
        case "snowman":
            return _snowman(rng, x, z, size, main, hue)
        case _:
            wide, long = size * rng.uniform(0.45, 0.7), size * rng.uniform(0.45, 0.7)
            return [block(x, z, 0.0, yaw, (wide, size * rng.uniform(0.5, 1.0), long), main)]


def _paint(rng: Rng, hue: float, size: float) -> Material:
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 0.9), rng.uniform(0.55, 0.95))
    other = (hue + (0.0, 0.5, 0.12)[int(rng.random() * 3)]) % 1.0
    second = colorsys.hsv_to_rgb(other, rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.95))
    pattern = _PATTERNS[int(rng.random() * len(_PATTERNS))]
    period = size * rng.uniform(0.22, 0.42)
    return Material(pattern, first, second, period, 0.0, rng.uniform(0, 8), 0.15)


def _leaves(rng: Rng, size: float) -> Material:
    hue, value = rng.uniform(0.2, 0.38), rng.uniform(0.35, 0.6)
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 0.75), value)
    second = colorsys.hsv_to_rgb(hue, 0.6, value * 0.5)
    return Material("blotches", first, second, size * 0.2, 0.0, rng.uniform(0, 8), 0.3)


def _bark(size: float) -> Material:
    return Material("planks", (0.42, 0.29, 0.19), (0.25, 0.16, 0.1), size * 0.1, math.pi / 2)


def _tree(rng: Rng, x: float, z: float, size: float) -> list[Solid]:
    stem, radius = size * rng.uniform(0.3, 0.45), size * rng.uniform(0.28, 0.42)
    return [
        Frustum(x, z, 0.0, 0.0, stem * 1.2, _bark(size), size * 0.07, size * 0.05),
        Ellipsoid(x, z, stem, 0.0, size - stem, _leaves(rng, size), radius),
    ]


def _fir(rng: Rng, x: float, z: float, size: float) -> list[Solid]:
    leaves, radius = _leaves(rng, size), size * rng.uniform(0.24, 0.3)
    return [
        Frustum(x, z, 0.0, 0.0, size * 0.2, _bark(size), size * 0.06, size * 0.06),
        Frustum(x, z, size * 0.15, 0.0, size * 0.52, leaves, radius, radius * 0.15),
        Frustum(x, z, size * 0.45, 0.0, size * 0.55, leaves, radius * 0.75, 0.0),
    ]


def _house(
    rng: Rng, x: float, z: float, size: float, yaw: float, main: Material, hue: float
) -> list[Solid]:
    wide, long, eaves = size * 0.58, size * rng.uniform(0.55, 0.75), size * 0.58
    top = _paint(rng, (hue + 0.45) % 1.0, size)
    return [
        block(x, z, 0.0, yaw, (wide, eaves, long), main),
        roof(x, z, eaves, yaw, (wide * 1.12, size - eaves, long * 1.1), top),
    ]


def _pile(
    rng: Rng, x: float, z: float, size: float, yaw: float, main: Material, hue: float
) -> list[Solid]:
    wide, low = size * rng.uniform(0.5, 0.68), size * rng.uniform(0.4, 0.6)
    above = _paint(rng, (hue + 0.33) % 1.0, size * 0.7)
    rest, turned = size - low, yaw + rng.uniform(0.2, 1.2)
    upper: Solid
    match int(rng.random() * 3):
        case 0:
            upper = Ellipsoid(x, z, low, 0.0, rest, above, min(rest, wide) / 2)
        case 1:
            upper = block(x, z, low, turned, (wide * 0.6, rest, wide * 0.6), above)
        case _:
            upper = Frustum(x, z, low, 0.0, rest, above, wide * 0.3, wide * 0.3)
    return [block(x, z, 0.0, yaw, (wide, low, wide), main), upper]


def _snowman(rng: Rng, x: float, z: float, size: float, main: Material, hue: float) -> list[Solid]:
    waist = rng.uniform(0.52, 0.62)
    above = _paint(rng, (hue + 0.5) % 1.0, size * 0.7) if rng.random() < 0.5 else main
    low, high = size * waist, size * (1 - waist) * 1.12
    return [
        Ellipsoid(x, z, 0.0, 0.0, low, main, low / 2),
        Ellipsoid(x, z, size - high, 0.0, high, above, high / 2),
    ]
