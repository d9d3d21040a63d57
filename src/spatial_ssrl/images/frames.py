"""Uniform black or white frames around pictures: letterbox bars, and the rims of NYU frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

_TOLERANCE = 20  # Levels a frame's pixel may be off: JPEG rings that far beside a sharp edge.
_UNIFORM = 0.95  # Share of a frame's line that has the frame's colour.
_INNER = 0.5  # Most of the first line inside that may have the frame's colour.
_STEP = 12  # Least levels from one line to the next at an edge; a sky fades more slowly.
_SOFT = 3  # Lines over which the edge of a scaled picture may be soft.
_SLANT = 0.01  # Share of the side over which an edge may be slanted or bent by undistortion.
_SETTLED = 0.05  # Fall of the share of the frame's colour below which an edge has ended.
_NARROW = 0.04  # Widest frame on one side alone, as a share of the picture's side.
_WIDE = 0.35  # Widest of two equal bars, each: an upright video inside a lying one.
_EQUAL = 0.02  # How far two bars may differ, as a share of the picture's side.


@dataclass(frozen=True, slots=True)
class Frame:
    """How many pixels wide a frame is on each side.

    Args:
        left: Columns.
        top: Rows.
        right: Columns.
        bottom: Rows.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def __bool__(self) -> bool:
        return any((self.left, self.top, self.right, self.bottom))


def find_frame(picture: Pixels) -> Frame:
    """Return the uniform black or white frame around a picture, as far as it is beyond doubt.

    The lines of a frame (rows or columns, counted from an edge of the picture) are black or white
    but for noise, and the frame ends at a straight edge: within 1 % of the lines (3 at least),
    half of the pixels leave its colour, each at one visible step. That spares the two kinds of
    photo that a plain search for black or white lines would cut: a night sky, which brightens
    slowly or ends in an irregular skyline, and a product before white, whose outline reaches only
    few pixels of a line at first. A frame on one side may take 4 % of the picture's width or
    height; wider ones, up to 35 %, are taken only as two equal bars on opposite sides, as in
    letterboxed video.

    A picture that is uniform throughout has no frame. Frames of other colours are not looked for,
    nor is a black frame found around a picture that is as dark as the frame at the edge.

    Args:
        picture: Shape (H, W, 3).

    Returns:
        Widths in pixels, 0 where a side has no frame; at least 30 % of each side remain.
    """
    ends = {0: (0, 0), 1: (0, 0)}
    # Once bars above and below are off, those beside reach from edge to edge, and the reverse.
    for axis in (0, 1, 0):
        if ends[axis] == (0, 0):
            (top, bottom), (left, right) = ends[0], ends[1]
            rest = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
            ends[axis] = _ends(rest if axis == 0 else rest.swapaxes(0, 1))
    return Frame(ends[1][0], ends[0][0], ends[1][1], ends[0][1])


def without_frame(picture: Pixels) -> Pixels:
    """Return the part of a picture inside its frame, a view; see `find_frame`.

    Args:
        picture: Shape (H, W, 3).
    """
    frame = find_frame(picture)
    height, width = picture.shape[:2]
    return picture[frame.top : height - frame.bottom, frame.left : width - frame.right]


def _ends(lines: Pixels) -> tuple[int, int]:
    """Return the widths of the frame before the first and after the last line."""
    length = len(lines)
    first, last = _width(lines), _width(lines[::-1])
    if max(first, last) <= _NARROW * length or abs(first - last) <= _EQUAL * length:
        return first, last
    return first * (first <= _NARROW * length), last * (last <= _NARROW * length)


def _width(lines: Pixels) -> int:
    """Return how many lines from the first on are frame."""
    most, slack = int(_WIDE * len(lines)), max(_SOFT, round(_SLANT * len(lines)))
    for white in (False, True):
        if _share(_distance(lines[:1], white))[0] < _UNIFORM:
            continue
        distance = _distance(lines[: most + slack + 2], white)
        share = _share(distance)
        uniform = share >= _UNIFORM
        if uniform.all():
            return 0
        run = int(np.argmin(uniform))
        # An edge has ended where half of a line has left the frame and the next is no better.
        ended = (share[run:-1] <= _INNER) & (share[run:-1] - share[run + 1 :] <= _SETTLED)
        if not ended.any():
            return 0
        end = run + int(np.argmax(ended))
        is_edge = end <= min(run + slack, most) and _is_sharp(distance[run - 1 : end + 1])
        return end if is_edge else 0
    return 0


def _distance(lines: Pixels, white: bool) -> Pixels:
    """Return the levels between each pixel and black or white, of the channel farthest off."""
    red, green, blue = lines[..., 0], lines[..., 1], lines[..., 2]
    # Pairwise, since reducing over an axis of three is several times slower.
    if white:
        return np.uint8(255) - np.minimum(np.minimum(red, green), blue)
    return np.maximum(np.maximum(red, green), blue)


def _is_sharp(distance: Pixels) -> bool:
    """Return whether most pixels leave the frame's colour from one line to the next."""
    steps = np.diff(distance.astype(np.int16), axis=0)
    return bool(np.median(steps.max(axis=0)) >= _STEP)


def _share(distance: Pixels) -> npt.NDArray[np.float64]:
    """Return the share of each line that has the frame's colour."""
    return np.asarray((distance <= _TOLERANCE).mean(axis=1))
