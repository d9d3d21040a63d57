"""Numbered markers and index labels, legible on pictures from 64 pixels to 8k."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Sprite = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]

# One colour a number, each dark enough for a white digit. The colour says no more than the digit.
_COLOURS = (
    (214, 39, 40),
    (20, 130, 40),
    (31, 80, 220),
    (170, 60, 190),
    (200, 100, 0),
    (0, 130, 140),
)
_OVERSAMPLING = 4  # sprites are drawn larger, then reduced, for smooth edges


def marker_radius(height: int, width: int) -> int:
    """Return the radius of a marker in pixels: 3 % of the shorter side, at least 6."""
    return max(6, round(0.03 * min(height, width)))


def draw_marker(image: Pixels, number: int, row: int, column: int, radius: int) -> None:
    """Draw, in place, a numbered disc centred on a pixel.

    Args:
        image: Shape (H, W, 3), uint8.
        number: What to write, 0 to 99.
        row: Row of the centre, in pixels.
        column: Column of the centre, in pixels.
        radius: Radius of the disc with its outline, in pixels.
    """
    _blend(image, _marker(number, radius), row - radius, column - radius)


def draw_label(image: Pixels, number: int, top: int, left: int, size: int) -> None:
    """Draw, in place, a white number with a black outline.

    Args:
        image: Shape (H, W, 3), uint8.
        number: What to write, 0 to 99.
        top: Row of its upper edge, in pixels.
        left: Column of its left edge, in pixels.
        size: Font size, in pixels.
    """
    _blend(image, _label(number, size), top, left)


@lru_cache(maxsize=512)
def _marker(number: int, radius: int) -> Sprite:
    scale = _OVERSAMPLING
    side = 2 * radius + 1
    canvas = Image.new("RGBA", (side * scale, side * scale), (0, 0, 0, 0))
    pen = ImageDraw.Draw(canvas)
    outline = max(1.0, radius / 8) * scale
    colours = ((0, 0, 0), (255, 255, 255), _COLOURS[number % len(_COLOURS) - 1])
    for ring, colour in enumerate(colours):
        inset = ring * outline * (0.5 if ring == 1 else 0.75)
        pen.ellipse((inset, inset, side * scale - 1 - inset, side * scale - 1 - inset), colour)
    digits = len(str(number))
    font = ImageFont.load_default(size=radius * scale * (1.5 if digits == 1 else 1.1))
    middle = side * scale / 2
    pen.text(
        (middle, middle),
        str(number),
        fill="white",
        font=font,
        anchor="mm",
        stroke_width=round(radius * scale * 0.03),
        stroke_fill="white",
    )
    return _sprite(canvas)


@lru_cache(maxsize=512)
def _label(number: int, size: int) -> Sprite:
    scale = _OVERSAMPLING
    font = ImageFont.load_default(size=size * scale)
    outline = max(scale, round(size * scale / 12))
    left, top, right, bottom = font.getbbox(str(number), stroke_width=outline)
    width, height = (-(-round(extent) // scale) * scale for extent in (right - left, bottom - top))
    canvas = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text(
        (-left, -top),
        str(number),
        fill="white",
        font=font,
        stroke_width=outline,
        stroke_fill="black",
    )
    return _sprite(canvas)


def _sprite(canvas: Image.Image) -> Sprite:
    """Reduce a drawing to premultiplied colour and remaining background, both out of 256."""
    small = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.uint16)
    alpha = small[..., 3:] + (small[..., 3:] > 127)  # 255 becomes 256, so that opaque is opaque
    colour, rest = small[..., :3] * alpha, 256 - alpha
    colour.flags.writeable = rest.flags.writeable = False
    return colour, rest


def _blend(image: Pixels, sprite: Sprite, top: int, left: int) -> None:
    colour, rest = sprite
    height, width = colour.shape[:2]
    cut_top, cut_left = max(0, -top), max(0, -left)
    target = image[top + cut_top : top + height, left + cut_left : left + width]
    rows = slice(cut_top, cut_top + target.shape[0])
    columns = slice(cut_left, cut_left + target.shape[1])
    target[...] = (target * rest[rows, columns] + colour[rows, columns]) >> 8
