"""Picture files as upright 8-bit RGB, whatever mode they are stored in."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin
from PIL import WebPImagePlugin as _webp  # noqa: F401 - registers what `preinit` does not.

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.frames import find_frame

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

# 16384 x 8192, the largest panoramas in use: 400 MB once decoded. A file of a few hundred bytes
# can claim any size, and decoding what it claims would exhaust the memory of every worker.
MOST_PIXELS = 2**27

# No other decoder is asked, whatever a file is named: one of Pillow's starts an outside program.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_WHITE = (255, 255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def fit_picture(
    picture: Image.Image, size: int | None, square: bool, trim_frame: bool
) -> npt.NDArray[np.uint8]:
    """Return a picture cropped and scaled, shape (H, W, 3).

    Args:
        picture: Upright RGB picture.
        size: Longest side allowed, in pixels; see `crop_for`.
        square: Whether to cut out the largest central square; see `crop_for`.
        trim_frame: Whether to cut off a uniform black or white frame first; see `find_frame`.
    """
    if trim_frame:
        width, height = picture.size
        frame = find_frame(np.asarray(picture))
        box = (frame.left, frame.top, width - frame.right, height - frame.bottom)
        picture = picture.crop(box) if frame else picture
    return apply_crop(picture, crop_for(*picture.size, size, square))


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
        SceneUnreadable: If the file cannot be decoded or has more than `MOST_PIXELS` pixels;
            the message names it and the cause.
    """
    try:
        with path.open("rb") as file:
            return _decode(file, at_least)
    except Exception as error:  # Decoders raise many kinds of error on a broken file.
        raise _unreadable(str(path), error) from error


def decode_picture(data: bytes, name: str, at_least: int | None = None) -> tuple[Image.Image, int]:
    """Decode the bytes of a picture file as `open_picture` does.

    Args:
        data: Content of the file.
        name: What to call it in an error message.
        at_least: Shorter side that is enough, in pixels; lets JPEG data decode faster.

    Returns:
        The picture, and the EXIF orientation (1 to 8) that was undone.

    Raises:
        SceneUnreadable: If it cannot be decoded or has more than `MOST_PIXELS` pixels.
    """
    try:
        return _decode(io.BytesIO(data), at_least)
    except Exception as error:  # Decoders raise many kinds of error on broken data.
        raise _unreadable(name, error) from error


def why_no_picture(path: Path) -> str:
    """Return why a file cannot be a picture, judged by its header; "" if it seems to be one.

    Pixels are not decoded, so a file that breaks off later passes. The reasons are "missing
    file", "file without read permission", "empty file", "not a picture" and "too many pixels".
    """
    try:
        with path.open("rb") as file:
            _read_header(file)
    except _TooLarge:
        return "too many pixels"
    except FileNotFoundError:
        return "missing file"
    except PermissionError:
        return "file without read permission"
    except _Empty:
        return "empty file"
    except Exception:  # noqa: BLE001 - decoders raise many kinds of error on a broken file.
        return "not a picture"
    return ""


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


class _Empty(Exception):
    """Nothing to decode."""


class _TooLarge(Exception):
    """More pixels than `MOST_PIXELS`."""


def _unreadable(name: str, error: Exception) -> SceneUnreadable:
    cause = str(error) or type(error).__name__
    return SceneUnreadable(f"{name} cannot be read as a picture: {cause}")


def _decode(file: IO[bytes], at_least: int | None) -> tuple[Image.Image, int]:
    with _read_header(file) as stored:
        if at_least is not None:
            stored.draft(None, (at_least * 2, at_least * 2))
        upright, orientation = _upright(stored)
        return _to_rgb(upright), orientation


def _read_header(file: IO[bytes]) -> ImageFile.ImageFile:
    """Return the picture in a file, not decoded yet.

    Not by `Image.open`, which prints a warning for large pictures before it can be asked for
    their size, and whose limit is a setting of the whole process.
    """
    Image.preinit()
    prefix = file.read(16)
    if not prefix:
        raise _Empty("the file is empty")
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(prefix) is True:
            file.seek(0)
            stored = factory(file, "")
            break
    else:
        raise ValueError(f"it does not begin like a picture ({', '.join(_FORMATS)})")
    width, height = stored.size
    if width * height > MOST_PIXELS:
        raise _TooLarge(
            f"it claims {width} x {height} pixels, and decoding more than {MOST_PIXELS} would "
            "take too much memory; scale it down"
        )
    return stored


def _upright(stored: ImageFile.ImageFile) -> tuple[Image.Image, int]:
    """Decode a picture and undo its EXIF orientation, which is returned too."""
    if isinstance(stored, TiffImagePlugin.TiffImageFile):
        # Pillow turns these upright as it decodes them, and forgets the orientation.
        orientation = _orientation(stored)
        stored.load()
        return stored, orientation
    stored.load()
    orientation = _orientation(stored)
    turn = _TURNS.get(orientation)
    return (stored if turn is None else stored.transpose(turn)), orientation


def _orientation(stored: ImageFile.ImageFile) -> int:
    try:
        value = int(stored.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - broken metadata does not spoil a picture.
        return 1
    return value if 1 <= value <= 8 else 1


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
