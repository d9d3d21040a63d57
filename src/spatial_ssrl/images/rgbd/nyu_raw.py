"""The raw recordings of NYU Depth v2, as the Kinect delivered them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.rgbd import kinect
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.association import check_tolerance, nearest_pairs
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles, check_rows_and_columns
from spatial_ssrl.images.rgbd.values import read_16_bit
from spatial_ssrl.images.tree import files_below

_FRAME = re.compile(r"(|.*/)([rd])-(\d+\.\d+)-\d+\.(ppm|pgm)")
_NO_READING = 2047
_FARTHEST_M = 10.0


@IMAGE_SOURCES.register("nyuv2_raw")
class NYUv2Raw(RGBDFiles):
    """Raw Kinect frames of NYU Depth v2 with depth in metres, registered to the picture.

    Reads `r-<time>-<n>.ppm` with the `d-<time>-<n>.pgm` nearest in time, in any subfolder. The pgm
    files hold codes of 11 bits with the lower byte first, against the rule of their format; depth
    is `351.3 / (1092.5 - code)`, 2047 is no reading, and what comes out beyond 10 m or below 0 is
    unknown.

    The depth camera sits 2.5 cm beside the colour camera and sees a narrower view, so stored depth
    lies about 25 pixels off its object, and up to 48 at the border. By default each reading is
    moved to the pixel of the picture that shows it, by the calibration of the data set; see
    `kinect.register`.

    Args:
        folder: Folder that holds the recordings; `~` is expanded.
        tolerance: Largest difference in time between a picture and its depth, in seconds.
        register: Whether to move depth to where the colour camera sees it; frames must be 640x480.
        crop: First row, end row, first column and end column that are kept; null keeps all.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    Raises:
        ConfigError: If `tolerance` is below 0 or `crop` keeps nothing.

    References:
        NYU Depth v2, ECCV 2012; camera_params.m of its toolbox (the two constants and 10 m).
    """

    looked_for = "r-<time>-<n>.ppm with d-<time>-<n>.pgm at nearly the same time"

    def __init__(
        self,
        folder: Path | str,
        tolerance: float = 0.02,
        register: bool = True,
        crop: tuple[int, int, int, int] | None = (45, 471, 41, 601),
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        check_tolerance(tolerance)
        check_rows_and_columns(crop)
        self.tolerance = tolerance
        self.register = register
        self.crop = crop

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        recordings: dict[str, dict[str, list[tuple[str, float]]]] = {}
        for name in files_below(root):
            if match := _FRAME.fullmatch(name):
                kinds = recordings.setdefault(match.group(1), {"r": [], "d": []})
                kinds[match.group(2)].append((name, float(match.group(3))))
        groups: list[Group] = []
        alone: set[str] = set()
        for kinds in recordings.values():
            pictures, depths = kinds["r"], kinds["d"]
            pairs = nearest_pairs(
                [time for _, time in pictures], [time for _, time in depths], self.tolerance
            )
            groups += [(pictures[one][0], depths[other][0]) for one, other in pairs]
            alone |= {name for name, _ in pictures} - {pictures[one][0] for one, _ in pairs}
        return sorted(groups), sorted(alone)

    def _depth(self, group: Group) -> Depth:
        path = self._root() / group[1]
        codes = read_16_bit(path).byteswap().astype(np.float32)
        # The smallest divisor kept is that of 10 m: codes above it have no sensible depth.
        divisor = np.float32(1092.5) - codes
        known = (codes != _NO_READING) & (divisor >= 351.3 / _FARTHEST_M)
        metres = np.float32(351.3) / np.where(known, divisor, np.float32(1))
        depth = np.where(known, metres, np.float32(np.nan)).astype(np.float32)
        if not self.register:
            return depth
        if depth.shape != (kinect.HEIGHT, kinect.WIDTH):
            raise SceneUnreadable(
                f"{path} is {depth.shape[1]}x{depth.shape[0]}; the calibration is for "
                f"{kinect.WIDTH}x{kinect.HEIGHT}, so set register to false."
            )
        return kinect.register(depth)
