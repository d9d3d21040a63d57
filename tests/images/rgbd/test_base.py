import json
import logging
import re

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import DIODE, IMAGE_SOURCES, KITTIDepth, ScanNet
from spatial_ssrl.images.cached import settings_of
from spatial_ssrl.images.rgbd.base import RGBDFiles
from support.rgbd_trees import IN_HDF5, WRITERS, as_stored, build, place

every_reader = pytest.mark.parametrize("key", sorted(WRITERS))
every_reader_of_many_files = pytest.mark.parametrize(
    "key", sorted(set(WRITERS) - {"nyuv2_labelled"})
)


@pytest.fixture(autouse=True)
def _hdf5(request):
    if (
        getattr(request.node, "callspec", None)
        and request.node.callspec.params.get("key") in IN_HDF5
    ):
        pytest.importorskip("h5py")


def test_every_reader_of_a_layout_is_tested_here():
    readers = {e.key for e in IMAGE_SOURCES.entries() if issubclass(e.cls, RGBDFiles)}
    assert readers - {"rgbd_pairs"} == set(WRITERS)


@every_reader
def test_native_layout_gives_the_depth_that_was_written(key, tmp_path, caplog):
    expected = WRITERS[key](tmp_path)
    source = IMAGE_SOURCES.get(key)(tmp_path, **as_stored(key))
    with caplog.at_level(logging.WARNING):
        source.prepare()
        assert len(source) == 3
    assert not caplog.records
    assert source.left_out() == {}
    for index, depth in enumerate(expected):
        scene = source.scene(index)
        assert scene.depth_unit == ("relative" if key == "megadepth" else "metre")
        np.testing.assert_array_equal(np.isnan(scene.depth), np.isnan(depth))
        np.testing.assert_allclose(scene.depth, depth, rtol=6e-4 if key == "hypersim" else 1e-5)


@every_reader
def test_names_are_relative_posix_paths_told_from_the_folder_alone(key, tmp_path):
    build(IMAGE_SOURCES.get(key), tmp_path / "here", key)
    (tmp_path / "here").rename(tmp_path / "there")
    names = [IMAGE_SOURCES.get(key)(tmp_path / "there").source_id(index) for index in range(3)]
    assert names == sorted(names)
    assert len(set(names)) == 3
    for name in names:
        file = tmp_path / "there" / name
        assert (file.parent if key == "nyuv2_labelled" else file).is_file()


@every_reader
def test_settings_are_kept_so_that_scenes_can_be_cached(key, tmp_path):
    source = build(IMAGE_SOURCES.get(key), tmp_path, key, size=8, square=True, every=2)
    settings = settings_of(source)
    assert (settings["size"], settings["square"], settings["every"]) == (8, True, 2)
    json.dumps(settings)
    scene = source.scene(1)
    assert scene.image.shape == (8, 8, 3)
    assert scene.depth.shape == (8, 8)


@every_reader
def test_a_folder_of_something_else_is_an_error_that_says_what_was_looked_for(key, tmp_path):
    cls = IMAGE_SOURCES.get(key)
    with pytest.raises(ConfigError, match=r"nowhere' is not a folder; give one that holds "):
        len(cls(tmp_path / "nowhere"))
    Image.new("RGB", (4, 4)).save(tmp_path / "holiday.jpg")
    with pytest.raises(ConfigError) as caught:
        cls(tmp_path).prepare()
    assert str(tmp_path) in str(caught.value)
    assert f"looked for {cls.looked_for}" in str(caught.value)


@every_reader_of_many_files
def test_truncated_and_empty_files_are_refused_by_name_and_spoil_no_other(key, tmp_path):
    source = build(IMAGE_SOURCES.get(key), tmp_path, key)
    source.prepare()
    whole = source.scene(2)
    for number, keep in ((0, 0.0), (1, 0.6)):
        for part in source._found()[number][:2]:
            path = tmp_path / part
            data = path.read_bytes()
            path.write_bytes(data[: int(len(data) * keep)])
            with pytest.raises(SceneUnreadable, match=re.escape(path.name)):
                source.scene(number)
            path.write_bytes(data)
            source.scene(number)
        path.write_bytes(b"<html>not found</html>")
    np.testing.assert_array_equal(source.scene(2).depth, whole.depth)
    source.prepare()


@every_reader_of_many_files
def test_missing_depth_file_is_named_as_left_out(key, tmp_path, caplog):
    source = build(IMAGE_SOURCES.get(key), tmp_path, key)
    picture, depth, *_ = source._found()[1]
    (tmp_path / depth).unlink()
    again = IMAGE_SOURCES.get(key)(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(again) == 2
    assert "Left out 1 of 3 pictures" in caplog.text
    assert again.left_out() == {picture: "no depth file for the picture"}


def steps(folder, values, size=None):
    """Write one ScanNet frame with the given stored values."""
    height, width = values.shape
    Image.new("RGB", size or (width, height)).save(place(folder / "color/0.png"))
    Image.fromarray(values).save(place(folder / "depth/0.png"))
    return ScanNet(folder)


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        (np.zeros((4, 6), np.uint16), None, r"depth/0\.png holds no known depth"),
        (np.full((4, 6), 65535, np.uint16), None, r"depth/0\.png holds no known depth"),
        (np.full((4, 6), 1500, np.uint16), None, "holds the same depth everywhere, 1.5"),
        (np.arange(24, dtype=np.uint16).reshape(4, 6), (4, 6), "is 6x4 for a picture of 4x6"),
        (np.arange(24, dtype=np.uint8).reshape(4, 6), None, "8-bit values .* read .* RGBDPairs"),
        (np.zeros((4, 6, 3), np.uint8), None, r"depth/0\.png is a colour picture"),
    ],
)
def test_depth_that_cannot_be_right_is_refused(tmp_path, values, size, message):
    if values.ndim == 3:
        source = steps(tmp_path, values[..., 0])
        Image.fromarray(values).save(tmp_path / "depth/0.png")
    else:
        source = steps(tmp_path, values, size)
    with pytest.raises(SceneUnreadable, match=message):
        source.scene(0)
    with pytest.raises(ConfigError, match="holds no readable pair"):
        source.prepare()


@pytest.mark.parametrize("bad", [np.nan, -3.0, np.inf])
def test_float_depth_without_a_sensible_value_is_refused(tmp_path, bad):
    source = build(DIODE, tmp_path, "diode")
    np.save(tmp_path / source._found()[0][1], np.full((12, 16, 1), bad, np.float32))
    with pytest.raises(SceneUnreadable, match="holds no known depth"):
        source.scene(0)


def test_one_in_so_many(tmp_path):
    whole = build(KITTIDepth, tmp_path, "kitti_depth")
    assert KITTIDepth(tmp_path, every=2).source_id(1) == whole.source_id(2)
    assert len(KITTIDepth(tmp_path, every=2)) == 2
    with pytest.raises(ConfigError, match="every must be at least 1"):
        KITTIDepth(tmp_path, every=0)


def test_linked_folders_are_followed_but_never_in_circles(tmp_path):
    build(DIODE, tmp_path / "elsewhere", "diode")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/val/back").symlink_to(tmp_path / "elsewhere")
    source = DIODE(tmp_path / "set")
    assert len(source) == 3
    assert source.source_id(0).startswith("link/val/indoors/")


def test_picture_and_depth_are_scaled_alike(tmp_path):
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[:, 30:] = 255
    Image.fromarray(colours).save(place(tmp_path / "color/0.png"))
    depth = np.where(np.arange(30) < 15, 1000, 3000).astype(np.uint16)
    Image.fromarray(np.tile(depth, (20, 1))).save(place(tmp_path / "depth/0.png"))
    scene = ScanNet(tmp_path, size=16, square=True).scene(0)
    assert scene.image.shape == (16, 16, 3)
    np.testing.assert_allclose(np.unique(scene.depth), [1, 3])
    np.testing.assert_array_equal(scene.depth > 2, scene.image[..., 0] > 127)
