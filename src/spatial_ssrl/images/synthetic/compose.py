"""Draws a layout at random: the place, its light, and the things that stand in it."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from spatial_ssrl.images.synthetic.camera import Camera
from spatial_ssrl.images.synthetic.layout import Layout, Light, Patch, Wall
from spatial_ssrl.images.synthetic.props import PROPS, prop
from spatial_ssrl.images.synthetic.solids import Solid
from spatial_ssrl.images.synthetic.textures import Colour, Material

Rng = np.random.Generator

_OUTDOOR_GROUNDS = ("grass", "grass", "bricks", "tiles", "checker", "planks", "blotches", "stripes")
_INDOOR_GROUNDS = ("planks", "planks", "checker", "tiles", "zigzag", "stripes", "blotches", "dots")
_INDOOR_WALLS = ("plain", "stripes", "bricks", "planks", "tiles", "bands", "dots", "zigzag")
_OUTDOOR_WALLS = ("bricks", "windows", "planks", "tiles", "windows", "blotches")


@dataclass(frozen=True, slots=True)
class _Place:
    """What the objects must know of the place they stand in.

    Args:
        camera: Where it is seen from.
        near: Depth of the ground at the bottom edge of the picture, in metres.
        far: Distance of the backdrop, in metres.
        walls: Planes that nothing may cross.
        indoors: Whether there is a ceiling.
    """

    camera: Camera
    near: float
    far: float
    walls: tuple[Wall, ...]
    indoors: bool


def compose(rng: Rng) -> Layout:
    """Draw a scene: a room, a yard or open land, and three to seven things in it."""
    kind = rng.random()
    indoors = kind < 0.4
    camera = _camera(rng)
    near = camera.ground_depth(1.0)
    far = near * rng.uniform(3.4, 5.5)
    hue = rng.random()
    if indoors:
        walls = _room(rng, camera, far, hue)
    elif kind < 0.7:
        walls = _yard(rng, camera, far, hue)
    else:
        walls = (_skyline(rng, camera, far),)
    place = _Place(camera, near, far, walls, indoors)
    return Layout(
        camera=camera,
        light=_light(rng, indoors, far),
        ground=_ground(rng, indoors, camera.height, hue),
        walls=walls,
        ceiling=walls[0].top if indoors else None,
        ceiling_material=_ceiling(rng, camera.height),
        solids=_solids(rng, place),
        phase=rng.uniform(0, 8),
    )


def tinted(
    rng: Rng, hue: float, saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """Return a colour near a hue, with saturation and value drawn from ranges in [0, 1]."""
    return colorsys.hsv_to_rgb(
        (hue + rng.uniform(-0.03, 0.03)) % 1.0, rng.uniform(*saturation), rng.uniform(*value)
    )


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker, or lighter for a factor above 1."""
    red, green, blue = (min(channel * factor, 1.0) for channel in colour)
    return (red, green, blue)


def _pick(rng: Rng, names: tuple[str, ...]) -> str:
    return names[int(rng.random() * len(names))]


def _camera(rng: Rng) -> Camera:
    focal = 0.5 / math.tan(math.radians(rng.uniform(48, 72)) / 2)
    horizon = rng.uniform(0.14, 0.4)
    pitch = math.atan((0.5 - horizon) / focal)
    return Camera(height=rng.uniform(1.3, 2.8), pitch=pitch, focal=focal)


def _light(rng: Rng, indoors: bool, far: float) -> Light:
    # The sun always stands on the viewer's left, as light falls from above: a mirrored part of
    # the picture then disagrees with the rest, which makes flips visible.
    side = math.radians(rng.uniform(-150, -55))
    rise = math.radians(rng.uniform(28, 52))
    sun = (math.sin(side) * math.cos(rise), math.sin(rise), math.cos(side) * math.cos(rise) * 0.8)
    norm = math.sqrt(sum(part * part for part in sun))
    evening = rng.random()
    horizon = colorsys.hsv_to_rgb(0.08 if evening < 0.25 else 0.56, rng.uniform(0.08, 0.3), 0.93)
    zenith = colorsys.hsv_to_rgb(
        rng.uniform(0.54, 0.64), rng.uniform(0.4, 0.7), rng.uniform(0.6, 0.9)
    )
    level = rng.uniform(0.46, 0.6)
    return Light(
        sun=(sun[0] / norm, sun[1] / norm, sun[2] / norm),
        strength=rng.uniform(0.55, 0.8),
        ambient=(level * 0.97, level, level * 1.05),
        horizon=horizon,
        zenith=zenith,
        haze=far * (9.0 if indoors else rng.uniform(2.5, 6.0)),
        clouds=rng.uniform(0.0, 0.9),
        vignette=rng.uniform(0.12, 0.3),
    )


def _ground(rng: Rng, indoors: bool, height: float, hue: float) -> Material:
    pattern = _pick(rng, _INDOOR_GROUNDS if indoors else _OUTDOOR_GROUNDS)
    if pattern == "grass":
        first, second = (
            tinted(rng, 0.27, (0.4, 0.65), (0.3, 0.5)),
            tinted(rng, 0.2, (0.4, 0.6), (0.45, 0.65)),
        )
    elif pattern == "planks":
        first = tinted(rng, 0.07, (0.35, 0.65), (0.5, 0.85))
        second = shaded(first, 0.4)
    else:
        first = tinted(rng, hue + rng.choice((0.0, 0.1, 0.5)), (0.08, 0.5), (0.5, 0.85))
        second = shaded(tinted(rng, hue, (0.05, 0.5), (0.5, 0.9)), rng.uniform(0.4, 0.65))
    period = height * rng.uniform(0.28, 0.6) * (0.6 if pattern in ("planks", "stripes") else 1.0)
    return Material(
        pattern, first, second, period, rng.uniform(0, math.pi), rng.uniform(0, 8), 0.25
    )


def _ceiling(rng: Rng, height: float) -> Material:
    first = tinted(rng, 0.1, (0.02, 0.15), (0.8, 0.95))
    pattern = _pick(rng, ("plain", "tiles", "planks"))
    return Material(pattern, first, shaded(first, 0.7), height * rng.uniform(0.3, 0.7))


def _wall_material(rng: Rng, patterns: tuple[str, ...], height: float, hue: float) -> Material:
    first = tinted(rng, hue, (0.1, 0.5), (0.5, 0.9))
    pattern = _pick(rng, patterns)
    second = shaded(first, rng.uniform(0.55, 0.85))
    if pattern == "windows":
        second = tinted(rng, 0.58, (0.2, 0.5), (0.2, 0.45))
    turn = math.pi / 2 if pattern == "stripes" and rng.random() < 0.5 else 0.0
    return Material(
        pattern, first, second, height * rng.uniform(0.3, 0.7), turn, rng.uniform(0, 8), 0.12
    )


def _room(rng: Rng, camera: Camera, far: float, hue: float) -> tuple[Wall, ...]:
    yaw = math.radians(rng.uniform(-24, 24))
    hue = (hue + rng.uniform(0.05, 0.95)) % 1.0
    top = camera.height * rng.uniform(1.25, 2.0)
    paper = _wall_material(rng, _INDOOR_WALLS, camera.height, hue)
    back = Wall((-math.sin(yaw), -math.cos(yaw)), far * math.cos(yaw), top, 0, 1, paper)
    half = 0.5 * far / camera.focal
    walls = [back]
    sides = int(rng.random() * 3)
    other = paper if rng.random() < 0.5 else _wall_material(rng, _INDOOR_WALLS, camera.height, hue)
    if sides != 1:
        walls.append(
            Wall((math.cos(yaw), -math.sin(yaw)), half * rng.uniform(0.55, 0.95), top, 0, 1, other)
        )
    if sides != 0:
        walls.append(
            Wall((-math.cos(yaw), math.sin(yaw)), half * rng.uniform(0.55, 0.95), top, 0, 1, other)
        )
    return tuple(_decorate(rng, wall, half) for wall in walls)


def _yard(rng: Rng, camera: Camera, far: float, hue: float) -> tuple[Wall, ...]:
    yaw = math.radians(rng.uniform(-32, 32))
    hue = (hue + rng.uniform(0.05, 0.95)) % 1.0
    top = camera.height * rng.uniform(0.7, 2.2)
    paint = _wall_material(rng, _OUTDOOR_WALLS, camera.height, hue)
    back = Wall((-math.sin(yaw), -math.cos(yaw)), far * math.cos(yaw), top, 0, 1, paint)
    half = 0.5 * far / camera.focal
    walls = [_decorate(rng, back, half)]
    if rng.random() < 0.5:
        sign = 1.0 if rng.random() < 0.5 else -1.0
        other = _wall_material(rng, _OUTDOOR_WALLS, camera.height, hue)
        normal = (sign * math.cos(yaw), -sign * math.sin(yaw))
        walls.append(
            Wall(normal, half * rng.uniform(0.6, 1.0), top * rng.uniform(0.8, 1.3), 0, 1, other)
        )
    if top < camera.height * 1.1:
        walls.append(_skyline(rng, camera, far * 1.5))
    return tuple(walls)


def _skyline(rng: Rng, camera: Camera, far: float) -> Wall:
    green = tinted(rng, rng.uniform(0.2, 0.4), (0.3, 0.6), (0.25, 0.5))
    second = shaded(green, rng.uniform(1.2, 1.6))
    # Its lowest dip stays above the eye, so that the ground never runs off to infinity.
    rough = camera.height * rng.uniform(0.4, 1.2)
    top = camera.height * rng.uniform(1.05, 1.3) + rough / 2
    paint = Material(
        "blotches",
        green,
        second,
        camera.height * rng.uniform(0.3, 0.8),
        0.0,
        rng.uniform(0, 8),
        0.5,
    )
    return Wall((0.0, -1.0), far, top, rough, camera.height * rng.uniform(0.8, 3.0), paint)


def _decorate(rng: Rng, wall: Wall, half: float) -> Wall:
    """Hang up to three rectangles on a wall."""
    patches = []
    for _ in range(int(rng.random() * 4)):
        wide, high = wall.top * rng.uniform(0.12, 0.3), wall.top * rng.uniform(0.12, 0.25)
        door = rng.random() < 0.3
        middle = wall.top * 0.3 if door else wall.top * rng.uniform(0.5, 0.7)
        colour = tinted(rng, rng.random(), (0.2, 0.7), (0.25, 0.9))
        frame = shaded(colour, 0.4) if rng.random() < 0.5 else (0.9, 0.9, 0.88)
        patches.append(
            Patch(
                rng.uniform(-half, half),
                middle,
                wide,
                wall.top * 0.3 if door else high,
                colour,
                frame,
            )
        )
    return Wall(
        wall.normal, wall.distance, wall.top, wall.rough, wall.blob, wall.material, tuple(patches)
    )


def _solids(rng: Rng, place: _Place) -> tuple[Solid, ...]:
    """Stand three to seven things apart from each other, one of them at a middle depth."""
    count = int(rng.integers(3, 8))
    span = place.far - place.near
    columns = rng.permutation(count)
    hue = rng.random()
    taken: list[tuple[float, float, float]] = []
    solids: list[Solid] = []
    for number in range(count):
        for _ in range(6):
            share = rng.uniform(0.38, 0.6) if number == 0 else rng.uniform(0.06, 0.85)
            depth = place.near + share * span
            across = (columns[number] + rng.uniform(0.1, 0.9)) / count * 1.1 - 0.05
            if number == 0:
                across = rng.uniform(0.2, 0.8)
            x, z = (float(across) - 0.5) * depth / place.camera.focal, depth
            size = _size(rng, place, depth, number == 0)
            name = _pick(rng, PROPS)
            radius = size * 0.5
            if _is_free(x, z, radius, taken, place):
                taken.append((x, z, radius))
                solids.extend(prop(name, rng, x, z, size, (hue + number * 0.381966) % 1.0))
                break
    return tuple(solids)


def _size(rng: Rng, place: _Place, depth: float, middle: bool) -> float:
    """Return the height of a thing, in metres, neither a dot nor a blind in the picture."""
    size = place.camera.height * rng.uniform(0.35, 1.15)
    seen = depth / place.camera.focal
    low, high = (0.24, 0.46) if middle else (0.14, 0.52)
    return float(min(max(size, low * seen), high * seen))


def _is_free(
    x: float, z: float, radius: float, taken: list[tuple[float, float, float]], place: _Place
) -> bool:
    for other_x, other_z, other in taken:
        if math.hypot(x - other_x, z - other_z) < (radius + other) * 0.95:
            return False
    if z - radius < 0.5 * place.near:
        return False
    return all(
        wall.normal[0] * x + wall.normal[1] * z + wall.distance > radius for wall in place.walls
    )
