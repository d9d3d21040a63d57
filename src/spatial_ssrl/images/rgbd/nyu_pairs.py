"""NYU Depth v2 as pairs of picture files, as depth benchmarks export it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import read_values
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles, check_rows_and_columns
from spatial_ssrl.images.rgbd.values import to_depth

_MILLIMETRE = 0.001


@IMAGE_SOURCES.register("nyuv2_pairs")
class NYUv2Pairs(RGBDFiles):
    """Registered pictures of NYU Depth v2 with depth in metres, from pairs of files.

    Reads the exports in common use, in any subfolder: `rgb_<n>.jpg` with `sync_depth_<n>.png`,
    `rgb.png` with `depth.png`, `<n>_colors.png` with `<n>_depth.png`, `color/<n>.png` (or `rgb/`)
    with `depth/<n>.png` (or pgm), and `<n>.jpg` with `<n>.png`. Depth is 16-bit millimetres and
    0 is unknown. Some exports hold 8-bit depth of another scale; it is refused unless
    `depth_scale` is given.

    Pictures have a white or black frame of a few pixels, which would tell a piece of the border
    from any other; it is cut off before anything else.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        depth_scale: Metres per stored step; null reads 16-bit files as millimetres.
        crop: First row, end row, first column and end column that are kept; null keeps all.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    Raises:
        ConfigError: If `crop` keeps nothing or `depth_scale` is not above 0.

    References:
        NYU Depth v2, ECCV 2012; the exports are those read by BTS, DenseDepth and Metric3D, the
        crop is the usual one of depth benchmarks.
    """

    layouts = (
        (r"(|.*/)rgb_(\d+)\.(?:jpg|png)", r"(|.*/)sync_depth_(\d+)\.png"),
        (r"(|.*[/_])rgb\.(?:jpg|png)", r"(|.*[/_])depth\.(?:png|pgm)"),
        (r"(|.*/)(\d+)_colors?\.(?:jpg|png)", r"(|.*/)(\d+)_depth\.(?:png|pgm)"),
        (r"(|.*/)(?:color|rgb)/([^/]+)\.(?:jpg|png)", r"(|.*/)depth/([^/]+)\.(?:png|pgm)"),
        (r"(|.*/)(\d+)\.jpg", r"(|.*/)(\d+)\.png"),
    )
    looked_for = "rgb_<n>.jpg with sync_depth_<n>.png, or rgb.png with depth.png"

    def __init__(
        self,
        folder: Path | str,
        depth_scale: float | None = None,
        crop: tuple[int, int, int, int] | None = (45, 471, 41, 601),
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        check_rows_and_columns(crop)
        if depth_scale is not None and not depth_scale > 0:
            raise ConfigError(f"depth_scale must be above 0 or null, got {depth_scale}.")
        self.depth_scale = depth_scale
        self.crop = crop

    def _depth(self, group: Group) -> Depth:
        path = self._root() / group[1]
        stored = read_values(path)
        if stored.dtype == np.uint8 and self.depth_scale is None:
            raise SceneUnreadable(
                f"{path} holds 8-bit values, which are not millimetres: set depth_scale to the "
                "metres per step, such as 10/255 for exports whose 255 is 10 m."
            )
        return to_depth(stored, self.depth_scale or _MILLIMETRE)
