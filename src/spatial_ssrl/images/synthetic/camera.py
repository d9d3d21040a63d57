"""The pinhole camera of drawn scenes: level, above the ground, looking slightly down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rays:
    """One ray per pixel centre, scaled so that its parameter is the depth along the view axis.

    World axes: x to the right, y up, z away from the viewer; the camera stands on the y axis.
    The camera never rolls, so x depends on the column only, y and z on the row only.

    Args:
        x: Right component by column, shape (1, S), float32.
        y: Up component by row, shape (S, 1), float32.
        z: Forward component by row, shape (S, 1), float32.
        height: Height of the common origin above the ground, in metres.
    """

    x: Array
    y: Array
    z: Array
    height: float

    def window(self, box: tuple[int, int, int, int]) -> Rays:
        """Return the rays of rows [top, bottom) and columns [left, right)."""
        top, bottom, left, right = box
        return Rays(self.x[:, left:right], self.y[top:bottom], self.z[top:bottom], self.height)


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the viewer stands and how the picture is taken.

    Args:
        height: Height above the ground, in metres.
        pitch: Angle below the horizontal of the viewing axis, in radians.
        focal: Focal length as a multiple of the picture's side.
    """

    height: float
    pitch: float
    focal: float

    def rays(self, size: int) -> Rays:
        """Return the rays through the pixel centres of a picture of `size` x `size` pixels."""
        offset = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) / self.focal
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        up = -offset[:, None]
        return Rays(offset[None, :], up * cos - sin, up * sin + cos, self.height)

    def ground_depth(self, row: float) -> float:
        """Return the depth of the ground at a row given as a share of the picture's height.

        Args:
            row: 0 is the top edge, 1 the bottom edge; must lie below the horizon.
        """
        up = (0.5 - row) / self.focal
        return self.height / (math.sin(self.pitch) - up * math.cos(self.pitch))

    def to_view(self, points: Array) -> Array:
        """Return world points in the camera's axes (right, up, depth), shape (N, 3)."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        above = points[:, 1] - self.height
        up = above * cos + points[:, 2] * sin
        depth = points[:, 2] * cos - above * sin
        return np.stack([points[:, 0], up, depth], axis=1)

    def box_around(self, points: Array, size: int) -> tuple[int, int, int, int]:
        """Return the pixel window (top, bottom, left, right) that holds all world points.

        Args:
            points: Corners of something convex, shape (N, 3), in metres.
            size: Side of the picture, in pixels.

        Returns:
            Half-open row and column ranges inside the picture; empty when it is out of sight.
        """
        view = self.to_view(points)
        if float(view[:, 2].min()) < 0.05:
            return (0, size, 0, size)  # Part of it is beside the camera: no finite projection.
        cols = (view[:, 0] / view[:, 2] * self.focal + 0.5) * size
        rows = (0.5 - view[:, 1] / view[:, 2] * self.focal) * size
        return (*_clip(rows, size), *_clip(cols, size))


def _clip(values: Array, size: int) -> tuple[int, int]:
    low = min(max(int(math.floor(float(values.min()))) - 1, 0), size)
    high = min(max(int(math.ceil(float(values.max()))) + 1, low), size)
    return low, high
