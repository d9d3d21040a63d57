"""Stored numbers as depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images.depth_files import Values, read_values


def to_depth(
    stored: Values, scale: float, invalid: Sequence[float] = (0.0,), inverse: bool = False
) -> npt.NDArray[np.float32]:
    """Return `stored x scale`, or `scale / stored` when `inverse`, NaN where unknown.

    Args:
        stored: Values of a file, shape (H, W), any numeric type.
        scale: Size of one stored step, or for inverse depth the product of depth and value.
        invalid: Stored values that mean unknown. Values that are not above 0 or not finite
            always do.
        inverse: Whether larger stored values are nearer.

    Returns:
        Depth, shape (H, W), in the unit of `scale`.
    """
    values = stored.astype(np.float32)
    known = np.isfinite(values) & (values > 0) & ~np.isin(values, np.array(invalid, np.float32))
    safe = np.where(known, values, np.float32(1))
    depth = scale / safe if inverse else safe * np.float32(scale)
    return np.where(known, depth, np.float32(np.nan)).astype(np.float32)


def read_16_bit(path: Path) -> Values:
    """Read a depth file whose layout has 16-bit whole numbers.

    Returns:
        Stored values, shape (H, W), uint16.

    Raises:
        SceneUnreadable: If it cannot be read, or holds values of another kind, as files do that
            went through a program that knows only 8 bits.
    """
    stored = read_values(path)
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize < 2:
        raise SceneUnreadable(
            f"{path} holds {stored.dtype.itemsize * 8}-bit values of type {stored.dtype} where "
            "this layout has 16-bit whole numbers; read such files by RGBDPairs, which takes a "
            "depth_scale."
        )
    if stored.min() < 0 or stored.max() > 65535:
        raise SceneUnreadable(f"{path} holds values outside of 16 bits, 0 to 65535.")
    return stored.astype(np.uint16)


def masked(
    depth: npt.NDArray[np.float32], path: Path, key: str = "mask"
) -> npt.NDArray[np.float32]:
    """Return depth with NaN wherever the mask in a file is 0.

    Args:
        depth: Shape (H, W).
        path: File of values of the same shape; not above 0 means not to be trusted.
        key: Name of the array inside npz and HDF5 files.

    Raises:
        SceneUnreadable: If the file cannot be read or is of another shape.
    """
    mask = read_values(path, key)
    if mask.shape != depth.shape:
        raise SceneUnreadable(
            f"{path} is a mask of shape {mask.shape} for depth of shape {depth.shape}."
        )
    return np.where(mask > 0, depth, np.float32(np.nan))
