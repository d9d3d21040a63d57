"""Convex solids that stand on the ground, and where rays enter and leave them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatial_ssrl.images.synthetic.camera import Array
from spatial_ssrl.images.synthetic.textures import Material

_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Vectors:
    """Three coordinates whose arrays broadcast against each other.

    Args:
        x: Right, any shape.
        y: Up, any shape.
        z: Forward, any shape.
    """

    x: Any  # Arrays or floats, whichever broadcast: a union would need a cast at every use.
    y: Any
    z: Any


@dataclass(frozen=True)
class Solid(ABC):
    """A convex body turned about the vertical.

    Args:
        x: Right coordinate of its axis, in metres.
        z: Forward coordinate of its axis, in metres.
        base: Height of its lowest point above the ground, in metres.
        yaw: Turn about the vertical, in radians.
        height: From its lowest to its highest point, in metres.
        material: What it is painted with.
    """

    x: float
    z: float
    base: float
    yaw: float
    height: float
    material: Material

    @property
    @abstractmethod
    def reach(self) -> float:
        """Radius of the upright cylinder around its axis that holds it, in metres."""

    @abstractmethod
    def interval(self, origin: Vectors, ray: Vectors) -> tuple[Array, Array]:
        """Return the ray parameters at which rays enter and leave, in local coordinates.

        A ray that misses has its entry after its exit.
        """

    @abstractmethod
    def surface(self, point: Vectors) -> tuple[Vectors, Array, Array]:
        """Return the outward normal and two texture coordinates of local surface points.

        Texture coordinates are in metres along the surface, the second one upwards.
        """

    def to_local(self, world: Vectors) -> Vectors:
        """Return world points in the axes of the solid, whose origin is the middle of its foot."""
        return self.turned(Vectors(world.x - self.x, world.y - self.base, world.z - self.z))

    def turned(self, world: Vectors) -> Vectors:
        """Return world directions in the axes of the solid."""
        if self.yaw == 0.0:
            return world
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return Vectors(world.x * cos - world.z * sin, world.y, world.x * sin + world.z * cos)


@dataclass(frozen=True)
class Ellipsoid(Solid):
    """A ball, stretched upwards or not, resting on its lowest point.

    Args:
        radius: Half of its width, in metres.
    """

    radius: float

    @property
    def reach(self) -> float:
        """Radius of the upright cylinder that holds it, in metres."""
        return self.radius

    def interval(self, origin: Vectors, ray: Vectors) -> tuple[Array, Array]:
        """Solve the quadratic of the unit ball after scaling the axes."""
        half = self.height / 2
        stretch = self.radius / half
        rise, lift = ray.y * stretch, (origin.y - half) * stretch
        a = ray.x * ray.x + ray.z * ray.z + rise * rise
        b = origin.x * ray.x + origin.z * ray.z + lift * rise
        c = origin.x * origin.x + origin.z * origin.z + lift * lift - self.radius**2
        return _roots(a, b, c)

    def surface(self, point: Vectors) -> tuple[Vectors, Array, Array]:
        """Use the angle around the axis and the height as texture coordinates."""
        half = self.height / 2
        up = (point.y - half) * (self.radius / half) ** 2
        angle = np.arctan2(point.x, point.z)
        return Vectors(point.x, up, point.z), angle * self.radius, np.asarray(point.y)


@dataclass(frozen=True)
class Frustum(Solid):
    """An upright cylinder, cone, or anything between.

    Args:
        radius: At the bottom, in metres.
        top_radius: At the top, in metres; 0 makes a cone. The side must be steeper than the sun.
    """

    radius: float
    top_radius: float

    @property
    def reach(self) -> float:
        """Radius of the upright cylinder that holds it, in metres."""
        return max(self.radius, self.top_radius)

    def interval(self, origin: Vectors, ray: Vectors) -> tuple[Array, Array]:
        """Cut the double cone by the slab between bottom and top."""
        slope = (self.top_radius - self.radius) / self.height
        here = self.radius + slope * origin.y
        a = ray.x * ray.x + ray.z * ray.z - (slope * ray.y) ** 2
        b = origin.x * ray.x + origin.z * ray.z - slope * ray.y * here
        c = origin.x * origin.x + origin.z * origin.z - here * here
        # A ray steeper than the side would lie in the cone for ever; layouts avoid such cones.
        enter, leave = _roots(np.maximum(a, _TINY), b, c)
        near, far = _slab(origin.y, ray.y, 0.0, self.height)
        return np.maximum(enter, near), np.minimum(leave, far)

    def surface(self, point: Vectors) -> tuple[Vectors, Array, Array]:
        """Tell the flat ends from the side, then wrap the side by its angle."""
        slope = (self.top_radius - self.radius) / self.height
        edge = self.height * 1e-3
        top, bottom = point.y > self.height - edge, point.y < edge
        flat = (top | bottom) & (point.x**2 + point.z**2 < (0.995 * self._radius_at(point.y)) ** 2)
        sign = np.where(top, np.float32(1), np.float32(-1))
        side = Vectors(point.x, -slope * self._radius_at(point.y), point.z)
        normal = Vectors(
            np.where(flat, np.float32(0), side.x),
            np.where(flat, sign, side.y),
            np.where(flat, np.float32(0), side.z),
        )
        angle = np.arctan2(point.x, point.z) * max(self.radius, self.top_radius)
        return normal, np.where(flat, point.x, angle), np.where(flat, point.z, point.y)

    def _radius_at(self, y: Array | float) -> Array | float:
        return self.radius + (self.top_radius - self.radius) * (y / self.height)


@dataclass(frozen=True)
class Polyhedron(Solid):
    """A body bounded by pairs of parallel planes.

    Args:
        slabs: One (x, y, z, low, high) per pair: a unit normal in local axes and the range that
            the product with it may take, in metres; infinite where there is no second plane.
        radius: Radius of the upright cylinder that holds it, in metres.
    """

    slabs: tuple[tuple[float, float, float, float, float], ...]
    radius: float

    @property
    def reach(self) -> float:
        """Radius of the upright cylinder that holds it, in metres."""
        return self.radius

    def interval(self, origin: Vectors, ray: Vectors) -> tuple[Array, Array]:
        """Intersect the intervals of all slabs."""
        bounds = [
            _slab(_dot(x, y, z, origin), _dot(x, y, z, ray), low, high)
            for x, y, z, low, high in self.slabs
        ]
        enter, leave = bounds[0]
        for near, far in bounds[1:]:
            enter, leave = np.maximum(enter, near), np.minimum(leave, far)
        return enter, leave

    def surface(self, point: Vectors) -> tuple[Vectors, Array, Array]:
        """Take the plane each point is nearest to; map by the axes it faces."""
        gaps, normals = [], []
        for x, y, z, low, high in self.slabs:
            along = _dot(x, y, z, point)
            for bound, sign in ((low, -1.0), (high, 1.0)):
                if math.isfinite(bound):
                    gaps.append(np.abs(along - bound))
                    normals.append((x * sign, y * sign, z * sign))
        normal = np.array(normals, np.float32).T[:, np.argmin(gaps, axis=0)]
        flat = np.abs(normal[1]) > 0.8
        sideways = np.abs(normal[0]) > np.abs(normal[2])
        a = np.where(sideways & ~flat, point.z, point.x)
        return Vectors(*normal), a, np.where(flat, point.z, point.y)


def block(
    x: float, z: float, base: float, yaw: float, size: tuple[float, float, float], paint: Material
) -> Polyhedron:
    """Return a box of the given width, height and length, in metres."""
    width, height, length = size
    slabs = (
        (1.0, 0.0, 0.0, -width / 2, width / 2),
        (0.0, 1.0, 0.0, 0.0, height),
        (0.0, 0.0, 1.0, -length / 2, length / 2),
    )
    return Polyhedron(x, z, base, yaw, height, paint, slabs, math.hypot(width, length) / 2)


def roof(
    x: float, z: float, base: float, yaw: float, size: tuple[float, float, float], paint: Material
) -> Polyhedron:
    """Return a gable roof of the given width, height and length, ridge along its length."""
    width, height, length = size
    half = width / 2
    norm = math.hypot(half, height)
    slope = (height / norm, half / norm, half * height / norm)
    slabs = (
        (slope[0], slope[1], 0.0, -math.inf, slope[2]),
        (-slope[0], slope[1], 0.0, -math.inf, slope[2]),
        (0.0, 1.0, 0.0, 0.0, math.inf),
        (0.0, 0.0, 1.0, -length / 2, length / 2),
    )
    return Polyhedron(x, z, base, yaw, height, paint, slabs, math.hypot(half, length / 2))


def prism(
    x: float, z: float, yaw: float, height: float, radius: float, paint: Material
) -> Polyhedron:
    """Return a six-sided pillar on the ground; `radius` reaches its corners, in metres."""
    flat = radius * math.cos(math.pi / 6)
    sides = tuple(
        (math.cos(k * math.pi / 3), 0.0, math.sin(k * math.pi / 3), -flat, flat) for k in range(3)
    )
    return Polyhedron(x, z, 0.0, yaw, height, paint, (*sides, (0.0, 1.0, 0.0, 0.0, height)), radius)


def _roots(a: Array, b: Array, c: Array | float) -> tuple[Array, Array]:
    """Solve a t^2 + 2 b t + c = 0; a miss gives (inf, -inf)."""
    disc = b * b - a * c
    root = np.sqrt(np.maximum(disc, 0))
    miss = disc <= 0
    enter, leave = (-b - root) / a, (root - b) / a
    enter[miss], leave[miss] = np.inf, -np.inf
    return enter, leave


def _slab(
    start: Array | float, slope: Array | float, low: float, high: float
) -> tuple[Array, Array]:
    """Return where start + t * slope enters and leaves [low, high]."""
    inverse = 1.0 / np.where(np.abs(slope) < _TINY, np.float32(_TINY), slope)
    first, second = (low - start) * inverse, (high - start) * inverse
    return np.minimum(first, second), np.maximum(first, second)


def _dot(x: float, y: float, z: float, vectors: Vectors) -> Any:
    """Return the product with a constant, leaving out zero components to save time."""
    parts = [c * v for c, v in ((x, vectors.x), (y, vectors.y), (z, vectors.z)) if c != 0.0]
    return sum(parts[1:], start=parts[0])
