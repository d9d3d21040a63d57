"""Depth files of common formats as plain arrays of their stored values."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.pictures import MOST_PIXELS

Values = npt.NDArray[Any]  # Stored values may be of any numeric type.

_PGM = re.compile(
    rb"P5\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)\s"
)
_PFM = re.compile(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)\s")


def read_values(path: Path, key: str = "depth") -> Values:
    """Read a depth file without scaling or masking anything.

    Args:
        path: A png, tif, tiff, pgm, pfm, npy, npz, h5 or hdf5 file.
        key: Name of the array inside npz and HDF5 files; an npz file with a single array needs
            none.

    Returns:
        Stored values, shape (H, W), upright, of the type they are stored in.

    Raises:
        SceneUnreadable: If the file is missing, of another format, broken, or not a single
            channel; the message names it and the cause.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise SceneUnreadable(f"{path} has no known depth format; known endings: {known}.")
    try:
        values = reader(path, key)
    except SceneUnreadable:
        raise
    except Exception as error:  # Decoders raise many kinds of error on a broken file.
        raise SceneUnreadable(
            f"{path} cannot be read as depth: {str(error) or type(error).__name__}"
        ) from error
    shape = values.shape
    if values.ndim == 3 and 1 in (shape[0], shape[2]):
        values = values[0] if shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
        raise SceneUnreadable(
            f"{path} holds {values.dtype} values of shape {shape}; depth must be numbers of "
            "shape (H, W), (H, W, 1) or (1, H, W)."
        )
    return values


def read_hdf5(path: Path, key: str) -> Values:
    """Read one array of an HDF5 file, of any shape.

    Raises:
        SceneUnreadable: If the file is missing or broken, holds no such array, or h5py is not
            installed; the message names the file and the cause.
    """
    try:
        return _read_hdf5(path, key)
    except SceneUnreadable:
        raise
    except Exception as error:  # h5py raises many kinds of error on a broken file.
        raise SceneUnreadable(f"{path} cannot be read as HDF5: {error}") from error


def load_h5py() -> Any:
    """Return the optional package h5py, which only files in HDF5 need.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ConfigError("HDF5 files need the package h5py: pip install h5py") from error


def _read_picture(path: Path, key: str) -> Values:
    # No other decoder is asked, whatever a file is named: one of them starts an outside program.
    with Image.open(path, formats=("PNG", "TIFF")) as stored:
        if stored.width * stored.height > MOST_PIXELS:
            raise SceneUnreadable(
                f"{path} claims {stored.width}x{stored.height} pixels, too many to decode."
            )
        if len(stored.getbands()) != 1 or stored.mode == "P":
            raise SceneUnreadable(
                f"{path} is a colour picture (mode {stored.mode}); depth must have one channel."
            )
        return np.array(stored)


def _read_pgm(path: Path, key: str) -> Values:
    # Pillow stretches values when the header's maximum is not 65535, which would change depth.
    data = path.read_bytes()
    header = _PGM.match(data)
    if header is None:
        raise SceneUnreadable(f"{path} does not begin like a binary PGM file (P5).")
    width, height, highest = (int(number) for number in header.groups())
    kind = np.dtype(">u2" if highest > 255 else "u1")
    values = np.frombuffer(data, kind, count=width * height, offset=header.end())
    return values.reshape(height, width).astype(kind.newbyteorder("="))


def _read_pfm(path: Path, key: str) -> Values:
    data = path.read_bytes()
    header = _PFM.match(data)
    if header is None:
        raise SceneUnreadable(f"{path} does not begin like a one-channel PFM file (Pf).")
    width, height = int(header.group(1)), int(header.group(2))
    # The sign of the third number is the byte order; rows are stored from the bottom up.
    kind = np.dtype("<f4" if float(header.group(3)) < 0 else ">f4")
    values = np.frombuffer(data, kind, count=width * height, offset=header.end())
    return values.reshape(height, width)[::-1].astype(np.float32)


def _read_npy(path: Path, key: str) -> Values:
    values: Values = np.load(path, allow_pickle=False)
    return values


def _read_npz(path: Path, key: str) -> Values:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        if key not in names and len(names) != 1:
            raise _missing_key(path, key, names)
        values: Values = archive[key if key in names else names[0]]
        return values


def _read_hdf5(path: Path, key: str) -> Values:
    try:
        h5py = load_h5py()
    except ConfigError as error:
        raise SceneUnreadable(f"{path} is an HDF5 file; {error}") from error
    with h5py.File(path, "r") as archive:
        if key not in archive:
            raise _missing_key(path, key, list(archive))
        return np.asarray(archive[key])


def _missing_key(path: Path, key: str, names: list[str]) -> SceneUnreadable:
    return SceneUnreadable(
        f"{path} holds no array {key!r}; set hdf5_key to one of {', '.join(names) or 'none'}."
    )


_READERS: dict[str, Callable[[Path, str], Values]] = {
    ".png": _read_picture,
    ".tif": _read_picture,
    ".tiff": _read_picture,
    ".pgm": _read_pgm,
    ".pfm": _read_pfm,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
}
