"""The MegaDepth data set: landmarks reconstructed from tourists' photos."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import load_h5py, read_values
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import to_depth


@IMAGE_SOURCES.register("megadepth")
class MegaDepth(RGBDFiles):
    """Photos of MegaDepth v1 with relative depth from reconstruction.

    Reads `imgs/<name>.jpg` with `depths/<name>.h5` in any subfolder, such as
    `0000/dense0`. Each reconstruction has a scale of its own, so depth is comparable within one
    picture only. Depth is 0 where nothing was reconstructed: sky, people, water. A file with
    values below 0 holds labels of foreground and background in place of depth, and its picture
    is refused as unreadable.

    Needs h5py.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        MegaDepth, arXiv:1804.00607, section 3 (ordinal labels); loaders in common use leave
        files out whose smallest value is below 0.
    """

    layouts = ((r"(|.*/)imgs/([^/]+)\.(?i:jpe?g|png)", r"(|.*/)depths/([^/]+)\.h5"),)
    looked_for = "imgs/<name>.jpg with depths/<name>.h5"
    licence = "CC BY 4.0"
    unit: Literal["metre", "relative"] = "relative"

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        load_h5py()
        return super()._find(root)

    def _depth(self, group: Group) -> Depth:
        path = self._root() / group[1]
        stored = read_values(path)
        if stored.min() < 0:
            raise SceneUnreadable(
                f"{path} holds values below 0: labels of foreground and background, not depth."
            )
        return to_depth(stored, 1.0)
