"""Pictures with depth, as pairs of files matched by patterns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import read_values
from spatial_ssrl.images.pairing import find_groups, matching
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import masked, to_depth


@IMAGE_SOURCES.register("rgbd_pairs")
class RGBDPairs(RGBDFiles):
    """Pictures with depth, from pairs of files in a folder.

    Patterns are relative to the folder; `*` and `?` stay within a folder, `**/` is any folders.
    A field in braces is any text, and files whose fields agree belong together:
    `rgb/{name}.png` with `depth/{name}.png`, or `{name}.png` with `{name}_depth.npy` through all
    subfolders. Files without a partner are left out with one warning. Without fields the sorted
    lists are paired in order and must be equally long.

    Depth may be png, tif, pgm, pfm, npy, npz or HDF5 (which needs h5py). It is `value x
    depth_scale`, or `depth_scale / value` when `inverse`; values that are invalid, not above 0,
    not finite or masked out become NaN. Depth of another size than its picture is looked up at
    the centre of each pixel, never interpolated, so that no depth arises between two surfaces.
    Depth is taken to be aligned with the picture as it is stored, before its EXIF rotation.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        image_pattern: Which files are pictures.
        depth_pattern: Which files are depth.
        mask_pattern: Which files are masks, 0 where depth is not to be trusted; null for none.
        depth_scale: Size of one stored step: 0.001 for millimetres, 0.0002 for TUM, 1/256 for
            KITTI. For inverse depth, the product of depth and stored value, such as focal length
            times baseline.
        inverse: Whether larger stored values are nearer, as in disparity.
        invalid: Stored values that mean unknown, such as 0 or 65535.
        unit: Whether scaled depth is in metres or only comparable within one picture.
        hdf5_key: Name of the array inside HDF5 and npz files.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.

    Raises:
        ConfigError: If patterns have different fields or a number is out of range.
    """

    looked_for = "pairs of files"

    def __init__(
        self,
        folder: Path | str,
        image_pattern: str,
        depth_pattern: str,
        mask_pattern: str | None = None,
        depth_scale: float = 1.0,
        inverse: bool = False,
        invalid: Sequence[float] = (0.0,),
        unit: Literal["metre", "relative"] = "metre",
        hdf5_key: str = "depth",
        size: int | None = None,
        square: bool = False,
    ) -> None:
        super().__init__(folder, size, square)
        if not depth_scale > 0:
            raise ConfigError(f"depth_scale must be above 0, got {depth_scale}.")
        self.image_pattern = image_pattern
        self.depth_pattern = depth_pattern
        self.mask_pattern = mask_pattern
        self.depth_scale = depth_scale
        self.inverse = inverse
        self.invalid = tuple(invalid)
        self.unit = unit
        self.hdf5_key = hdf5_key
        matching(self._patterns())

    def _patterns(self) -> dict[str, str]:
        patterns = {"image_pattern": self.image_pattern, "depth_pattern": self.depth_pattern}
        if self.mask_pattern is not None:
            patterns["mask_pattern"] = self.mask_pattern
        return patterns

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        return find_groups(root, self._patterns())

    def _depth(self, group: Group) -> Depth:
        _, path, *masks = (self._root() / part for part in group)
        stored = read_values(path, self.hdf5_key)
        if stored.dtype == np.uint8 and self.unit == "metre" and self.depth_scale == 1.0:
            raise SceneUnreadable(
                f"{path} holds 8-bit values, which are not metres: set depth_scale to the metres "
                "per step, or unit to relative."
            )
        depth = to_depth(stored, self.depth_scale, self.invalid, self.inverse)
        for mask in masks:
            depth = masked(depth, mask, self.hdf5_key)
        return depth
