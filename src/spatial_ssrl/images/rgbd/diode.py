"""The DIODE data set: laser-scanned rooms and streets."""

from __future__ import annotations

from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import read_values
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import masked, to_depth


@IMAGE_SOURCES.register("diode")
class DIODE(RGBDFiles):
    """Pictures of DIODE with laser-scanned depth in metres, where the scan is to be trusted.

    Reads `<name>.png` with `<name>_depth.npy` and `<name>_depth_mask.npy` in any subfolder, such
    as `val/indoors/scene_00019/scan_00183`. Depth outside the mask is unknown, although
    the files hold positive numbers there, some of them behind the farthest trusted depth.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        DIODE, arXiv:1908.00463; its devkit diode.py (depth in metres, shape (H, W, 1), and mask).
    """

    layouts = ((r"(.+)\.png", r"(.+)_depth\.npy", r"(.+)_depth_mask\.npy"),)
    looked_for = "<name>.png with <name>_depth.npy and <name>_depth_mask.npy"
    licence = "MIT"

    def _depth(self, group: Group) -> Depth:
        _, depth, mask = (self._root() / part for part in group)
        return masked(to_depth(read_values(depth), 1.0), mask)
