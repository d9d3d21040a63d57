import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import NYUv2Labelled, NYUv2Pairs, NYUv2Raw
from support.rgbd_trees import build, nyu_labelled, nyu_pairs, nyu_raw, place

FULL = (480, 640)


@pytest.mark.parametrize(
    ("cls", "write"),
    [(NYUv2Labelled, nyu_labelled), (NYUv2Pairs, nyu_pairs), (NYUv2Raw, nyu_raw)],
)
def test_frame_is_cut_off_by_default(tmp_path, cls, write):
    if cls is NYUv2Labelled:
        pytest.importorskip("h5py")
    expected = write(tmp_path, FULL)
    as_it_is = {"register": False} if cls is NYUv2Raw else {}
    scene, whole = cls(tmp_path, **as_it_is).scene(1), cls(tmp_path, crop=None).scene(1)
    np.testing.assert_allclose(scene.depth, expected[1][45:471, 41:601], rtol=1e-5)
    np.testing.assert_array_equal(scene.image, whole.image[45:471, 41:601])
    other = cls(tmp_path, crop=(0, 10, 5, 20), **as_it_is).scene(1)
    np.testing.assert_array_equal(other.image, whole.image[:10, 5:20])


@pytest.mark.parametrize("cls", [NYUv2Labelled, NYUv2Pairs, NYUv2Raw])
@pytest.mark.parametrize("crop", [(10, 10, 0, 5), (-1, 5, 0, 5), (0, 5, 6, 5)])
def test_crop_that_keeps_nothing(tmp_path, cls, crop):
    with pytest.raises(ConfigError, match="crop must be first row, end row"):
        cls(tmp_path, crop=crop)


def test_pictures_cut_before_say_how_to_go_on(tmp_path):
    nyu_pairs(tmp_path)
    with pytest.raises(ConfigError, match=r"16x12, too small for crop=.*set crop to null"):
        NYUv2Pairs(tmp_path).prepare()


def test_axes_are_transposed_not_turned(tmp_path):
    h5py = pytest.importorskip("h5py")
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[0, 5] = (255, 0, 0)  # upper right
    depth = np.arange(1, 25, dtype=np.float32).reshape(4, 6)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as archive:
        archive["images"] = picture.transpose(2, 1, 0)[None]
        archive["rawDepths"] = depth.T[None]
    scene = NYUv2Labelled(tmp_path, crop=None).scene(0)
    np.testing.assert_array_equal(scene.image, picture)
    np.testing.assert_array_equal(scene.depth, depth)
    assert scene.source_id == "nyu_depth_v2_labeled.mat/0000"


def test_filled_depth_has_no_holes(tmp_path):
    pytest.importorskip("h5py")
    source = build(NYUv2Labelled, tmp_path, "nyuv2_labelled", filled=True)
    raw = NYUv2Labelled(tmp_path, crop=None).scene(0).depth
    filled = source.scene(0).depth
    assert (filled[np.isnan(raw)] == 1.5).all()
    np.testing.assert_array_equal(filled[~np.isnan(raw)], raw[~np.isnan(raw)])


def test_broken_or_incomplete_mat_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    nyu_labelled(tmp_path)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"labeled\.mat cannot be read as HDF5"):
            len(NYUv2Labelled(tmp_path))
    path.write_bytes(whole)
    source = NYUv2Labelled(tmp_path, crop=None)
    source.prepare()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SceneUnreadable, match=r"labeled\.mat/0001 cannot be read"):
        source.scene(1)
    with h5py.File(path, "w") as archive:
        archive["images"] = np.zeros((3, 3, 6, 4), np.uint8)
        archive["rawDepths"] = np.zeros((2, 6, 4), np.float32)
    with pytest.raises(ConfigError, match="3 pictures and 2 depth maps"):
        len(NYUv2Labelled(tmp_path))


@pytest.mark.parametrize(
    ("picture", "depth"),
    [
        ("rgb.png", "depth.png"),
        ("a/rgb.png", "a/depth.png"),
        ("a/rgb_00045.jpg", "a/sync_depth_00045.png"),
        ("00001_colors.png", "00001_depth.png"),
        ("color/1.png", "depth/1.png"),
        ("s/rgb/00001.jpg", "s/depth/00001.png"),
    ],
)
def test_exports(tmp_path, picture, depth):
    Image.new("RGB", (6, 4)).save(place(tmp_path / picture))
    stored = np.arange(1000, 1024, dtype=np.uint16).reshape(4, 6)
    Image.fromarray(stored).save(place(tmp_path / depth))
    source = NYUv2Pairs(tmp_path, crop=None)
    assert source._found() == [(picture, depth)]
    np.testing.assert_allclose(source.scene(0).depth, stored / 1000, rtol=1e-6)


def test_8_bit_depth_needs_its_scale(tmp_path):
    Image.new("RGB", (6, 4)).save(place(tmp_path / "bedroom_out/1.jpg"))
    stored = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(stored).save(tmp_path / "bedroom_out/1.png")
    with pytest.raises(ConfigError, match=r"8-bit values.*set depth_scale"):
        NYUv2Pairs(tmp_path, crop=None).prepare()
    depth = NYUv2Pairs(tmp_path, crop=None, depth_scale=10 / 255).scene(0).depth
    assert depth[3, 5] == pytest.approx(23 * 10 / 255)
    assert np.isnan(depth[0, 0])
    with pytest.raises(ConfigError, match="depth_scale must be above 0"):
        NYUv2Pairs(tmp_path, depth_scale=-1.0)


def test_kinect_codes(tmp_path):
    codes = np.array([[400, 741, 1057, 1058], [1092, 1093, 2046, 2047]])
    Image.new("RGB", (4, 2)).save(place(tmp_path / "r-1.5-7.ppm"))
    body = codes.astype("<u2").tobytes()
    (tmp_path / "d-1.51-9.pgm").write_bytes(b"P5 4 2 65535\n" + body)
    depth = NYUv2Raw(tmp_path, crop=None, register=False).scene(0).depth
    # By hand: 351.3 / 692.5, / 351.5, / 35.5; from 1058 on the formula gives more than 10 m.
    np.testing.assert_allclose(depth[0, :3], [0.50729, 0.99943, 9.89577], rtol=1e-5)
    assert np.isnan(depth[0, 3])
    assert np.isnan(depth[1]).all()
    with pytest.raises(SceneUnreadable, match=r"d-1\.51-9\.pgm is 4x2; .*set register to false"):
        NYUv2Raw(tmp_path, crop=None).scene(0)
    with pytest.raises(ConfigError, match="looked for r-<time>"):
        len(NYUv2Raw(tmp_path, tolerance=0.001))
