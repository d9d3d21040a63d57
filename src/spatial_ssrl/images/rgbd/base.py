"""What all readers of RGB-D folders share: pairs of files, one decoded at a time."""

from __future__ import annotations

import logging
import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import ImageSource
from spatial_ssrl.images.pairing import join_matches, match_names
from spatial_ssrl.images.pictures import (
    apply_crop,
    check_fit,
    crop_for,
    open_picture,
    undo_orientation,
)
from spatial_ssrl.images.rgbd.alignment import Depth, look_up
from spatial_ssrl.images.tree import files_below

_log = logging.getLogger(__name__)

Group = tuple[str, ...]

_MOST_SKEW = 0.05


class RGBDFiles(ImageSource):
    """Pictures with depth from files that belong together; a reader adds its layout.

    A reader says which files of the folder form a group, by `layouts` or by `_find`, and how a
    group's depth is decoded, by `_depth`. The rest is the same for all: files without a partner
    are left out with one warning, depth of another size than its picture is looked up at the
    centre of each pixel and never interpolated, so that no depth arises between two surfaces, and
    depth is taken to be aligned with the picture as it is stored, before its EXIF rotation.

    `source_id` is the first path of a group, relative to the folder. Folders are searched with
    their subfolders, and links to folders are followed. The folder is looked at when its length
    is first asked for, not on construction.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths; neighbouring
            frames of a video are nearly the same picture.

    Raises:
        ConfigError: If `size` or `every` is below 1, or `square` is set without `size`.
    """

    has_depth = True

    layouts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Expressions for the picture, its depth and further files of a group, for each variant of
    the layout. Files whose captured texts agree form a group; a depth file that an earlier
    variant has taken is not taken again."""

    looked_for: ClassVar[str] = ""
    """The layout in words, for the message about a folder that holds none of it."""

    licence: ClassVar[str] = ""
    """Licence of the data set as its publisher states it; "" when it states none."""

    sparse: ClassVar[bool] = False
    """Whether depth is known at scattered pixels only: then a pixel of a picture that is scaled
    down takes the known reading nearest to its centre from all that lie inside of it."""

    unit: Literal["metre", "relative"] = "metre"
    crop: tuple[int, int, int, int] | None = None
    """First row, end row, first column and end column that are kept of every picture."""

    def __init__(
        self,
        folder: Path | str,
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        check_fit(size, square)
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}.")
        self.folder = Path(folder)
        self.size = size
        self.square = square
        self.every = every
        self._groups: list[Group] | None = None
        self._alone: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of pictures with depth.

        Raises:
            ConfigError: If the folder is missing or holds no such files.
        """
        return len(self._found())

    def prepare(self) -> None:
        """Check that at least one picture with its depth can be decoded.

        Raises:
            ConfigError: If the folder is missing, holds no such files, or none of them can be
                decoded; the last message says why the first one could not.
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
        """Decode picture `index` and its depth.

        Raises:
            SceneUnreadable: If a file cannot be decoded, the two do not go together, or the
                depth is unknown or the same everywhere.
        """
        name = self.source_id(index)
        group = self._found()[index]
        where = self._root() / group[min(1, len(group) - 1)]
        picture, orientation = self._picture(group)
        depth = undo_orientation(self._depth(group), orientation)
        _check_shape(where, depth.shape, picture.size)
        if self.crop is not None:
            picture, depth = _cut(where, picture, depth, self.crop)
        _check_known(where, depth)
        fit = crop_for(*picture.size, self.size, self.square)
        return Scene(
            image=apply_crop(picture, fit),
            source_id=name,
            depth=look_up(depth, fit, picture.size, self.sparse),
            depth_unit=self.unit,
            licence=self.licence,
        )

    def source_id(self, index: int) -> str:
        """Return the path of picture `index` relative to the folder.

        Raises:
            IndexError: If there is no such picture.
        """
        groups = self._found()
        if not 0 <= index < len(groups):
            raise IndexError(f"pair {index} is out of range: there are {len(groups)}.")
        return groups[index][0]

    def left_out(self) -> Mapping[str, str]:
        """Return the pictures that have no depth file."""
        self._found()
        return dict.fromkeys(self._alone, "no depth file for the picture")

    def _root(self) -> Path:
        return self.folder.expanduser()

    def _found(self) -> list[Group]:
        # Kept once found, and pickled along, so that every worker counts the same pairs.
        if self._groups is None:
            root = self._root()
            if not root.is_dir():
                raise ConfigError(
                    f"folder {str(root)!r} is not a folder; give one that holds {self.looked_for}."
                )
            groups, alone = self._find(root)
            if not groups:
                raise ConfigError(
                    f"folder {str(root)!r} holds no picture with its depth for "
                    f"{type(self).__name__}: looked for {self.looked_for}, in all subfolders; "
                    f"{len(alone)} pictures there have no depth file."
                )
            if alone:
                _log.warning(
                    "Left out %d of %d pictures in %s that have no depth file, such as %s.",
                    len(alone), len(alone) + len(groups), root, alone[0],
                )  # fmt: skip
            self._alone = tuple(alone)
            self._groups = groups[:: self.every]
        return self._groups

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        """Return the groups of files in a folder and the pictures that are alone, both sorted."""
        names = files_below(root)
        groups: list[Group] = []
        pictures: set[str] = set()
        partners: set[str] = set()
        taken: set[str] = set()
        for layout in self.layouts:
            found = [
                match_names(names, re.compile(pattern), self.looked_for, "keep one of them")
                for pattern in layout
            ]
            joined = join_matches(found)
            pictures.update(found[0].values())
            partners.update(path for group in joined for path in group)
            groups += [group for group in joined if group[1] not in taken]
            taken.update(group[1] for group in joined)
        return sorted(groups), sorted(pictures - partners)

    def _picture(self, group: Group) -> tuple[Image.Image, int]:
        """Return the picture of a group, upright, and the EXIF orientation that was undone."""
        # A JPEG file decoded at a reduced size has other rows and columns to cut at.
        at_least = self.size if self.crop is None else None
        return open_picture(self._root() / group[0], at_least)

    @abstractmethod
    def _depth(self, group: Group) -> Depth:
        """Return the depth of a group as stored, shape (H, W), in its unit, NaN where unknown."""


def check_rows_and_columns(crop: tuple[int, int, int, int] | None) -> None:
    """Check a setting that says which rows and columns of every picture are kept.

    Raises:
        ConfigError: If it keeps nothing or begins before the picture.
    """
    if crop is not None:
        top, bottom, left, right = crop
        if not (0 <= top < bottom and 0 <= left < right):
            raise ConfigError(
                f"crop must be first row, end row, first column, end column, got {list(crop)}."
            )


def _cut(
    where: Path, picture: Image.Image, depth: Depth, crop: tuple[int, int, int, int]
) -> tuple[Image.Image, Depth]:
    top, bottom, left, right = crop
    width, height = picture.size
    if bottom > height or right > width:
        raise SceneUnreadable(
            f"{where} belongs to a picture of {width}x{height}, too small for crop={list(crop)}; "
            "set crop to null if its frame is already cut off."
        )
    aligned = look_up(depth, crop_for(width, height, None, False), picture.size)
    return picture.crop((left, top, right, bottom)), aligned[top:bottom, left:right]


def _check_shape(where: Path, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse depth whose proportions differ from the picture's: it shows something else."""
    skew = (shape[1] / size[0]) / (shape[0] / size[1])
    if abs(skew - 1) > _MOST_SKEW:
        raise SceneUnreadable(
            f"{where} is {shape[1]}x{shape[0]} for a picture of {size[0]}x{size[1]}; depth must "
            "have the proportions of its picture."
        )


def _check_known(where: Path, depth: Depth) -> None:
    """Refuse depth that tells nothing, or that no sensor measured."""
    known = depth[~np.isnan(depth)]
    if known.size == 0:
        raise SceneUnreadable(
            f"{where} holds no known depth: all its values are invalid, masked out or not above 0."
        )
    if known.min() == known.max():
        raise SceneUnreadable(f"{where} holds the same depth everywhere, {known[0]:g}.")
