"""Pictures with depth, as pairs of files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.depth_files import Values, read_values
from spatial_ssrl.images.pairing import find_groups, matching
from spatial_ssrl.images.pictures import (
    Crop,
    apply_crop,
    check_fit,
    crop_for,
    open_picture,
    undo_orientation,
)

_log = logging.getLogger(__name__)

_MOST_SKEW = 0.05


@IMAGE_SOURCES.register("rgbd_pairs")
class RGBDPairs(ImageSource):
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

    has_depth = True

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
        if not depth_scale > 0:
            raise ConfigError(f"depth_scale must be above 0, got {depth_scale}.")
        check_fit(size, square)
        self.folder = Path(folder)
        self.image_pattern = image_pattern
        self.depth_pattern = depth_pattern
        self.mask_pattern = mask_pattern
        self.depth_scale = depth_scale
        self.inverse = inverse
        self.invalid = tuple(invalid)
        self.unit = unit
        self.hdf5_key = hdf5_key
        self.size = size
        self.square = square
        self._groups: list[tuple[str, ...]] | None = None
        matching(self._patterns())

    def __len__(self) -> int:
        """Return the number of pairs.

        Raises:
            ConfigError: If the folder is missing or the patterns match no pairs.
        """
        return len(self._pairs())

    def prepare(self) -> None:
        """Check that at least one pair can be decoded.

        Raises:
            ConfigError: If the folder is missing, the patterns match no pairs, or no pair can
                be decoded; the last message says why the first one could not.
        """
        cause = ""
        for index in range(len(self)):
            try:
                self.scene(index)
            except SceneUnreadable as error:
                cause = cause or str(error)
            else:
                return
        raise ConfigError(f"folder {str(self._root())!r} holds no readable pair: {cause}")

    def scene(self, index: int) -> Scene:
        """Decode pair `index`.

        Raises:
            SceneUnreadable: If a file cannot be decoded or the two do not go together.
        """
        name = self.source_id(index)
        image_path, depth_path, *masks = (self._root() / part for part in self._pairs()[index])
        picture, orientation = open_picture(image_path, self.size)
        crop = crop_for(*picture.size, self.size, self.square)
        depth = self._depth(depth_path, masks)
        depth = undo_orientation(depth, orientation)
        _check_shape(depth_path, depth.shape, picture.size)
        return Scene(
            image=apply_crop(picture, crop),
            source_id=name,
            depth=_look_up(depth, crop, picture.size),
            depth_unit=self.unit,
        )

    def source_id(self, index: int) -> str:
        """Return the path of picture `index` relative to the folder.

        Raises:
            IndexError: If there is no such pair.
        """
        pairs = self._pairs()
        if not 0 <= index < len(pairs):
            raise IndexError(f"pair {index} is out of range: there are {len(pairs)}.")
        return pairs[index][0]

    def _root(self) -> Path:
        return self.folder.expanduser()

    def _patterns(self) -> dict[str, str]:
        patterns = {"image_pattern": self.image_pattern, "depth_pattern": self.depth_pattern}
        if self.mask_pattern is not None:
            patterns["mask_pattern"] = self.mask_pattern
        return patterns

    def _pairs(self) -> list[tuple[str, ...]]:
        # Kept once found, and pickled along, so that every worker counts the same pairs.
        if self._groups is None:
            root = self._root()
            if not root.is_dir():
                raise ConfigError(
                    f"folder {str(root)!r} is not a folder; give one that holds pairs of files."
                )
            self._groups, alone = find_groups(root, self._patterns())
            if alone:
                _log.warning(
                    "Left out %d of %d pictures in %s that have no depth file.",
                    alone, alone + len(self._groups), root,
                )  # fmt: skip
        return self._groups

    def _depth(self, path: Path, masks: Sequence[Path]) -> npt.NDArray[np.float32]:
        """Return depth in its unit, as stored in the file, NaN where unknown."""
        stored = read_values(path, self.hdf5_key)
        if stored.dtype == np.uint8 and self.unit == "metre" and self.depth_scale == 1.0:
            raise SceneUnreadable(
                f"{path} holds 8-bit values, which are not metres: set depth_scale to the metres "
                "per step, or unit to relative."
            )
        values = stored.astype(np.float32)
        known = (
            np.isfinite(values)
            & (values > 0)
            & ~np.isin(values, np.array(self.invalid, np.float32))
        )
        for mask in masks:
            known &= _mask(mask, self.hdf5_key, values.shape)
        safe = np.where(known, values, np.float32(1))
        depth = self.depth_scale / safe if self.inverse else safe * np.float32(self.depth_scale)
        return np.where(known, depth, np.float32(np.nan)).astype(np.float32)


def _mask(path: Path, key: str, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    mask: Values = read_values(path, key)
    if mask.shape != shape:
        raise SceneUnreadable(f"{path} is a mask of shape {mask.shape} for depth of shape {shape}.")
    return np.asarray(mask > 0)


def _check_shape(path: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse depth whose proportions differ from the picture's: it shows something else."""
    skew = (shape[1] / size[0]) / (shape[0] / size[1])
    if abs(skew - 1) > _MOST_SKEW:
        raise SceneUnreadable(
            f"{path} is {shape[1]}x{shape[0]} for a picture of {size[0]}x{size[1]}; depth must "
            "have the proportions of its picture."
        )


def _look_up(
    depth: npt.NDArray[np.float32], crop: Crop, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return the depth at the centre of each pixel of the cropped and scaled picture."""
    columns = crop.left + (np.arange(crop.columns) + 0.5) * (crop.width / crop.columns)
    rows = crop.top + (np.arange(crop.rows) + 0.5) * (crop.height / crop.rows)
    column = np.floor(columns * (depth.shape[1] / size[0])).astype(np.intp)
    row = np.floor(rows * (depth.shape[0] / size[1])).astype(np.intp)
    return np.ascontiguousarray(depth[row[:, None], column[None, :]])
