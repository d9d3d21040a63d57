"""Real pictures with depth, decoded in a few plain lines each, apart from the library's readers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.questions import Scene

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """A picture and how far away each of its pixels is, as stored.

    Args:
        name: Folder and number.
        image: RGB, shape (H, W, 3), uint8.
        stored: What the depth file holds at each pixel, shape (H, W), NaN where it holds
            nothing; grows with depth unless `inverse`.
        inverse: Whether larger stored values are nearer.
    """

    name: str
    image: npt.NDArray[np.uint8]
    stored: Array
    inverse: bool = False

    def scene(self) -> Scene:
        """Return it as a scene whose arrays cannot be written."""
        depth = 1000 / self.stored if self.inverse else self.stored
        scene = Scene(self.image.copy(), self.name, depth.astype(np.float32))
        assert scene.depth is not None
        scene.image.flags.writeable = scene.depth.flags.writeable = False
        return scene


# Folder, picture, depth; 0 and 65535 are unknown in all of these.
_INTEGER = (
    ("nyuv2_png/metric3d_demo", "rgb_00000.jpg", "sync_depth_00000.png"),
    ("nyuv2_png/metric3d_demo", "rgb_00100.jpg", "sync_depth_00100.png"),
    ("nyuv2_png/unidepth_demo", "rgb.png", "depth.png"),
    ("nyuv2_pgm_mm/slambook2_ch5", "color/1.png", "depth/1.pgm"),
    ("tum/slambook2_ch7", "1.png", "1_depth.png"),
    ("icl_nuim_tumformat/slambook2_ch12", "color/1.png", "depth/1.png"),
    ("icl_nuim_tumformat/slambook2_ch12", "color/3.png", "depth/3.png"),
    ("kitti", "rgb/0000000005.png", "depth/0000000005.png"),
    ("kitti", "rgb/0000000050.png", "depth/0000000050.png"),
    ("redwood", "color/00000.jpg", "depth/00000.png"),
    ("7scenes", "frame-000000.color.jpg", "frame-000000.depth.png"),
    ("7scenes", "frame-000850.color.jpg", "frame-000850.depth.png"),
    ("hololens_mm", "images/00003.png", "depth/00003.png"),
    ("arkit_lidar", "image.jpg", "arkit_depth.png"),
)
_ROTATED = (
    ("sun3d", "SUN_color.jpg", "SUN_depth.png"),
    (
        "sunrgbd/kv2/align_kv2/2014-12-18_11-31-54_260595134347",
        "image/0000144.jpg",
        "depth/0000144.png",
    ),
)
NAMES = (
    *(f"{folder}/{image}" for folder, image, _ in (*_INTEGER, *_ROTATED)),
    "diode",
    "megadepth",
    "nyuv2_raw",
    "middlebury_pfm",
    "middlebury2014_npz",
)


@cache
def sample(name: str) -> Sample:
    """Return one of `NAMES`."""
    root = Path(SAMPLES or "", "rgbd")
    for folder, picture, depth in (*_INTEGER, *_ROTATED):
        if name == f"{folder}/{picture}":
            raw = np.asarray(Image.open(root / folder / depth)).astype(np.int64)
            if (folder, picture, depth) in _ROTATED:
                raw = ((raw >> 3) | (raw << 13)) & 0xFFFF
            image = _picture(root / folder / picture)
            factor = image.shape[0] // raw.shape[0]
            if factor > 1:  # each stored value covers a block of pixels
                raw = np.kron(raw, np.ones((factor + 1, factor + 1), np.int64))
                rows, columns = (
                    ((np.arange(size) + 0.5) * (len_ / size)).astype(int)
                    for size, len_ in zip(image.shape[:2], raw.shape, strict=True)
                )
                raw = raw[np.ix_(rows, columns)]
            return Sample(name, image, np.where((raw == 0) | (raw == 65535), np.nan, raw))
    return _OTHERS[name](root)


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def _diode(root: Path) -> Sample:
    depth = np.load(root / "diode/RGB-D_depth3.npy").squeeze().astype(float)
    mask = np.load(root / "diode/RGB-D_depth_mask3.npy")
    image = _picture(root / "diode/RGB-D_img3.png")
    return Sample("diode", image, np.where(mask > 0, depth, np.nan))


def _megadepth(root: Path) -> Sample:
    import h5py

    with h5py.File(root / "megadepth/RGB-D_depth1.h5") as file:
        depth = file["depth"][:].astype(float)
    image = _picture(root / "megadepth/RGB-D_img1.jpg")
    return Sample("megadepth", image, np.where(depth > 0, depth, np.nan))


def _nyu_raw(root: Path) -> Sample:
    payload = (root / "nyuv2_raw/NYU_depth.pgm").read_bytes()[-640 * 480 * 2 :]
    code = np.frombuffer(payload, "<u2").reshape(480, 640).astype(float)
    # Depth is 351.3 / (1092.5 - code): it grows with the code, not in proportion to it.
    depth = np.where(code < 2047, 351.3 / (1092.5 - code), np.nan)
    return Sample("nyuv2_raw", _picture(root / "nyuv2_raw/NYU_color.ppm"), depth)


def _eth3d(root: Path) -> Sample:
    folder = root / "middlebury_pfm/eth3d_playground"
    _, size, scale, payload = (folder / "disp0.pfm").read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    kind = "<f4" if float(scale) < 0 else ">f4"
    values = np.frombuffer(payload, kind).reshape(height, width)[::-1].astype(float)
    stored = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return Sample("middlebury_pfm", _picture(folder / "im0.png"), stored, inverse=True)


def _motorcycle(root: Path) -> Sample:
    folder = root / "middlebury2014_npz"
    values = np.load(folder / "motorcycle_disp.npz")["arr_0"].astype(float)
    stored = np.where(np.isfinite(values), values + 31.086, np.nan)
    image = _picture(folder / "motorcycle_left.png")
    return Sample("middlebury2014_npz", image, stored, inverse=True)


_OTHERS = {
    "diode": _diode,
    "megadepth": _megadepth,
    "nyuv2_raw": _nyu_raw,
    "middlebury_pfm": _eth3d,
    "middlebury2014_npz": _motorcycle,
}
