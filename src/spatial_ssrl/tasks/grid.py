"""Grids of patches: cut, join, compare and draw; pure functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.tasks.markers import draw_label

Pixels = npt.NDArray[np.uint8]

SMALLEST_PICTURE = 40  # pixels, shorter side; below this hardly anything can be recognised
SMALLEST_PATCH = 16  # pixels; a smaller one is hidden by the smallest index that can be read
BORDER_COLOUR = (255, 0, 0)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_MOST_LINES = 10  # rows or columns; more patches than that cannot carry readable numbers


def check_grid(rows: int, columns: int) -> None:
    """Raise `ConfigError` unless the grid has at least two patches and at most 10 x 10."""
    if not (1 <= rows <= _MOST_LINES and 1 <= columns <= _MOST_LINES) or rows * columns < 2:
        raise ConfigError(
            f"rows and columns must be from 1 to {_MOST_LINES} and give 2 patches or more, "
            f"got rows={rows}, columns={columns}."
        )


def crop_to_grid(image: Pixels, rows: int, columns: int) -> Pixels:
    """Return a view of the picture without the last rows and columns that fill no patch.

    Args:
        image: Shape (H, W, 3).
        rows: Rows of the grid.
        columns: Columns of the grid.

    Raises:
        SceneRejected: If the picture is under 40 pixels high or wide, or a patch under 16.
    """
    height, width = image.shape[0] // rows, image.shape[1] // columns
    if min(height, width) < SMALLEST_PATCH or min(image.shape[:2]) < SMALLEST_PICTURE:
        raise SceneRejected("the picture is too small for the grid")
    return image[: height * rows, : width * columns]


def cut(image: Pixels, rows: int, columns: int) -> Pixels:
    """Cut a picture, (H, W, 3), into patches in reading order, (rows * columns, h, w, 3)."""
    height, width = image.shape[0] // rows, image.shape[1] // columns
    grid = image.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * columns, height, width, 3)


def join(patches: Pixels, rows: int, columns: int) -> Pixels:
    """Join patches in reading order, (rows * columns, h, w, 3), into a new picture."""
    height, width = patches.shape[1:3]
    grid = patches.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return np.array(grid, order="C").reshape(rows * height, columns * width, 3)


def border_width(image: Pixels) -> int:
    """Return the width of a patch border in pixels: 1/200 of the shorter side, at least 1."""
    return max(1, round(float(min(image.shape[:2])) / 200))


def place_name(index: int, rows: int, columns: int) -> str:
    """Return where a patch lies in words, such as "the top-left corner".

    Args:
        index: Number of the place, from 0 in reading order.
        rows: Rows of the grid.
        columns: Columns of the grid.
    """
    row, column = divmod(index, columns)
    down = _line_name(row, rows, ("top", "middle", "bottom"))
    across = _line_name(column, columns, ("left", "middle", "right"))
    if rows == 1 or columns == 1:
        name, start = (across, "left") if rows == 1 else (down, "top")
        return f"the {name} part from the {start}" if name in _ORDINALS else f"the {name} part"
    if row in (0, rows - 1) and column in (0, columns - 1):
        return f"the {down}-{across} corner"
    return f"the {down} row, {across} column"


def _line_name(index: int, count: int, names: tuple[str, str, str]) -> str:
    """Name a row or column: the first, the last, the middle one of three, or by its number."""
    if index in (0, count - 1):
        return names[0] if index == 0 else names[2]
    return names[1] if count == 3 else _ORDINALS[index]


def draw_grid(image: Pixels, rows: int, columns: int, labels: bool) -> None:
    """Draw, in place, a border around every patch and its index in its top-left corner.

    Args:
        image: A joined picture, shape (rows * h, columns * w, 3).
        rows: Rows of the grid.
        columns: Columns of the grid.
        labels: Whether indices, from 0 in reading order, are drawn.
    """
    height, width = image.shape[0] // rows, image.shape[1] // columns
    line = border_width(image)
    for row in range(rows):
        image[row * height : row * height + line] = BORDER_COLOUR
        image[(row + 1) * height - line : (row + 1) * height] = BORDER_COLOUR
    for column in range(columns):
        image[:, column * width : column * width + line] = BORDER_COLOUR
        image[:, (column + 1) * width - line : (column + 1) * width] = BORDER_COLOUR
    if labels:
        size = max(10, round(0.14 * min(height, width)))
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            draw_label(image, index, row * height + line, column * width + line, size)


def thumbnails(patches: Pixels, side: int = 8) -> npt.NDArray[np.float32]:
    """Return block means of each patch, which keep its content and drop its noise.

    Args:
        patches: Shape (n, h, w, 3).
        side: Blocks along each side; fewer where a patch has fewer pixels.

    Returns:
        Shape (n, side, side, 3), float32, range [0, 255].
    """
    count, height, width = patches.shape[:3]
    down, across = min(side, height), min(side, width)
    high, wide = height // down, width // across
    # Centred, so that the thumbnail of a flipped patch is the flipped thumbnail.
    top, left = (height - high * down) // 2, (width - wide * across) // 2
    kept = patches[:, top : top + high * down, left : left + wide * across]
    # Rows first, whose pixels lie together in memory: many times faster than both at once.
    sums = kept.reshape(count, down, high, -1).sum(axis=2, dtype=np.uint32)
    sums = sums.reshape(count, down, across, wide, 3).sum(axis=3)
    means: npt.NDArray[np.float32] = (sums / np.float32(high * wide)).astype(np.float32)
    return means


def smallest_difference(pictures: npt.NDArray[np.float32]) -> float:
    """Return the mean absolute difference of the two most alike of `pictures`, (n, ...)."""
    flat = pictures.reshape(len(pictures), -1)
    first, second = np.triu_indices(len(flat), k=1)
    return float(np.abs(flat[first] - flat[second]).mean(axis=1).min())
