"""What is peculiar to the layouts of DIODE, MegaDepth, KITTI, ScanNet, SUN RGB-D and PFM."""

import sys

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import (
    DIODE,
    IMAGE_SOURCES,
    SUNRGBD,
    KITTIDepth,
    MegaDepth,
    PFMDisparity,
    ScanNet,
)
from support.rgbd_trees import IN_HDF5, build, save

DRIVE = "2011_09_26_drive_0001_sync"


@pytest.mark.parametrize("key", IN_HDF5)
def test_hdf5_readers_say_what_to_install(key, tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    build(IMAGE_SOURCES.get(key), tmp_path, key)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match="pip install h5py"):
        len(IMAGE_SOURCES.get(key)(tmp_path))


def test_diode_mask_of_another_size_is_refused(tmp_path):
    source = build(DIODE, tmp_path, "diode")
    np.save(tmp_path / source._found()[0][2], np.ones((12, 15), np.float32))
    with pytest.raises(SceneUnreadable, match=r"_depth_mask\.npy is a mask of shape \(12, 15\)"):
        source.scene(0)


def test_megadepth_labels_are_not_depth(tmp_path):
    h5py = pytest.importorskip("h5py")
    source = build(MegaDepth, tmp_path, "megadepth")
    with h5py.File(tmp_path / source._found()[0][1], "r+") as archive:
        archive["depth"][:] = np.where(archive["depth"][:] > 0, 1, -1)
    with pytest.raises(SceneUnreadable, match=r"0_o\.h5 holds values below 0: labels"):
        source.scene(0)
    assert source.scene(1).depth_unit == "relative"
    source.prepare()


def test_kitti_pairs_by_drive_camera_and_frame(tmp_path):
    truth = f"train/{DRIVE}/proj_depth/groundtruth"
    depth = np.arange(256, 280, dtype=np.uint16).reshape(4, 6)
    for frame in range(4):
        save(tmp_path / f"d/{DRIVE}/image_02/data/{frame:010d}.png", np.zeros((4, 6, 3), np.uint8))
    for camera, frame in (("02", 1), ("02", 2), ("03", 3)):
        save(tmp_path / truth / f"image_{camera}/{frame:010d}.png", depth)
    source = KITTIDepth(tmp_path)
    assert [name[-5] for name, _ in source._found()] == ["1", "2"]
    assert [name[-5] for name in source.left_out()] == ["0", "3"]
    np.testing.assert_allclose(source.scene(0).depth, depth / 256)


@pytest.mark.parametrize("settings", [{"size": 16}, {"size": 12}, {"size": 7, "square": True}])
def test_kitti_pixels_take_the_nearest_reading_inside_them(tmp_path, settings):
    rng = np.random.default_rng(0)
    stored = rng.integers(256, 20000, (24, 48)).astype(np.uint16)
    stored[rng.random(stored.shape) < 0.85] = 0
    save(tmp_path / f"{DRIVE}/image_02/data/5.png", np.zeros((24, 48, 3), np.uint8))
    save(tmp_path / f"{DRIVE}/proj_depth/groundtruth/image_02/5.png", stored)
    whole = KITTIDepth(tmp_path).scene(0).depth
    np.testing.assert_array_equal(np.isfinite(whole), stored > 0)
    depth = KITTIDepth(tmp_path, **settings).scene(0).depth
    left = 12 if "square" in settings else 0
    step = (24 if "square" in settings else 48) / depth.shape[1]
    readings = [(r + 0.5, c + 0.5, stored[r, c] / 256) for r, c in np.argwhere(stored)]
    for i, j in np.ndindex(depth.shape):
        middle = (i + 0.5) * step, left + (j + 0.5) * step
        inside = [
            (np.hypot(row - middle[0], column - middle[1]), value)
            for row, column, value in readings
            if max(abs(row - middle[0]), abs(column - middle[1])) <= step / 2
        ]
        if not inside:
            assert np.isnan(depth[i, j])
            continue
        taken = [distance for distance, value in inside if np.isclose(value, depth[i, j])]
        assert taken
        assert min(taken) == pytest.approx(min(inside)[0])
    assert np.isfinite(depth).mean() > 2 * np.isfinite(whole).mean()


def test_scannet_looks_rows_and_columns_up_apart(tmp_path):
    # The true sizes: 1296 / 640 is 2.025 and 968 / 480 is 2.0167.
    row, column = np.mgrid[:480, :640]
    save(tmp_path / "scene0000_00/depth/7.png", (1 + row + 100 * column).astype(np.uint16))
    save(tmp_path / "scene0000_00/color/7.jpg", np.zeros((968, 1296, 3), np.uint8))
    depth = np.rint(ScanNet(tmp_path).scene(0).depth * 1000).astype(int) - 1
    assert depth.shape == (968, 1296)
    expected_row = ((np.arange(968) + 0.5) * 480 / 968).astype(int)
    expected_column = ((np.arange(1296) + 0.5) * 640 / 1296).astype(int)
    np.testing.assert_array_equal(depth, expected_row[:, None] + 100 * expected_column)
    tenth = ScanNet(tmp_path, depth_shift=10000.0).scene(0).depth
    assert tenth[0, -1] == pytest.approx(6.3901)
    with pytest.raises(ConfigError, match="depth_shift must be above 0"):
        ScanNet(tmp_path, depth_shift=0.0)


def test_scannet_frames_of_the_other_exporter(tmp_path):
    depth = np.array([[800, 0, 65535], [900, 1000, 1100]])
    Image.new("RGB", (3, 2)).save(tmp_path / "frame-000007.color.jpg")
    body = depth.astype(">u2").tobytes()
    (tmp_path / "frame-000007.depth.pgm").write_bytes(b"P5\n3 2\n65535\n" + body)
    np.testing.assert_allclose(
        ScanNet(tmp_path).scene(0).depth, [[0.8, np.nan, np.nan], [0.9, 1.0, 1.1]], rtol=1e-6
    )


def test_two_files_for_one_frame_are_an_error_that_names_both(tmp_path):
    for name in ("color/1.jpg", "color/1.png"):
        save(tmp_path / name, np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "depth/1.png", np.zeros((4, 6), np.uint16))
    with pytest.raises(ConfigError, match=r"both color/1\.jpg and color/1\.png.*keep one of them"):
        len(ScanNet(tmp_path))


def test_sunrgbd_filled_depth_is_read_when_asked_for(tmp_path):
    build(SUNRGBD, tmp_path, "sunrgbd")
    with pytest.raises(ConfigError, match="looked for"):
        len(SUNRGBD(tmp_path, filled=True))
    filled = np.full((12, 16), 2000 << 3, np.uint16)
    filled[0] = 1000 << 3
    save(tmp_path / "SUNRGBD/kv1/NYUdata/NYU0001/depth_bfx/img_0063_abs.png", filled)
    source = SUNRGBD(tmp_path, filled=True)
    assert len(source) == 1
    assert len(source.left_out()) == 2
    np.testing.assert_allclose(np.unique(source.scene(0).depth), [1, 2])


def test_sunrgbd_folder_with_several_files_is_left_out(tmp_path):
    source = build(SUNRGBD, tmp_path, "sunrgbd")
    picture = source.source_id(0)
    save((tmp_path / picture).with_name("other.png"), np.zeros((12, 16, 3), np.uint8))
    again = SUNRGBD(tmp_path)
    assert len(again) == 2
    assert picture in again.left_out()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baseline=120.0\n", "", "names no baseline"),
        ("doffs=3.5\nbaseline=120.0\n", "", "names no baseline and no doffs"),
        ("width=16", "width=32", "is for pictures 32 pixels wide, .* has 16"),
        ("baseline=120.0", "baseline=-1", "not above 0"),
        ("cam0=[40.0", "cam0=[x", "names no cam0"),
        ("cam0=[40.0", "cam0=[4.0.0", "names no cam0"),
    ],
)
def test_calibration_that_cannot_be_used(tmp_path, old, new, message):
    source = build(PFMDisparity, tmp_path, "pfm_disparity")
    path = tmp_path / source._found()[0][2]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(SceneUnreadable, match=message):
        source.scene(0)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SceneUnreadable, match=r"calib\.txt cannot be read as text"):
        source.scene(0)


def test_disparity_of_the_evaluation_set(tmp_path):
    build(PFMDisparity, tmp_path, "pfm_disparity")
    for path in sorted(tmp_path.rglob("disp0.pfm")):
        path.rename(path.with_name("disp0GT.pfm"))
    assert len(PFMDisparity(tmp_path)) == 3
