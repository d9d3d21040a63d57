"""Picture files as upright 8-bit RGB, whatever mode they are stored in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_ORIENTATION = 0x0112
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, slots=True)
class Crop:
    """Which part of a picture is kept, and at what size.

    Args:
        left: First column kept, in source pixels.
        top: First row kept, in source pixels.
        width: Columns kept, in source pixels.
        height: Rows kept, in source pixels.
        columns: Width of the result, in pixels.
        rows: Height of the result, in pixels.
    """

    left: int
    top: int
    width: int
    height: int
    columns: int
    rows: int


def check_fit(size: int | None, square: bool) -> None:
    """Check the two settings that decide the size of pictures.

    Raises:
        ConfigError: If `size` is below 1, or `square` is asked for without a size.
    """
    if size is not None and size < 1:
        raise ConfigError(f"size must be at least 1 pixel or null, got {size}.")
    if square and size is None:
        raise ConfigError("square=true needs a size: set size to the side in pixels.")


def crop_for(width: int, height: int, size: int | None, square: bool) -> Crop:
    """Return how a picture is cropped and scaled.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        size: Longest side allowed, in pixels; None keeps the size. Nothing is enlarged unless
            `square`.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
    """
    if square and size is not None:
        side = min(width, height)
        return Crop((width - side) // 2, (height - side) // 2, side, side, size, size)
    scale = 1.0 if size is None else min(1.0, size / max(width, height))
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    return Crop(0, 0, width, height, columns, rows)


def apply_crop(picture: Image.Image, crop: Crop) -> npt.NDArray[np.uint8]:
    """Return the cropped and scaled picture, shape (rows, columns, 3)."""
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    target = (crop.columns, crop.rows)
    if box == (0, 0, *picture.size) and target == picture.size:
        return np.array(picture)
    scaled = picture.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.array(scaled)


def open_picture(path: Path, at_least: int | None = None) -> tuple[Image.Image, int]:
    """Decode a picture file: first frame, upright, RGB.

    Transparent parts are laid on white, as a web page would show them. Greys deeper than 8 bit
    are scaled from their full range: 16-bit integers from [0, 65535], larger integers from
    [0, maximum], floats from [0, 1], or [0, 255], or [0, maximum], whichever first holds them.

    Args:
        path: File to decode.
        at_least: Shorter side that is enough, in pixels; lets JPEG files decode faster.

    Returns:
        The picture, and the EXIF orientation (1 to 8) that was undone.

    Raises:
        SceneUnreadable: If the file cannot be decoded; the message names it and the cause.
    """
    try:
        with Image.open(path) as stored:
            if at_least is not None:
                stored.draft(None, (at_least * 2, at_least * 2))
            orientation = int(stored.getexif().get(_ORIENTATION, 1))
            upright = ImageOps.exif_transpose(stored)
            return _to_rgb(upright), orientation if 1 <= orientation <= 8 else 1
    except Exception as error:  # Decoders raise many kinds of error on a broken file.
        raise SceneUnreadable(
            f"{path} cannot be read as a picture: {str(error) or type(error).__name__}"
        ) from error


def opens(path: Path) -> bool:
    """Return whether the header of a file is that of a picture; its pixels are not decoded."""
    try:
        with Image.open(path):
            return True
    except Exception:  # Decoders raise many kinds of error on a broken file.
        return False


def undo_orientation(values: npt.NDArray[np.float32], orientation: int) -> npt.NDArray[np.float32]:
    """Turn an array stored like the pixels of a file upright, as its picture was.

    Args:
        values: Shape (H, W).
        orientation: EXIF orientation of the picture file, 1 to 8.
    """
    match orientation:
        case 2:
            return values[:, ::-1]
        case 3:
            return values[::-1, ::-1]
        case 4:
            return values[::-1]
        case 5:
            return values.T
        case 6:
            return np.rot90(values, -1)
        case 7:
            return values[::-1, ::-1].T
        case 8:
            return np.rot90(values)
    return values


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        picture.load()
        return picture
    if picture.mode == "F" or picture.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(picture)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, _WHITE)
        return Image.alpha_composite(backdrop, layer).convert("RGB")
    return picture.convert("RGB")


def _to_8_bit(picture: Image.Image) -> npt.NDArray[np.uint8]:
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), posinf=0.0, neginf=0.0)
    highest = float(values.max(initial=0.0))
    ranges = (1.0, 255.0) if picture.mode == "F" else (65535.0,)
    full = next((bound for bound in ranges if highest <= bound), highest)
    return np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)
