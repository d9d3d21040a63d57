import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import IMAGE_SOURCES, RGBDPairs

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES", "")
needs_samples = pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES is not set")

PATTERNS = {"image_pattern": "rgb/{name}.png", "depth_pattern": "depth/{name}.npy"}


def add(folder, name, depth, size=None, exif=None):
    (folder / "rgb").mkdir(exist_ok=True)
    (folder / "depth").mkdir(exist_ok=True)
    width, height = size or (depth.shape[1], depth.shape[0])
    options = {} if exif is None else {"exif": exif}
    Image.new("RGB", (width, height), (9, 8, 7)).save(folder / f"rgb/{name}.png", **options)
    np.save(folder / f"depth/{name}.npy", depth)


def depth_of(folder, **settings):
    return RGBDPairs(folder, **{**PATTERNS, **settings}).scene(0).depth


def test_pair_is_read_and_scaled(tmp_path):
    add(tmp_path, "a", np.array([[1000, 0], [2500, 65535]], np.uint16))
    source = RGBDPairs(tmp_path, **PATTERNS, depth_scale=0.001, invalid=(0, 65535))
    source.prepare()
    scene = source.scene(0)
    assert scene.source_id == "rgb/a.png"
    assert scene.depth_unit == "metre"
    assert scene.depth.dtype == np.float32
    np.testing.assert_allclose(scene.depth, [[1, np.nan], [2.5, np.nan]], rtol=1e-6)
    assert (scene.image == (9, 8, 7)).all()
    assert source.has_depth
    assert IMAGE_SOURCES.get("rgbd_pairs") is RGBDPairs
    assert pickle.loads(pickle.dumps(source)).scene(0).source_id == scene.source_id


def test_what_cannot_be_depth_is_unknown(tmp_path):
    add(tmp_path, "a", np.array([[-1, 0, 5, 6], [np.inf, np.nan, -np.inf, 7]], np.float32))
    np.testing.assert_array_equal(
        depth_of(tmp_path, invalid=()), [[np.nan, np.nan, 5, 6], [np.nan, np.nan, np.nan, 7]]
    )


def test_inverse_depth_makes_larger_values_nearer(tmp_path):
    add(tmp_path, "a", np.array([[4, 8], [np.inf, 0]], np.float32))
    depth = depth_of(tmp_path, inverse=True, depth_scale=16.0, unit="relative")
    np.testing.assert_allclose(depth, [[4, 2], [np.nan, np.nan]])


def test_mask_removes_depth(tmp_path):
    add(tmp_path, "a", np.array([[1, 2], [3, 4]], np.float32))
    (tmp_path / "mask").mkdir()
    np.save(tmp_path / "mask/a.npy", np.array([[1, 0], [0, 1]], np.float32))
    depth = depth_of(tmp_path, mask_pattern="mask/{name}.npy")
    np.testing.assert_array_equal(depth, [[1, np.nan], [np.nan, 4]])
    np.save(tmp_path / "mask/a.npy", np.ones((3, 3)))
    with pytest.raises(SceneUnreadable, match=r"mask/a\.npy is a mask of shape \(3, 3\)"):
        depth_of(tmp_path, mask_pattern="mask/{name}.npy")


def test_small_depth_is_looked_up_never_interpolated(tmp_path):
    depth = np.array([[1, 9], [np.nan, 4]], np.float32)
    add(tmp_path, "a", depth, size=(4, 4))
    np.testing.assert_array_equal(depth_of(tmp_path), np.kron(depth, np.ones((2, 2))))


def test_large_depth_is_taken_at_pixel_centres(tmp_path):
    depth = np.arange(1, 37, dtype=np.float32).reshape(6, 6)
    add(tmp_path, "a", depth, size=(2, 2))
    np.testing.assert_array_equal(depth_of(tmp_path), depth[1::3, 1::3])


def test_square_crop_cuts_depth_like_the_picture(tmp_path):
    depth = np.tile(np.arange(1, 13, dtype=np.float32), (4, 1))
    add(tmp_path, "a", depth)
    cut = depth_of(tmp_path, size=4, square=True)
    np.testing.assert_array_equal(cut, depth[:, 4:8])
    small = depth_of(tmp_path, size=6)
    assert small.shape == (2, 6)
    assert set(np.diff(small[0])) == {2.0}


def test_depth_turns_with_its_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    depth = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    add(tmp_path, "a", depth, exif=exif)
    scene = RGBDPairs(tmp_path, **PATTERNS).scene(0)
    assert scene.image.shape == (3, 2, 3)
    np.testing.assert_array_equal(scene.depth, [[4, 1], [5, 2], [6, 3]])


def test_pairs_without_partner_are_left_out_with_one_warning(tmp_path, caplog):
    add(tmp_path, "a", np.array([[1, 2]], np.float32))
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb/b.png")
    with caplog.at_level(logging.WARNING):
        source = RGBDPairs(tmp_path, **PATTERNS)
        source.prepare()
        assert len(source) == 1
    (record,) = caplog.records
    assert "Left out 1 of 2 pictures" in record.getMessage()
    assert source.left_out() == {"rgb/b.png": "no depth file for the picture"}


def test_other_proportions_are_refused(tmp_path):
    add(tmp_path, "a", np.ones((30, 40), np.float32), size=(30, 40))
    with pytest.raises(SceneUnreadable, match=r"a\.npy is 40x30 for a picture of 30x40"):
        depth_of(tmp_path)


def test_8_bit_values_are_not_taken_for_metres(tmp_path):
    add(tmp_path, "a", np.array([[200, 100]], np.uint8))
    with pytest.raises(SceneUnreadable, match=r"8-bit values.*set depth_scale"):
        depth_of(tmp_path)
    assert depth_of(tmp_path, unit="relative")[0, 0] == 200
    assert depth_of(tmp_path, depth_scale=0.01)[0, 0] == pytest.approx(2)


def test_folder_without_a_readable_pair(tmp_path):
    add(tmp_path, "a", np.ones((2, 2), np.float32))
    (tmp_path / "depth/a.npy").write_bytes(b"rubbish")
    with pytest.raises(ConfigError, match=r"holds no readable pair: .*a\.npy cannot be read"):
        RGBDPairs(tmp_path, **PATTERNS).prepare()


def test_missing_folder_is_found_when_asked_for(tmp_path):
    source = RGBDPairs(tmp_path / "nowhere", **PATTERNS)
    with pytest.raises(ConfigError, match="nowhere' is not a folder"):
        len(source)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"depth_scale": 0.0}, "depth_scale must be above 0"),
        ({"depth_pattern": "depth/*.npy"}, "must have the same fields"),
        ({"square": True}, "square=true needs a size"),
    ],
)
def test_settings_that_cannot_work(tmp_path, settings, text):
    with pytest.raises(ConfigError, match=text):
        RGBDPairs(tmp_path, **{**PATTERNS, **settings})


# Valid fraction and minimum, median and maximum depth as the sample index gives them, counted
# there by other code.
LAYOUTS = {
    "diode": (
        {
            "image_pattern": "RGB-D_img{n}.png",
            "depth_pattern": "RGB-D_depth{n}.npy",
            "mask_pattern": "RGB-D_depth_mask{n}.npy",
        },
        (0.8934, 0.3003, 10.78, 150.2),
    ),
    "megadepth": (
        {"image_pattern": "*.jpg", "depth_pattern": "*.h5", "unit": "relative"},
        (0.6618, 38.15, 210.3, 757.6),
    ),
    "redwood": (
        {
            "image_pattern": "color/{n}.jpg",
            "depth_pattern": "depth/{n}.png",
            "depth_scale": 0.001,
        },
        (0.8696, 0.955, 1.861, 2.702),
    ),
    "kitti": (
        {
            "image_pattern": "rgb/{n}.png",
            "depth_pattern": "depth/{n}.png",
            "depth_scale": 1 / 256,
        },
        (0.1950, 5.332, 13.84, 84.89),
    ),
    "arkit_lidar": (
        {
            "image_pattern": "image.jpg",
            "depth_pattern": "arkit_depth.png",
            "depth_scale": 0.001,
        },
        (1.0, 1.566, 2.654, 3.512),
    ),
    "hololens_mm": (
        {
            "image_pattern": "images/{n}.png",
            "depth_pattern": "depth/{n}.png",
            "depth_scale": 0.001,
        },
        (0.7831, 0.815, 1.47, 6.509),
    ),
    "7scenes": (
        {
            "image_pattern": "{n}.color.jpg",
            "depth_pattern": "{n}.depth.png",
            "depth_scale": 0.001,
            "invalid": (0, 65535),
        },
        (0.8917, 0.801, 1.878, 3.493),
    ),
}


@needs_samples
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_samples_agree_with_their_index(layout):
    settings, (share, low, middle, high) = LAYOUTS[layout]
    if layout == "megadepth":
        pytest.importorskip("h5py")
    scene = RGBDPairs(Path(SAMPLES) / "rgbd" / layout, **settings).scene(0)
    assert scene.depth.shape == scene.image.shape[:2]
    known = scene.depth[~np.isnan(scene.depth)]
    assert known.size / scene.depth.size == pytest.approx(share, abs=6e-5)
    np.testing.assert_allclose(
        [known.min(), np.median(known), known.max()], [low, middle, high], rtol=6e-4
    )


@needs_samples
@pytest.mark.parametrize(
    ("folder", "image", "depth", "scale", "share", "farthest"),
    [
        ("tum", "{n}.png", "{n}_depth.png", 1 / 5000, 0.6669, 42819 / 5000),
        ("nyuv2_pgm_mm", "{a}/color/{n}.png", "{a}/depth/{n}.pgm", 0.001, 0.6811, 9.823),
        ("nyuv2_png", "{a}/rgb_{n}.jpg", "{a}/sync_depth_{n}.png", 0.001, 0.7328, 6.625),
    ],
)
def test_sensor_samples(folder, image, depth, scale, share, farthest):
    root = Path(SAMPLES) / "rgbd" / folder
    scene = RGBDPairs(root, image, depth, depth_scale=scale).scene(0)
    known = scene.depth[~np.isnan(scene.depth)]
    assert known.size / scene.depth.size == pytest.approx(share, abs=6e-5)
    assert known.max() == pytest.approx(farthest, rel=1e-3)


@needs_samples
def test_disparity_sample_is_far_where_values_are_small():
    folder = Path(SAMPLES) / "rgbd" / "middlebury2014_npz"
    source = RGBDPairs(
        folder,
        "*.png",
        "*.npz",
        inverse=True,
        depth_scale=193.001 * 994.978 / 1000,
        hdf5_key="arr_0",
    )
    stored = np.load(folder / "motorcycle_disp.npz")["arr_0"]
    depth = source.scene(0).depth
    known = np.isfinite(stored)
    np.testing.assert_array_equal(~np.isnan(depth), known)
    np.testing.assert_allclose(depth[known] * stored[known], 193.001 * 994.978 / 1000, rtol=1e-5)
