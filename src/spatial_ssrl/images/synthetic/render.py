"""Casts one ray per pixel into a layout and shades what it meets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spatial_ssrl.images.synthetic.camera import Array, Rays
from spatial_ssrl.images.synthetic.layout import Layout, Light, Wall
from spatial_ssrl.images.synthetic.solids import Solid, Vectors
from spatial_ssrl.images.synthetic.textures import cloud, paint

SKY, GROUND, CEILING, FIRST_WALL = 0, 1, 2, 3


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
    depth: Array
    owner: npt.NDArray[np.int32]


def render(layout: Layout, size: int, grain: Array) -> Rendering:
    """Draw a layout.

    Args:
        layout: What to draw.
        size: Side of the picture, in pixels.
        grain: Sensor noise to add, shape (S, S, 1), in units of one 8-bit step.
    """
    rays = layout.camera.rays(size)
    depth, owner = _trace(layout, rays, size)
    colour = _sky(layout, rays, size)
    _shade_planes(layout, rays, depth, owner, colour)
    first = FIRST_WALL + len(layout.walls)
    for number, solid in enumerate(layout.solids):
        _shade_solid(solid, first + number, layout, rays, (depth, owner), colour)
    smoothed = _soften_edges(colour, owner)
    smoothed *= _vignette(layout, size)
    values = smoothed * np.float32(255) + grain
    image = np.clip(values, 0, 255).astype(np.uint8)
    return Rendering(image, np.where(owner == SKY, np.float32(np.nan), depth), owner)


def _trace(layout: Layout, rays: Rays, size: int) -> tuple[Array, npt.NDArray[np.int32]]:
    """Return the nearest depth of every pixel (inf in the sky), and what is there."""
    down = rays.y < -1e-4
    ground = np.where(down, -rays.height / np.where(down, rays.y, -1), np.float32(np.inf))
    depth = np.repeat(ground.astype(np.float32), size, axis=1)
    owner = np.repeat(np.where(down, np.int32(GROUND), np.int32(SKY)), size, axis=1)
    if layout.ceiling is not None:
        up = rays.y > 1e-4
        above = np.where(up, (layout.ceiling - rays.height) / np.where(up, rays.y, 1), np.inf)
        _keep_nearer(np.broadcast_to(above, depth.shape), CEILING, depth, owner)
    for number, wall in enumerate(layout.walls):
        _keep_nearer(_wall_depth(wall, rays), FIRST_WALL + number, depth, owner)
    first = FIRST_WALL + len(layout.walls)
    for number, solid in enumerate(layout.solids):
        box = layout.camera.box_around(solid.corners(), size)
        top, bottom, left, right = box
        if top < bottom and left < right:
            entry = _entry(solid, rays.window(box))
            window = np.s_[top:bottom, left:right]
            _keep_nearer(entry, first + number, depth[window], owner[window])
    return depth, owner


def _keep_nearer(candidate: Array, number: int, depth: Array, owner: npt.NDArray[np.int32]) -> None:
    closer = candidate < depth
    np.copyto(depth, candidate, where=closer, casting="same_kind")
    owner[closer] = number


def _wall_depth(wall: Wall, rays: Rays) -> Array:
    """Return the depth of a wall, inf where it is missed or looked over."""
    slope = wall.normal[0] * rays.x + wall.normal[1] * rays.z
    ahead = slope < -1e-4
    depth = np.where(ahead, -wall.distance / np.where(ahead, slope, -1), np.float32(np.inf))
    high = rays.height + np.where(ahead, depth, 0) * rays.y
    top: Array | float = wall.top
    if wall.rough > 0:
        along = _along(wall, rays.x * depth, rays.z * depth)
        top = wall.top + wall.rough * (
            cloud(along / wall.blob, np.float32(wall.distance), 0.01) - 0.5
        )
    return np.where(high <= top, depth, np.float32(np.inf))


def _along(wall: Wall, x: Array, z: Array) -> Array:
    return x * -wall.normal[1] + z * wall.normal[0]


def _entry(solid: Solid, rays: Rays) -> Array:
    eye = solid.to_local(Vectors(0.0, rays.height, 0.0))
    enter, leave = solid.interval(eye, solid.to_local(Vectors(rays.x, rays.y, rays.z), True))
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))


def _points(rays: Rays, rows: Array, cols: Array, depth: Array) -> Vectors:
    return Vectors(
        rays.x[0, cols] * depth, rays.y[rows, 0] * depth + rays.height, rays.z[rows, 0] * depth
    )


def _shade_planes(
    layout: Layout, rays: Rays, depth: Array, owner: npt.NDArray[np.int32], colour: Array
) -> None:
    light, focal = layout.light, layout.camera.focal * colour.shape[0]
    rows, cols = np.nonzero(owner == GROUND)
    if rows.size:
        far = depth[rows, cols]
        point = _points(rays, rows, cols, far)
        # Across the view a pixel covers far / focal, along it more by the slant; take between.
        footprint = far * np.sqrt(far / layout.camera.height) / focal
        albedo = paint(layout.ground, point.x, point.z, footprint)
        sun = light.sun[1] * light.strength * _sunshine(layout, point)
        colour[rows, cols] = _haze(_lit(albedo, sun, 0.1, light), far, light)
    if layout.ceiling is not None:
        rows, cols = np.nonzero(owner == CEILING)
        far = depth[rows, cols]
        point = _points(rays, rows, cols, far)
        albedo = paint(layout.ceiling_material, point.x, point.z, far * 2 / focal)
        colour[rows, cols] = _haze(_lit(albedo, np.float32(0.25), -0.1, light), far, light)
    for number, wall in enumerate(layout.walls):
        rows, cols = np.nonzero(owner == FIRST_WALL + number)
        if rows.size:
            far = depth[rows, cols]
            point = _points(rays, rows, cols, far)
            colour[rows, cols] = _haze(_wall_colour(wall, point, far / focal, layout), far, light)


def _wall_colour(wall: Wall, point: Vectors, footprint: Array, layout: Layout) -> Array:
    light = layout.light
    along = _along(wall, point.x, point.z)
    albedo = paint(wall.material, along, point.y, footprint)
    for patch in wall.patches:
        away = np.maximum(
            np.abs(along - patch.along) / patch.half_width,
            np.abs(point.y - patch.height) / patch.half_height,
        )
        albedo[away < 1] = patch.frame
        albedo[away < 0.82] = patch.colour
    facing = wall.normal[0] * light.sun[0] + wall.normal[1] * light.sun[2]
    sun = max(facing, 0.0) * light.strength
    corner = 1 - 0.35 * np.exp(-point.y / (0.12 * wall.top))
    return _lit(albedo, np.float32(sun), 0.0, light) * corner[:, None]


def _shade_solid(
    solid: Solid,
    number: int,
    layout: Layout,
    rays: Rays,
    hits: tuple[Array, npt.NDArray[np.int32]],
    colour: Array,
) -> None:
    size, light = colour.shape[0], layout.light
    top, bottom, left, right = layout.camera.box_around(solid.corners(), size)
    rows, cols = np.nonzero(hits[1][top:bottom, left:right] == number)
    if not rows.size:
        return
    rows += top
    cols += left
    far = hits[0][rows, cols]
    local = solid.to_local(_points(rays, rows, cols, far))
    normal, a, b = solid.surface(local)
    world = solid.to_world(normal)
    length = np.sqrt(world.x * world.x + world.y * world.y + world.z * world.z) + 1e-9
    albedo = paint(solid.material, a, b, far / (layout.camera.focal * size))
    facing = (world.x * light.sun[0] + world.y * light.sun[1] + world.z * light.sun[2]) / length
    sun = np.maximum(facing, 0) * light.strength
    contact = 1 - 0.3 * np.exp(-(local.y + solid.base) / (0.12 * solid.height))
    shade = _lit(albedo, sun, 0.12 * (world.y / length), light) * contact[:, None]
    colour[rows, cols] = _haze(shade, far, light)


def _lit(albedo: Array, sun: Array, sky: Array | float, light: Light) -> Array:
    """Return a surface colour under the sun and the light from everywhere."""
    warm = np.array((1.05, 1.0, 0.9), np.float32)
    ambient = np.array(light.ambient, np.float32) + np.asarray(sky, np.float32)[..., None]
    lit: Array = albedo * (ambient + np.asarray(sun, np.float32)[..., None] * warm)
    return lit


def _haze(colour: Array, depth: Array, light: Light) -> Array:
    share = (1 - np.exp(depth * np.float32(-1 / light.haze)))[:, None]
    return colour + share * (np.array(light.horizon, np.float32) - colour)


def _sunshine(layout: Layout, point: Vectors) -> Array:
    """Return the share of sunlight that reaches ground points, 1 without a shadow."""
    shine = np.ones_like(point.x)
    sun = Vectors(*layout.light.sun)
    for solid in layout.solids:
        cast = (solid.base + solid.height) / sun.y
        # Only points whose way to the sun passes near the solid can lie in its shadow.
        x, z = point.x - solid.x + sun.x * cast / 2, point.z - solid.z + sun.z * cast / 2
        reach = solid.reach * 1.4 + cast / 2
        near = np.nonzero(x * x + z * z < reach * reach)[0]
        if not near.size:
            continue
        spot = Vectors(point.x[near], np.float32(0), point.z[near])
        enter, leave = solid.interval(solid.to_local(spot), solid.to_local(sun, True))
        chord = np.maximum(leave - np.maximum(enter, 0), 0)
        shine[near] *= 1 - 0.85 * np.clip(chord / (0.5 * solid.reach), 0, 1)
    return shine


def _sky(layout: Layout, rays: Rays, size: int) -> Array:
    """Return a picture of the sky alone: a gradient, clouds, and a glow towards the sun."""
    light = layout.light
    colour = np.empty((size, size, 3), np.float32)
    if layout.ceiling is not None:
        return colour
    horizon, zenith = np.array(light.horizon, np.float32), np.array(light.zenith, np.float32)
    rise = np.clip(rays.y, 0, None)
    share = np.clip(rise * 2.2, 0, 1)
    colour[:] = (horizon + share * (zenith - horizon))[:, None, :]
    rows = int(np.count_nonzero(rays.y > 0))
    if rows and light.clouds > 0:
        spread = 0.9 / (rays.y[:rows] + 0.25)
        veil = cloud(rays.x * spread + layout.phase, rays.z[:rows] * spread + 0 * rays.x, 0.05)
        veil = np.clip(veil * 2.5 - 1.1, 0, 1) * light.clouds
        colour[:rows] += veil[..., None] * (np.float32(0.97) - colour[:rows])
        glow = np.clip(0.12 - 0.35 * rays.x, 0, None)
        colour[:rows] += glow[..., None] * np.array((0.5, 0.42, 0.25), np.float32)
    return colour


def _soften_edges(colour: Array, owner: npt.NDArray[np.int32]) -> Array:
    """Mix pixels on the border of two things with their neighbours, against stairs."""
    edge = np.zeros(owner.shape, bool)
    across, along = owner[:, 1:] != owner[:, :-1], owner[1:] != owner[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    padded = np.pad(colour, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows, cols = np.nonzero(edge)
    mixed = 4 * colour[rows, cols]
    for down, right, weight in (
        (0, 1, 2), (2, 1, 2), (1, 0, 2), (1, 2, 2), (0, 0, 1), (0, 2, 1), (2, 0, 1), (2, 2, 1),
    ):  # fmt: skip
        mixed += weight * padded[rows + down, cols + right]
    colour[rows, cols] = mixed / 16
    return colour


def _vignette(layout: Layout, size: int) -> Array:
    offset = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    away = offset[:, None] ** 2 + offset[None, :] ** 2
    # A slow fall-off from the sunny left to the right goes with the vignette.
    slant = 1 - 0.06 * offset[None, :]
    return ((1 - layout.light.vignette * 0.5 * away) * slant)[..., None]
