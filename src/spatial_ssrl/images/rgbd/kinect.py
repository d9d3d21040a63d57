"""Depth of the Kinect that recorded NYU Depth v2, as its colour camera sees it.

The numbers are the calibration published with the data set, camera_params.m of its toolbox, as
many repositories repeat it. The toolbox brings both pictures to undistorted cameras, which leaves
the white frame of the registered exports; here the colour picture stays as it is, and depth is
taken to where the distorted colour camera sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH = 480, 640

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Lens:
    """Focal lengths and centre in pixels; radial (k) and tangential (p) distortion."""

    focal: tuple[float, float]
    centre: tuple[float, float]
    k: tuple[float, float, float]
    p: tuple[float, float]

    def bend(self, x: _Array, y: _Array) -> tuple[_Array, _Array]:
        """Return where the lens puts undistorted points, all over the focal length."""
        r = x * x + y * y
        radial = 1 + r * (self.k[0] + r * (self.k[1] + r * self.k[2]))
        bent_x = x * radial + 2 * self.p[0] * x * y + self.p[1] * (r + 2 * x * x)
        bent_y = y * radial + self.p[0] * (r + 2 * y * y) + 2 * self.p[1] * x * y
        return bent_x, bent_y

    def straighten(self, bent_x: _Array, bent_y: _Array) -> tuple[_Array, _Array]:
        """Undo `bend` by repeated correction, which converges fast for lenses as mild as these."""
        x, y = bent_x, bent_y
        for _ in range(20):
            off_x, off_y = self.bend(x, y)
            x, y = x + (bent_x - off_x), y + (bent_y - off_y)
        return x, y


COLOUR = _Lens(
    focal=(518.85790117450188, 519.46961112127485),
    centre=(325.58244941119034, 253.73616633400465),
    k=(0.20796615318809061, -0.58613825163911781, 0.49856986684705107),
    p=(7.2231363135888329e-04, 1.0479627195765181e-03),
)
DEPTH = _Lens(
    focal=(582.62448167737955, 582.69103270988637),
    centre=(313.04475870804731, 238.44389626620386),
    k=(-0.099897236553084481, 0.39065324602765344, -0.51031725053400578),
    p=(1.9290592870229277e-03, -1.9422022475975055e-03),
)
# From the depth camera to the colour camera: turned, then moved, in metres.
ROTATION = np.array(
    [
        [9.9997798940829263e-01, -5.0359919480810989e-03, -4.3196624923060242e-03],
        [5.0518419386157446e-03, 9.9998051861143999e-01, 3.6662365748484798e-03],
        [4.3011152014118693e-03, -3.6879781309514218e-03, 9.9998394948385538e-01],
    ]
)
SHIFT_M = np.array([-2.5031875059141302e-02, -6.6238747008330102e-04, 2.9342312935846411e-04])


def register(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return depth as the colour camera sees it.

    Each reading moves to the pixel of the colour picture that shows it; where several arrive, the
    nearest stays, since it hides the others. Nothing is interpolated: pixels that none reaches
    are unknown, such as the border that the depth camera does not see.

    Args:
        depth: Depth of the depth camera, shape (480, 640), metres, NaN where unknown.

    Returns:
        Depth of the colour camera, of the same shape and unit.
    """
    known = np.isfinite(depth)
    points = _rays()[:, known] * depth[known].astype(np.float64)
    x, y, z = ROTATION @ points + SHIFT_M[:, None]
    bent_x, bent_y = COLOUR.bend(x / z, y / z)
    column = np.rint(bent_x * COLOUR.focal[0] + COLOUR.centre[0]).astype(np.intp)
    row = np.rint(bent_y * COLOUR.focal[1] + COLOUR.centre[1]).astype(np.intp)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    seen = np.full((HEIGHT, WIDTH), np.inf)
    np.minimum.at(seen, (row[inside], column[inside]), z[inside])
    return np.where(np.isfinite(seen), seen, np.nan).astype(np.float32)


@cache
def _rays() -> _Array:
    """Return the direction of each pixel of the depth camera, shape (3, 480, 640), z of 1."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    x, y = DEPTH.straighten(
        (column - DEPTH.centre[0]) / DEPTH.focal[0], (row - DEPTH.centre[1]) / DEPTH.focal[1]
    )
    return np.stack([x, y, np.ones_like(x)])
