import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import IMAGE_SOURCES, ImageFolder

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES", "")
needs_samples = pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES is not set")


def add(folder, name, colour=(10, 20, 30), size=(8, 6)):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_files_are_found_in_subfolders_in_the_order_of_their_paths(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/c.jpeg", "d.webp", "e.gif", "f.BMP", "g.tif", "h.TIFF"):
        add(tmp_path, name)
    add(tmp_path, ".hidden.png")
    add(tmp_path, ".cache/x.png")
    (tmp_path / "notes.txt").write_text("no picture")
    source = ImageFolder(tmp_path)
    ids = [source.source_id(index) for index in range(len(source))]
    assert ids == ["a/c.jpeg", "a/z.JPG", "b.png", "d.webp", "e.gif", "f.BMP", "g.tif", "h.TIFF"]
    scene = source.scene(2)
    assert scene.source_id == "b.png"
    assert scene.depth is None
    assert scene.image.shape == (6, 8, 3)
    assert (scene.image == (10, 20, 30)).all()
    assert not source.has_depth
    assert IMAGE_SOURCES.get("image_folder") is ImageFolder


def test_pattern_and_limit(tmp_path):
    for name in ("a.png", "b.jpg", "sub/c.png", "sub/d.png"):
        add(tmp_path, name)
    assert len(ImageFolder(tmp_path, pattern="*.png")) == 1
    assert len(ImageFolder(tmp_path, pattern="sub/*")) == 2
    limited = ImageFolder(tmp_path, limit=3)
    assert [limited.source_id(k) for k in range(len(limited))] == ["a.png", "b.jpg", "sub/c.png"]


def test_size_and_square(tmp_path):
    add(tmp_path, "a.png", size=(90, 60))
    assert ImageFolder(tmp_path, size=30).scene(0).image.shape == (20, 30, 3)
    assert ImageFolder(tmp_path, size=32, square=True).scene(0).image.shape == (32, 32, 3)
    assert ImageFolder(tmp_path, size=120, square=True).scene(0).image.shape == (120, 120, 3)


def test_broken_files_are_left_out_with_one_warning(tmp_path, caplog):
    add(tmp_path, "good.png")
    for name in ("bad1.jpg", "bad2.png"):
        (tmp_path / name).write_bytes(b"not a picture")
    source = ImageFolder(tmp_path)
    with caplog.at_level(logging.WARNING):
        source.prepare()
        assert len(source) == 1
    (record,) = caplog.records
    assert "Left out 2 of 3 files" in record.getMessage()
    assert "bad1.jpg" in record.getMessage()
    assert source.left_out() == {"bad1.jpg": "not a picture", "bad2.png": "not a picture"}
    again = pickle.loads(pickle.dumps(source))
    assert again.scene(0).source_id == "good.png"
    assert again.left_out() == source.left_out()


def test_file_that_breaks_after_its_header_is_named(tmp_path):
    add(tmp_path, "a.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:4000])
    source = ImageFolder(tmp_path)
    source.prepare()
    assert len(source) == 2
    with pytest.raises(SceneUnreadable, match=r"cut\.png cannot be read as a picture"):
        source.scene(1)


def test_folder_that_does_not_exist(tmp_path):
    source = ImageFolder(tmp_path / "nowhere")  # Configs are built before folders exist.
    for ask in (source.prepare, source.__len__):
        with pytest.raises(ConfigError, match=r"nowhere' is not a folder; give one"):
            ask()


def test_folder_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ConfigError, match=r"holds no picture that matches '\*\*/\*'; put files"):
        ImageFolder(tmp_path).prepare()


def test_folder_with_only_broken_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds only broken picture files .*a\.jpg.*replace"):
        ImageFolder(tmp_path).prepare()


def test_folder_whose_only_file_is_cut_off(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1500])
    with pytest.raises(ConfigError, match=r"holds only broken picture files .*cut\.jpg"):
        ImageFolder(tmp_path).prepare()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"size": 0}, "size must be at least 1"),
        ({"square": True}, "square=true needs a size"),
    ],
)
def test_settings_that_cannot_work(tmp_path, settings, text):
    with pytest.raises(ConfigError, match=text):
        ImageFolder(tmp_path, **settings)


@pytest.mark.parametrize("index", [-1, 1])
def test_index_out_of_range(tmp_path, index):
    add(tmp_path, "a.png")
    with pytest.raises(IndexError):
        ImageFolder(tmp_path).scene(index)


@needs_samples
def test_every_sample_opens():
    source = ImageFolder(Path(SAMPLES) / "rgb", size=128)
    source.prepare()
    assert len(source) >= 20
    for index in range(len(source)):
        scene = source.scene(index)
        assert scene.image.dtype == np.uint8
        assert max(scene.image.shape[:2]) <= 128
        assert scene.image.shape[2] == 3
        assert scene.image.std() > 5


@needs_samples
@pytest.mark.parametrize(
    ("name", "shape"),
    [("exif_Landscape_6.jpg", (1200, 1800, 3)), ("exif_Portrait_3.jpg", (1800, 1200, 3))],
)
def test_rotated_samples_are_upright(name, shape):
    assert ImageFolder(Path(SAMPLES) / "rgb", pattern=name).scene(0).image.shape == shape


@needs_samples
def test_sample_with_a_tag_is_its_twin_turned_clockwise():
    folder = Path(SAMPLES) / "rgb"
    plain = ImageFolder(folder, pattern="mmcv_color.jpg").scene(0).image.astype(int)
    turned = ImageFolder(folder, pattern="mmcv_color_exif.jpg").scene(0).image.astype(int)
    assert np.abs(np.rot90(plain, -1) - turned).mean() < 4
