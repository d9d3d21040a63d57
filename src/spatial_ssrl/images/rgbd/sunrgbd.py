"""The SUN RGB-D data set: rooms seen by four depth sensors."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.pictures import SUFFIXES
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import read_16_bit, to_depth
from spatial_ssrl.images.tree import files_below


@IMAGE_SOURCES.register("sunrgbd")
class SUNRGBD(RGBDFiles):
    """Pictures of SUN RGB-D with sensor depth in metres.

    Reads every folder, however deep, that holds one picture in `image` and one 16-bit png in
    `depth`. The names of the two may differ (`img_0063.jpg`, `img_0063_abs.png`), so the folder
    pairs them. Stored bits are rotated to the left by three places: read as plain millimetres
    they would be eight times too large, and wrong in order beyond 8.19 m.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        filled: Whether to read `depth_bfx`, where holes are filled by a guess, in place of
            `depth`.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        SUN RGB-D, CVPR 2015; read3dPoints.m of its toolbox (bit rotation, millimetres).
    """

    looked_for = "<scene>/image/<name>.jpg with <scene>/depth/<name>.png, one file in each"

    def __init__(
        self,
        folder: Path | str,
        filled: bool = False,
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        self.filled = filled

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        depth = "depth_bfx" if self.filled else "depth"
        scenes: dict[PurePosixPath, dict[str, list[str]]] = {}
        for name in files_below(root):
            path = PurePosixPath(name)
            kind = path.parent.name
            if kind in ("image", depth) and path.suffix.lower() in SUFFIXES:
                scenes.setdefault(path.parent.parent, {}).setdefault(kind, []).append(name)
        groups: list[Group] = []
        alone: list[str] = []
        for scene in scenes.values():
            first, second = scene.get("image", []), scene.get(depth, [])
            if len(first) == len(second) == 1:
                groups.append((first[0], second[0]))
            else:
                alone += first
        return sorted(groups), sorted(alone)

    def _depth(self, group: Group) -> Depth:
        stored = read_16_bit(self._root() / group[1])
        return to_depth(np.bitwise_or(stored >> 3, stored << 13), 0.001)
