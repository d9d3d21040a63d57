"""Rows of a table as pictures with depth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.frames import Frame, find_frame
from spatial_ssrl.images.hub_tables import picture_bytes
from spatial_ssrl.images.pictures import (
    apply_crop,
    check_fit,
    crop_for,
    decode_picture,
    undo_orientation,
)
from spatial_ssrl.images.rgbd.values import to_depth

Depth = npt.NDArray[np.float32]

_MOST_SKEW = 0.05


@dataclass(frozen=True)
class HubColumns:
    """Which columns of a table are read, and how depth is stored.

    Args:
        image: Column of pictures; null takes the only one there is.
        depth: Column of depth, one-channel pictures or arrays, aligned with the picture as it
            is stored; null for none.
        depth_scale: Size of one stored step, such as 0.001 for millimetres.
        depth_invalid: Stored values that mean unknown; those not above 0 or not finite always do.
        depth_unit: Whether scaled depth is in metres or only comparable within one picture.
        licence: Column that holds the licence of each picture; null takes that of the set.

    Raises:
        ConfigError: If `depth_scale` is not above 0.
    """

    image: str | None = None
    depth: str | None = None
    depth_scale: float = 1.0
    depth_invalid: tuple[float, ...] = (0.0,)
    depth_unit: Literal["metre", "relative"] = "metre"
    licence: str | None = None

    def __post_init__(self) -> None:
        if not self.depth_scale > 0:
            raise ConfigError(f"depth_scale must be above 0, got {self.depth_scale}.")


@dataclass(frozen=True)
class PictureFit:
    """What is done to every picture.

    Args:
        size: Scale down so that the longer side is at most this, in pixels; null keeps sizes.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        trim_frame: Whether to cut off uniform black or white frames first; see `find_frame`.

    Raises:
        ConfigError: If `size` is below 1, or `square` is set without `size`.
    """

    size: int | None = None
    square: bool = False
    trim_frame: bool = False

    def __post_init__(self) -> None:
        check_fit(self.size, self.square)


def decode_row(
    row: Mapping[str, Any], name: str, image_column: str, columns: HubColumns, fit: PictureFit
) -> tuple[npt.NDArray[np.uint8], Depth | None]:
    """Return the picture of a row, shape (H, W, 3), and its depth, shape (H, W), if it has any.

    Args:
        row: Cells by column, pictures as the bytes or paths of their files.
        name: What to call the row in an error message.
        image_column: Column of the picture.
        columns: Where depth is and how it is stored.
        fit: What is done to the picture, and to its depth with it.

    Raises:
        SceneUnreadable: If the picture or its depth cannot be decoded.
    """
    # A JPEG that is decoded at a fraction of its size has blurred its frame into the picture.
    at_least = None if fit.trim_frame else fit.size
    picture, orientation = decode_picture(_read(row[image_column], name), name, at_least)
    depth = None
    if columns.depth is not None:
        stored = _stored_depth(row[columns.depth], name)
        depth = undo_orientation(_in_units(stored, columns, name), orientation)
        depth = _aligned(depth, picture.size, name)
    return _fitted(picture, depth, fit)


def _read(cell: Any, name: str) -> bytes:
    try:
        data = picture_bytes(cell)
    except Exception as error:  # File systems raise many kinds of error.
        raise SceneUnreadable(f"{name} cannot be read: {error}") from error
    if data is None:
        raise SceneUnreadable(f"{name} has no picture where one is needed.")
    return data


def _stored_depth(cell: Any, name: str) -> npt.NDArray[Any]:
    """Return the values of a cell, shape (H, W), as they are stored."""
    if not isinstance(cell, dict):
        values = np.asarray(np.nan if cell is None else cell)
    else:
        data = _read(cell, f"{name} (depth)")
        try:
            with Image.open(io.BytesIO(data)) as stored:
                values = np.array(stored)
        except Exception as error:  # Decoders raise many kinds of error on broken data.
            raise SceneUnreadable(f"{name} cannot be read as depth: {error}") from error
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
        raise SceneUnreadable(
            f"{name} holds depth of type {values.dtype} and shape {values.shape}; depth must be "
            "numbers of shape (H, W), (H, W, 1) or (1, H, W)."
        )
    return values


def _in_units(stored: npt.NDArray[Any], columns: HubColumns, name: str) -> Depth:
    depth = to_depth(stored, columns.depth_scale, columns.depth_invalid)
    if np.isnan(depth).all():
        raise SceneUnreadable(f"{name} holds no known depth.")
    return depth


def _aligned(depth: Depth, size: tuple[int, int], name: str) -> Depth:
    """Return depth for every pixel of its picture, refusing proportions of another picture."""
    skew = (depth.shape[1] / size[0]) / (depth.shape[0] / size[1])
    if abs(skew - 1) > _MOST_SKEW:
        raise SceneUnreadable(
            f"{name} has depth of {depth.shape[1]}x{depth.shape[0]} for a picture of "
            f"{size[0]}x{size[1]}; depth must have the proportions of its picture."
        )
    return _resampled(depth, *size)


def _resampled(depth: Depth, width: int, height: int) -> Depth:
    """Return the depth at the centre of each pixel, looked up and never interpolated."""
    row = ((np.arange(height) + 0.5) * (depth.shape[0] / height)).astype(np.intp)
    column = ((np.arange(width) + 0.5) * (depth.shape[1] / width)).astype(np.intp)
    return np.ascontiguousarray(depth[row[:, None], column[None, :]])


def _fitted(
    picture: Image.Image, depth: Depth | None, fit: PictureFit
) -> tuple[npt.NDArray[np.uint8], Depth | None]:
    width, height = picture.size
    frame = find_frame(np.asarray(picture)) if fit.trim_frame else Frame()
    right, bottom = width - frame.right, height - frame.bottom
    inside = picture.crop((frame.left, frame.top, right, bottom)) if frame else picture
    crop = crop_for(*inside.size, fit.size, fit.square)
    image = apply_crop(inside, crop)
    if depth is None:
        return image, None
    rest = depth[frame.top : bottom, frame.left : right]
    rest = rest[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return image, _resampled(rest, crop.columns, crop.rows)
