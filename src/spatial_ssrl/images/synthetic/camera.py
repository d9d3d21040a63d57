"""The pinhole camera of drawn scenes: level, above the ground, looking slightly down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Always float32 here. The numpy stubs claim that float32 times a Python float is float64, so a
# narrower type would need a cast on every line of arithmetic.
Array = npt.NDArray[Any]


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

    def window_of(
        self, x: float, z: float, reach: float, low: float, high: float, size: int
    ) -> tuple[int, int, int, int]:
        """Return the pixel window that holds an upright cylinder.

        Args:
            x: Right coordinate of its axis, in metres.
            z: Forward coordinate of its axis, in metres.
            reach: Its radius, in metres.
            low: Height of its bottom, in metres.
            high: Height of its top, in metres.
            size: Side of the picture, in pixels.

        Returns:
            Half-open rows and columns (top, bottom, left, right) inside the picture; empty when
            it is out of sight.
        """
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        rows, columns = [], []
        for y in (low - self.height, high - self.height):
            for forward in (z - reach, z + reach):
                depth = forward * cos - y * sin
                if depth < 0.05:
                    return (0, size, 0, size)  # Beside the camera there is no finite projection.
                rows.append(0.5 - (y * cos + forward * sin) / depth * self.focal)
                columns.append((x - reach) / depth * self.focal + 0.5)
                columns.append((x + reach) / depth * self.focal + 0.5)
        return (*_pixels(rows, size), *_pixels(columns, size))


def _pixels(shares: list[float], size: int) -> tuple[int, int]:
    low = min(max(math.floor(min(shares) * size) - 1, 0), size)
    return low, min(max(math.ceil(max(shares) * size) + 1, low), size)
