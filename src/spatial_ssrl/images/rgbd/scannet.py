"""The ScanNet data set: indoor recordings, exported to files."""

from __future__ import annotations

from pathlib import Path

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import read_16_bit, to_depth


@IMAGE_SOURCES.register("scannet")
class ScanNet(RGBDFiles):
    """Frames of exported ScanNet recordings with depth in metres.

    Reads `color/<frame>.jpg` with `depth/<frame>.png` in any subfolder, as its Python exporter
    and the subset scannet_frames_25k have it, and `frame-<number>.color.jpg` with
    `frame-<number>.depth.pgm` (or png), as its C++ exporter and 7-Scenes have it. The `.sens`
    files themselves must be exported first.

    Pictures are 1296x968 and depth 640x480: the ratios of width and height differ by 0.4 %, so
    rows and columns are looked up apart. The values 0 and 65535 are unknown.

    Args:
        folder: Folder that holds recordings, or is one; `~` is expanded.
        depth_shift: Stored steps per metre; the header of the recording names it `depthShift`.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    Raises:
        ConfigError: If `depth_shift` is not above 0.

    References:
        ScanNet, arXiv:1702.04405; its SensReader (16-bit png, divided by depthShift, 0 unknown).
    """

    layouts = (
        (r"(|.*/)color/(\d+)\.(?:jpg|png)", r"(|.*/)depth/(\d+)\.png"),
        (r"(|.*/)frame-(\d+)\.color\.(?:jpg|png)", r"(|.*/)frame-(\d+)\.depth\.(?:png|pgm)"),
    )
    looked_for = "color/<frame>.jpg with depth/<frame>.png"

    def __init__(
        self,
        folder: Path | str,
        depth_shift: float = 1000.0,
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        if not depth_shift > 0:
            raise ConfigError(f"depth_shift must be above 0, got {depth_shift}.")
        self.depth_shift = depth_shift

    def _depth(self, group: Group) -> Depth:
        stored = read_16_bit(self._root() / group[1])
        return to_depth(stored, 1 / self.depth_shift, invalid=(0, 65535))
