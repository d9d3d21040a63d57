"""The Hypersim data set: rendered rooms with exact depth."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.depth_files import Values, load_h5py, read_hdf5, read_values
from spatial_ssrl.images.pictures import open_picture
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import to_depth

_KEY = "dataset"
_DEPTH = r"(|.*/)(scene_cam_\d+)_geometry_hdf5/frame\.(\d+)\.depth_meters\.hdf5"
_SCENE = re.compile(r"ai_\d{3}_\d{3}")

# Half the width of the view over its distance: 512 columns at a focal length of 886.81 columns.
_HALF_WIDTH = 512 / 886.81


@IMAGE_SOURCES.register("hypersim")
class Hypersim(RGBDFiles):
    """Rendered rooms of Hypersim with depth in metres along the viewing axis.

    Reads `images/scene_cam_<xx>_geometry_hdf5/frame.<n>.depth_meters.hdf5` in any subfolder, with
    the preview `images/scene_cam_<xx>_final_preview/frame.<n>.tonemap.jpg`, or where there is none
    with `images/scene_cam_<xx>_final_hdf5/frame.<n>.color.hdf5`, which is tone-mapped here in the
    way of the previews.

    Files hold the distance from the camera's centre. It is turned into depth along the viewing
    axis by the direction of each pixel's ray: that of the camera most scenes share (focal length
    886.81 at 1024 columns), or that of `camera_file`, which scenes with a shifted or tilted lens
    need to be exact.

    Needs h5py.

    Args:
        folder: Folder that holds scenes, or is one; `~` is expanded.
        camera_file: The table metadata_camera_parameters.csv of the data set's repository; null
            takes the common camera for every scene.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        Hypersim, arXiv:2011.02523; the README of its repository (depth_meters is the Euclidean
        distance), contrib/mikeroberts3000 (M_cam_from_uv), and the method of
        scene_generate_images_tonemap.py.
    """

    layouts = (
        (r"(|.*/)(scene_cam_\d+)_final_preview/frame\.(\d+)\.tonemap\.jpg", _DEPTH),
        (r"(|.*/)(scene_cam_\d+)_final_hdf5/frame\.(\d+)\.color\.hdf5", _DEPTH),
    )
    looked_for = (
        "scene_cam_<xx>_final_preview/frame.<n>.tonemap.jpg, or final_hdf5/frame.<n>.color.hdf5, "
        "with scene_cam_<xx>_geometry_hdf5/frame.<n>.depth_meters.hdf5"
    )
    licence = "CC BY-SA 3.0"

    def __init__(
        self,
        folder: Path | str,
        camera_file: Path | str | None = None,
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        self.camera_file = None if camera_file is None else Path(camera_file)
        self._cameras: dict[str, npt.NDArray[np.float64]] = {}

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        load_h5py()
        if self.camera_file is not None:
            self._cameras = _read_cameras(self.camera_file.expanduser())
        return super()._find(root)

    def _picture(self, group: Group) -> tuple[Image.Image, int]:
        path = self._root() / group[0]
        if path.suffix == ".jpg":
            return open_picture(path, self.size)
        colours = read_hdf5(path, _KEY)
        if colours.ndim != 3 or colours.shape[2] != 3:
            raise SceneUnreadable(
                f"{path} holds an array of shape {colours.shape}; colours have shape (H, W, 3)."
            )
        drawn = None
        depth = self._root() / group[1]
        entities = depth.with_name(depth.name.replace("depth_meters", "render_entity_id"))
        if entities.is_file():
            drawn = read_values(entities, _KEY) != -1
            if drawn.shape != colours.shape[:2]:
                raise SceneUnreadable(f"{entities} is not of the size of {path}.")
        return Image.fromarray(tone_mapped(colours, drawn)), 1

    def _depth(self, group: Group) -> Depth:
        path = self._root() / group[1]
        distance = to_depth(read_values(path, _KEY), 1.0)
        height, width = distance.shape
        half = _HALF_WIDTH
        camera = np.diag([half, half * height / width, -1.0])
        if self.camera_file is not None:
            camera = self._camera_of(path)
        return (distance * _along_axis(camera, height, width)).astype(np.float32)

    def _camera_of(self, path: Path) -> npt.NDArray[np.float64]:
        scene = _SCENE.findall(path.absolute().as_posix())
        if not scene or scene[-1] not in self._cameras:
            raise SceneUnreadable(
                f"{path} belongs to a scene without a row in camera_file {str(self.camera_file)!r}."
            )
        return self._cameras[scene[-1]]


def tone_mapped(
    colours: Values, drawn: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.uint8]:
    """Bring linear colours to 8 bit so that the 90th percentile of brightness becomes 0.8.

    Args:
        colours: Linear RGB, shape (H, W, 3), any float type, 0 or more without a bound.
        drawn: Pixels that count for the brightness, shape (H, W): those that show an object; None
            counts all.

    Returns:
        RGB, shape (H, W, 3), with gamma 2.2; all black if the percentile is about 0.
    """
    brightest = float(np.finfo(np.float16).max)
    linear = np.nan_to_num(colours.astype(np.float32), nan=0.0, posinf=brightest)
    brightness = linear @ np.array([0.3, 0.59, 0.11], np.float32)
    counted = brightness if drawn is None else brightness[drawn]
    scale = 1.0
    if counted.size:
        high = float(np.percentile(counted, 90))
        scale = 0.0 if high < 1e-4 else 0.8**2.2 / high
    shown = np.clip(linear * np.float32(scale), 0, 1) ** np.float32(1 / 2.2)
    return np.asarray(np.rint(shown * 255), np.uint8)


def _along_axis(
    camera: npt.NDArray[np.float64], height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return, for each pixel, depth along the viewing axis over distance from the centre.

    `camera` takes (u, v, 1) to the direction of a ray, where u grows to the right and v upwards
    from -1 to 1 between the edges of the picture, and the camera looks along -z.
    """
    u = (np.arange(width) + 0.5) * (2 / width) - 1
    v = 1 - (np.arange(height) + 0.5) * (2 / height)
    rays = camera[:, 0] * u[None, :, None] + camera[:, 1] * v[:, None, None] + camera[:, 2]
    along: npt.NDArray[np.float64] = -rays[..., 2] / np.linalg.norm(rays, axis=2)
    return along


def _read_cameras(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Return the matrix M_cam_from_uv of every scene in the table of cameras."""
    cells = [f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)]
    try:
        with path.open(newline="", encoding="utf-8") as table:
            return {
                row["scene_name"]: np.array([float(row[cell]) for cell in cells]).reshape(3, 3)
                for row in csv.DictReader(table)
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"camera_file {str(path)!r} is not a table with scene_name and {cells[0]} to "
            f"{cells[-1]}: {error}"
        ) from error
