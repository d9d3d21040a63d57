"""Depth at the pixels of a picture of another size, looked up and never interpolated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spatial_ssrl.images.pictures import Crop

Depth = npt.NDArray[np.float32]


def look_up(depth: Depth, crop: Crop, size: tuple[int, int], sparse: bool = False) -> Depth:
    """Return the depth at the centre of each pixel of a cropped and scaled picture.

    Args:
        depth: Shape (H, W), NaN where unknown; covers the same view as the whole picture.
        crop: Which part of the picture is kept, and at what size.
        size: Width and height of the whole picture, in pixels.
        sparse: Whether a pixel whose centre is unknown takes the known depth nearest to its centre
            from all that lies inside the pixel.

    Returns:
        Depth, shape (crop.rows, crop.columns); every value is one of `depth`.
    """
    columns = crop.left + (np.arange(crop.columns) + 0.5) * (crop.width / crop.columns)
    rows = crop.top + (np.arange(crop.rows) + 0.5) * (crop.height / crop.rows)
    column = np.floor(columns * (depth.shape[1] / size[0])).astype(np.intp)
    row = np.floor(rows * (depth.shape[0] / size[1])).astype(np.intp)
    found = np.ascontiguousarray(depth[row[:, None], column[None, :]])
    if sparse:
        gathered = _gather(depth, crop, size)
        return np.where(np.isnan(found), gathered, found)
    return found


def _gather(depth: Depth, crop: Crop, size: tuple[int, int]) -> Depth:
    """Return the known depth nearest to the centre of each pixel that lies inside of the pixel."""
    stored_row, stored_column = np.nonzero(~np.isnan(depth))
    y = ((stored_row + 0.5) * (size[1] / depth.shape[0]) - crop.top) * (crop.rows / crop.height)
    x = ((stored_column + 0.5) * (size[0] / depth.shape[1]) - crop.left) * (
        crop.columns / crop.width
    )
    kept = (y >= 0) & (y < crop.rows) & (x >= 0) & (x < crop.columns)
    row, column = y[kept].astype(np.intp), x[kept].astype(np.intp)
    distance = np.hypot(y[kept] - row - 0.5, x[kept] - column - 0.5)
    # Of several values for one place the last is kept: so the nearest come last.
    order = np.argsort(-distance, kind="stable")
    gathered = np.full((crop.rows, crop.columns), np.nan, np.float32)
    gathered[row[order], column[order]] = depth[stored_row[kept][order], stored_column[kept][order]]
    return gathered
