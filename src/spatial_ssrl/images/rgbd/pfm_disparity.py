"""Stereo sets with true disparity in PFM files: Middlebury version 3 and ETH3D."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import read_values
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import to_depth

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


@IMAGE_SOURCES.register("pfm_disparity")
class PFMDisparity(RGBDFiles):
    """Left pictures of stereo sets with depth in metres from true disparity.

    Reads `im0.png` with `disp0.pfm` (or `disp0GT.pfm`) and `calib.txt` in any subfolder, as the
    Middlebury 2014 and version 3 sets and ETH3D two-view have it. Disparity is larger for what is
    nearer; depth is `baseline x focal length / (disparity + doffs)`. Infinite disparity is
    unknown.

    Args:
        folder: Folder that holds the scenes, or is one; `~` is expanded.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        Middlebury stereo data sets, description of the 2014 calibration files: Z in millimetres
        from baseline in millimetres, f and doffs in pixels.
    """

    layouts = ((r"(|.*/)im0\.(?:png|ppm)", r"(|.*/)disp0(?:GT)?\.pfm", r"(|.*/)calib\.txt"),)
    looked_for = "im0.png with disp0.pfm or disp0GT.pfm, and calib.txt"

    def _depth(self, group: Group) -> Depth:
        _, path, calibration = (self._root() / part for part in group)
        disparity = read_values(path)
        focal, baseline, doffs = _read_calibration(calibration, disparity.shape[1])
        return to_depth(disparity + np.float32(doffs), focal * baseline / 1000, inverse=True)


def _read_calibration(path: Path, width: int) -> tuple[float, float, float]:
    """Return focal length in pixels, baseline in millimetres and disparity offset in pixels."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SceneUnreadable(f"{path} cannot be read as text: {error}") from error
    found = {
        key: re.search(rf"^{key}\s*=\s*\[?\s*({_NUMBER})(?=[\s;\]]|$)", text, re.MULTILINE)
        for key in ("cam0", "baseline", "doffs", "width")
    }
    missing = [key for key, match in found.items() if match is None]
    if missing:
        raise SceneUnreadable(f"{path} names no {' and no '.join(missing)}.")
    numbers = {key: float(match.group(1)) for key, match in found.items() if match is not None}
    if numbers["width"] != width:
        raise SceneUnreadable(
            f"{path} is for pictures {numbers['width']:g} pixels wide, and the disparity beside "
            f"it has {width}."
        )
    if not numbers["cam0"] * numbers["baseline"] > 0:
        raise SceneUnreadable(f"{path} names a focal length or baseline that is not above 0.")
    return numbers["cam0"], numbers["baseline"], numbers["doffs"]
