"""The labelled part of NYU Depth v2, in its one MATLAB file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import load_h5py
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles, check_rows_and_columns
from spatial_ssrl.images.rgbd.values import to_depth
from spatial_ssrl.images.tree import files_below


@IMAGE_SOURCES.register("nyuv2_labelled")
class NYUv2Labelled(RGBDFiles):
    """The 1,449 labelled pictures of NYU Depth v2 with depth in metres, from the `.mat` file.

    Reads `nyu_depth_v2_labeled.mat`, wherever it lies below the folder. Its arrays are stored with
    their axes reversed and are transposed here. Pictures have a white frame of a few pixels, which
    would tell a piece of the border from any other; it is cut off before anything else.
    `source_id` is the path of the file and the number of the picture, from 0000.

    Needs h5py.

    Args:
        folder: Folder that holds the file; `~` is expanded.
        filled: Whether to read `depths`, where holes are filled by a guess, in place of
            `rawDepths`.
        crop: First row, end row, first column and end column that are kept; null keeps all.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in their order.

    Raises:
        ConfigError: If `crop` keeps nothing.

    References:
        NYU Depth v2, ECCV 2012, data set page (variables of the file); the crop is the usual one
        of depth benchmarks.
    """

    looked_for = "nyu_depth_v2_labeled.mat"

    def __init__(
        self,
        folder: Path | str,
        filled: bool = False,
        crop: tuple[int, int, int, int] | None = (45, 471, 41, 601),
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        check_rows_and_columns(crop)
        self.filled = filled
        self.crop = crop

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        groups: list[Group] = []
        for name in files_below(root):
            if Path(name).name == self.looked_for:
                groups += [(f"{name}/{number:04d}",) for number in range(self._count(root / name))]
        return groups, []

    def _count(self, path: Path) -> int:
        h5py = load_h5py()
        try:
            with h5py.File(path, "r") as archive:
                shapes = [archive["images"].shape, archive[self._key()].shape]
        except Exception as error:  # h5py raises many kinds of error on a broken file.
            raise ConfigError(f"{path} cannot be read as HDF5: {error}") from error
        if shapes[0][0] != shapes[1][0]:
            raise ConfigError(
                f"{path} holds {shapes[0][0]} pictures and {shapes[1][0]} depth maps; it is not "
                "whole, download it again."
            )
        return int(shapes[0][0])

    def _key(self) -> str:
        return "depths" if self.filled else "rawDepths"

    def _read(self, group: Group, key: str) -> npt.NDArray[np.generic]:
        """Return one picture or depth map as (H, W) or (H, W, 3)."""
        path, _, number = group[0].rpartition("/")
        try:
            with load_h5py().File(self._root() / path, "r") as archive:
                return np.ascontiguousarray(np.asarray(archive[key][int(number)]).T)
        except (OSError, KeyError, IndexError) as error:
            raise SceneUnreadable(f"{group[0]} cannot be read: {error}") from error

    def _picture(self, group: Group) -> tuple[Image.Image, int]:
        return Image.fromarray(self._read(group, "images").astype(np.uint8)), 1

    def _depth(self, group: Group) -> Depth:
        return to_depth(self._read(group, self._key()), 1.0)
