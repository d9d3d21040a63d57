import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import Hypersim
from spatial_ssrl.images.rgbd.hypersim import tone_mapped
from support.rgbd_trees import build, hypersim, place

h5py = pytest.importorskip("h5py")

COLOUR = "ai_001_001/images/scene_cam_00_final_hdf5/frame.{:04d}.color.hdf5"
PREVIEW = "ai_001_001/images/scene_cam_00_final_preview/frame.{:04d}.tonemap.jpg"
ENTITY = "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.{:04d}.render_entity_id.hdf5"


def store(path, values):
    with h5py.File(place(path), "w") as archive:
        archive["dataset"] = values


def test_distance_at_the_corner_is_longer_than_depth(tmp_path):
    # A wall facing the camera at 2 m, at full size: the corner's ray is sqrt(1 + tan^2) longer.
    folder = tmp_path / "ai_001_001/images"
    row, column = np.mgrid[:768, :1024].astype(float)
    ray = np.sqrt(((column - 511.5) / 886.81) ** 2 + ((row - 383.5) / 886.81) ** 2 + 1)
    wall = np.where(row < 384, 2.0, 3.0)
    store(folder / "scene_cam_01_geometry_hdf5/frame.0007.depth_meters.hdf5", wall * ray)
    Image.new("RGB", (1024, 768)).save(
        place(folder / "scene_cam_01_final_preview/frame.0007.tonemap.jpg")
    )
    np.testing.assert_allclose(Hypersim(tmp_path).scene(0).depth, wall, rtol=1e-5)


def test_linear_colours_stand_in_where_there_is_no_preview(tmp_path):
    hypersim(tmp_path)
    rng = np.random.default_rng(0)
    colours = rng.random((96, 128, 3)).astype(np.float16) * 4
    for number in range(3):
        store(tmp_path / COLOUR.format(number), colours)
    (tmp_path / PREVIEW.format(1)).unlink()
    source = Hypersim(tmp_path)
    names = [source.source_id(number) for number in range(len(source))]
    assert sorted(names) == sorted([PREVIEW.format(0), COLOUR.format(1), PREVIEW.format(2)])
    assert source.left_out() == {}
    image = source.scene(names.index(COLOUR.format(1))).image
    np.testing.assert_array_equal(image, tone_mapped(colours))


def test_tone_map_puts_the_90th_percentile_at_four_fifths():
    # Greys 0 to 10 in equal numbers: the 90th percentile is 9.
    linear = np.repeat(np.arange(11.0), 10).reshape(10, 11, 1).repeat(3, axis=2)
    shown = tone_mapped(linear)
    assert shown[linear == 9].tolist() == [204] * 30
    assert shown[linear == 10].max() == round(0.8 * (10 / 9) ** (1 / 2.2) * 255)
    assert shown.min() == 0
    # Only green, weighing 0.59: brightness 1 is a green of 1 / 0.59.
    green = np.zeros((4, 4, 3), np.float32)
    green[..., 1] = 1 / 0.59
    assert tone_mapped(green).max() == 255
    assert tone_mapped(np.zeros((4, 4, 3), np.float16)).max() == 0
    assert tone_mapped(np.full((4, 4, 3), np.nan)).max() == 0


def test_background_does_not_count_for_the_brightness(tmp_path):
    hypersim(tmp_path)
    (tmp_path / PREVIEW.format(0)).unlink()
    colours = np.ones((96, 128, 3), np.float32)
    colours[:60] = 100
    store(tmp_path / COLOUR.format(0), colours)
    entities = np.ones((96, 128), np.int32)
    entities[:60] = -1
    store(tmp_path / ENTITY.format(0), entities)
    source = Hypersim(tmp_path)
    image = source.scene([source.source_id(i) for i in range(3)].index(COLOUR.format(0))).image
    assert (image[60:] == 204).all()
    assert (image[:60] == 255).all()


def test_camera_file_must_hold_the_cameras(tmp_path):
    source = build(Hypersim, tmp_path, "hypersim")
    table = tmp_path / "cameras.csv"
    names = [f"M_cam_from_uv_{i}{j}" for i in range(3) for j in range(3)]
    half = 512 / 886.81
    cells = [half, 0, 0, 0, half * 0.75, 0, 0, 0, -1]
    table.write_text(f"scene_name,{','.join(names)}\nai_001_001,{','.join(map(str, cells))}\n")
    exact = Hypersim(tmp_path, camera_file=table)
    np.testing.assert_allclose(exact.scene(0).depth, source.scene(0).depth, rtol=1e-6)
    table.write_text(f"scene_name,{','.join(names)}\nai_999_999,{','.join(map(str, cells))}\n")
    with pytest.raises(SceneUnreadable, match="scene without a row in camera_file"):
        Hypersim(tmp_path, camera_file=table).scene(0)
    for text in ("scene_name\nai_001_001\n", "scene_name,a\n1,2\n"):
        table.write_text(text)
        with pytest.raises(ConfigError, match=r"cameras\.csv' is not a table with scene_name"):
            len(Hypersim(tmp_path, camera_file=table))
    with pytest.raises(ConfigError, match="camera_file"):
        len(Hypersim(tmp_path, camera_file=tmp_path / "gone.csv"))
