"""Casts one ray per pixel into a layout and shades what it meets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from spatial_ssrl.images.synthetic.camera import Array, Camera, Rays
from spatial_ssrl.images.synthetic.layout import Layout, Light, Wall
from spatial_ssrl.images.synthetic.solids import Solid, Vectors
from spatial_ssrl.images.synthetic.textures import cloud, paint

SKY, GROUND, CEILING, FIRST_WALL = 0, 1, 2, 3

Owners = npt.NDArray[np.int32]
Window = tuple[int, int, int, int]

_INF = np.float32(np.inf)
_SUNLIGHT = np.array((1.06, 1.0, 0.88), np.float32)
_GLOW = np.array((0.5, 0.42, 0.25), np.float32)
_NEIGHBOURS = (
    (0, 0, 1), (0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 2), (2, 0, 1), (2, 1, 2), (2, 2, 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a camera sees of a layout.

    Args:
        image: Colours, shape (S, S, 3), uint8.
        depth: Depth along the viewing axis in metres, shape (S, S), float32; NaN in the sky.
        owner: What each pixel shows, shape (S, S), int32: 0 sky, 1 ground, 2 ceiling, then walls,
            then solids in the order of the layout.
    """

    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32]
    owner: Owners


@dataclass(frozen=True, slots=True)
class _Seen:
    """The N pixels that show one thing.

    Args:
        rows: Row of each, shape (N,).
        columns: Column of each, shape (N,).
        depth: Depth of each in metres, shape (N,).
        point: World coordinates of what each shows, N of each, in metres.
        footprint: Length of an upright surface that each pixel covers, shape (N,), in metres.
    """

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]
    depth: Array
    point: Vectors
    footprint: Array


def render(layout: Layout, size: int, grain: Array) -> Rendering:
    """Draw a layout.

    Args:
        layout: What to draw.
        size: Side of the picture, in pixels.
        grain: Sensor noise to add, shape (S, S, 1), in units of one 8-bit step.
    """
    rays = layout.camera.rays(size)
    windows = [_window(layout.camera, solid, size) for solid in layout.solids]
    depth, owner = _trace(layout, rays, windows)
    colour = _sky(layout, rays, size)
    whole = (0, size, 0, size)
    places = [(GROUND, whole), (CEILING, whole)]
    places += [(FIRST_WALL + number, whole) for number in range(len(layout.walls))]
    places += [(FIRST_WALL + len(layout.walls) + k, window) for k, window in enumerate(windows)]
    for number, window in places:
        seen = _pixels_of(number, window, owner, depth, rays, layout.camera)
        if seen is not None:
            colour[seen.rows, seen.columns] = _shade(number, seen, layout)
    _add_haze(colour, depth, owner, layout.light)
    colour = _soften_edges(colour, owner) * _vignette(layout.light, size)
    image = np.clip(colour * np.float32(255) + grain, 0, 255).astype(np.uint8)
    return Rendering(image, np.where(owner == SKY, np.float32(np.nan), depth), owner)


def _window(camera: Camera, solid: Solid, size: int) -> Window:
    top = solid.base + solid.height
    return camera.window_of(solid.x, solid.z, solid.reach, solid.base, top, size)


def _trace(layout: Layout, rays: Rays, windows: list[Window]) -> tuple[Array, Owners]:
    """Return the nearest depth of every pixel (inf in the sky), and what is there."""
    size = rays.x.size
    down = rays.y < -1e-4
    ground = np.where(down, -rays.height / np.where(down, rays.y, -1), _INF)
    depth = np.repeat(ground.astype(np.float32), size, axis=1)
    owner = np.repeat(np.where(down, np.int32(GROUND), np.int32(SKY)), size, axis=1)
    if layout.ceiling is not None:
        up = rays.y > 1e-4
        above = np.where(up, (layout.ceiling - rays.height) / np.where(up, rays.y, 1), _INF)
        _keep_nearer(np.broadcast_to(above, depth.shape), CEILING, depth, owner)
    for number, wall in enumerate(layout.walls):
        _keep_nearer(_wall_depth(wall, rays), FIRST_WALL + number, depth, owner)
    for number, (solid, window) in enumerate(
        zip(layout.solids, windows, strict=True), start=FIRST_WALL + len(layout.walls)
    ):
        top, bottom, left, right = window
        if top < bottom and left < right:
            part = np.s_[top:bottom, left:right]
            _keep_nearer(_entry(solid, rays.window(window)), number, depth[part], owner[part])
    return depth, owner


def _keep_nearer(candidate: Array, number: int, depth: Array, owner: Owners) -> None:
    closer = candidate < depth
    np.copyto(depth, candidate, where=closer, casting="same_kind")
    owner[closer] = number


def _wall_depth(wall: Wall, rays: Rays) -> Array:
    """Return the depth of a wall, inf where it is missed or looked over."""
    slope = wall.normal[0] * rays.x + wall.normal[1] * rays.z
    ahead = slope < -1e-4
    depth = -wall.distance / np.where(ahead, slope, np.float32(-1))
    top: Array | float = wall.top
    if wall.rough > 0:
        along = _along(wall, rays.x * depth, rays.z * depth) / wall.blob
        top = wall.top + wall.rough * (cloud(along, np.float32(wall.distance), 0.01) - 0.5)
    return np.where(ahead & (rays.height + depth * rays.y <= top), depth, _INF)


def _along(wall: Wall, x: Array, z: Array) -> Array:
    return x * -wall.normal[1] + z * wall.normal[0]


def _entry(solid: Solid, rays: Rays) -> Array:
    eye = solid.to_local(Vectors(0.0, rays.height, 0.0))
    enter, leave = solid.interval(eye, solid.turned(Vectors(rays.x, rays.y, rays.z)))
    return np.where((enter < leave) & (enter > 0), enter, _INF)


def _pixels_of(
    number: int, window: Window, owner: Owners, depth: Array, rays: Rays, camera: Camera
) -> _Seen | None:
    """Return the pixels of a window that show one thing, or None when it is hidden."""
    top, bottom, left, right = window
    rows, columns = np.nonzero(owner[top:bottom, left:right] == number)
    if not rows.size:
        return None
    rows += top
    columns += left
    far = depth[rows, columns]
    point = Vectors(
        rays.x[0, columns] * far, rays.y[rows, 0] * far + rays.height, rays.z[rows, 0] * far
    )
    return _Seen(rows, columns, far, point, far / (camera.focal * rays.x.size))


def _shade(number: int, seen: _Seen, layout: Layout) -> Array:
    """Return the colour of pixels without haze, shape (N, 3)."""
    number -= FIRST_WALL
    if number >= len(layout.walls):
        return _solid_colour(layout.solids[number - len(layout.walls)], seen, layout.light)
    if number >= 0:
        return _wall_colour(layout.walls[number], seen, layout.light)
    point, light = seen.point, layout.light
    if number + FIRST_WALL == CEILING:
        albedo = paint(layout.ceiling_material, point.x, point.z, seen.footprint * 2)
        return _lit(albedo, np.float32(0.45 * light.strength), np.float32(0), light)
    # Along the view a pixel covers more ground than across it; blur by what is between.
    slant = np.sqrt(seen.depth * np.float32(1 / layout.camera.height))
    albedo = paint(layout.ground, point.x, point.z, seen.footprint * slant)
    sun = light.sun[1] * light.strength * sunshine(layout, point)
    return _lit(albedo, sun, np.float32(0.08), light)


def _wall_colour(wall: Wall, seen: _Seen, light: Light) -> Array:
    along, high = _along(wall, seen.point.x, seen.point.z), seen.point.y
    albedo = paint(wall.material, along, high, seen.footprint)
    for patch in wall.patches:
        away = np.maximum(
            np.abs(along - patch.along) / patch.half_width,
            np.abs(high - patch.height) / patch.half_height,
        )
        albedo[away < 1] = patch.frame
        albedo[away < 0.8] = patch.colour
    facing = wall.normal[0] * light.sun[0] + wall.normal[1] * light.sun[2]
    # The foot of a wall is darker, and a rough one (trees, hills) is dark in its hollows.
    foot: Array = 1 - 0.35 * np.exp(high * np.float32(-8 / wall.top))
    shade = _lit(albedo, np.float32(max(facing, 0.1) * light.strength), np.float32(0), light)
    return shade * foot[:, None]


def _solid_colour(solid: Solid, seen: _Seen, light: Light) -> Array:
    local = solid.to_local(seen.point)
    normal, a, b = solid.surface(local)
    sun = solid.turned(Vectors(*light.sun))
    length = np.sqrt(normal.x * normal.x + normal.y * normal.y + normal.z * normal.z)
    inverse = 1 / np.maximum(length, np.float32(1e-9))
    facing = (normal.x * sun.x + normal.y * sun.y + normal.z * sun.z) * inverse
    albedo = paint(solid.material, a, b, seen.footprint)
    shine = np.maximum(facing, 0) * light.strength
    shade = _lit(albedo, shine, 0.12 * normal.y * inverse, light)
    if solid.base > 0:
        return shade
    contact: Array = 1 - 0.35 * np.exp(local.y * np.float32(-8 / solid.height))
    return shade * contact[:, None]


def _lit(albedo: Array, sun: ArrayLike, sky: ArrayLike, light: Light) -> Array:
    """Return a surface colour under the sun and the light from everywhere."""
    ambient = np.array(light.ambient, np.float32) + np.atleast_1d(sky)[:, None]
    lit: Array = albedo * (ambient + np.atleast_1d(sun)[:, None] * _SUNLIGHT)
    return lit


def _add_haze(colour: Array, depth: Array, owner: Owners, light: Light) -> None:
    share = 1 - np.exp(depth * np.float32(-1 / light.haze))
    share[owner == SKY] = 0
    colour += share[..., None] * (np.array(light.horizon, np.float32) - colour)


def sunshine(layout: Layout, point: Vectors) -> Array:
    """Return the share of sunlight that reaches ground points.

    Args:
        layout: What stands in the light.
        point: World coordinates, N of each, at height 0.

    Returns:
        Shares, shape (N,), in [0, 1]; 1 without a shadow.
    """
    shine: Array = np.ones_like(point.x)
    sun = layout.light.sun
    for solid in layout.solids:
        cast = (solid.base + solid.height) / sun[1]
        # Only points whose way to the sun passes near the solid can lie in its shadow.
        x = point.x + (sun[0] * cast / 2 - solid.x)
        z = point.z + (sun[2] * cast / 2 - solid.z)
        reach = solid.reach * 1.2 + cast / 2
        near = np.nonzero(x * x + z * z < reach * reach)[0]
        if near.size:
            spot = solid.to_local(Vectors(point.x[near], np.float32(0), point.z[near]))
            enter, leave = solid.interval(spot, solid.turned(Vectors(*sun)))
            chord = np.maximum(leave - np.maximum(enter, 0), 0)
            # The longer the way through the solid, the darker: a soft rim costs nothing more.
            shine[near] *= 1 - 0.85 * np.minimum(chord * np.float32(2.2 / solid.reach), 1)
    return shine


def _sky(layout: Layout, rays: Rays, size: int) -> Array:
    """Return a picture of the sky alone: a gradient, clouds, and a glow towards the sun."""
    light = layout.light
    colour = np.zeros((size, size, 3), np.float32)
    rows = int(np.count_nonzero(rays.y > 0))
    if layout.ceiling is not None or rows == 0:
        return colour
    horizon, zenith = np.array(light.horizon, np.float32), np.array(light.zenith, np.float32)
    rise = rays.y[:rows]
    colour[:rows] = (horizon + np.minimum(rise * 2.2, 1) * (zenith - horizon))[:, None, :]
    spread = 0.9 / (rise + 0.25)
    veil = cloud(rays.x * spread + layout.phase, rays.z[:rows] * spread, 0.05)
    veil = np.clip(veil * 2.5 - 1.1, 0, 1) * light.clouds
    colour[:rows] += veil[..., None] * (np.float32(0.97) - colour[:rows])
    glow = np.maximum(0.12 - 0.35 * rays.x, 0)
    colour[:rows] += glow[..., None] * _GLOW
    return colour


def _soften_edges(colour: Array, owner: Owners) -> Array:
    """Mix pixels on the border of two things with their neighbours, against stairs."""
    edge = np.zeros(owner.shape, bool)
    across, along = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    side = owner.shape[0] + 2
    padded = np.empty((side, side, 3), np.float32)
    padded[1:-1, 1:-1] = colour
    padded[0], padded[-1] = padded[1], padded[-2]
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    flat = padded.reshape(-1, 3)
    rows, columns = np.nonzero(edge)
    corner = rows * side + columns
    mixed = 4 * flat[corner + side + 1]
    for down, right, weight in _NEIGHBOURS:
        mixed += weight * flat[corner + (down * side + right)]
    colour[rows, columns] = mixed * np.float32(1 / 16)
    return colour


def _vignette(light: Light, size: int) -> Array:
    offset = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    away = offset[:, None] ** 2 + offset[None, :] ** 2
    # A slow fall-off from the sunny left to the right goes with the vignette.
    return ((1 - light.vignette * 0.5 * away) * (1 - 0.06 * offset[None, :]))[..., None]
