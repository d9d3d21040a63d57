import json
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images import IMAGE_SOURCES, CocoImages
from spatial_ssrl.images.cached import settings_of

SAMPLES = Path(os.environ.get("SPATIAL_SSRL_SAMPLES", "")) / "coco"
needs_samples = pytest.mark.skipif(
    "SPATIAL_SSRL_SAMPLES" not in os.environ, reason="SPATIAL_SSRL_SAMPLES is not set"
)
BY = {"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}
OWN = {"id": 9, "name": "Own work"}
BY_TEXT = "Attribution License, http://creativecommons.org/licenses/by/2.0/"


def listed(folder, images, licences=(BY, OWN)):
    """Write an annotation file of names and licence ids, and a photo for each name but `no_`."""
    entries = [{"id": k, "file_name": n, "license": i} for k, (n, i) in enumerate(images)]
    path = folder / "notes.json"
    path.write_text(json.dumps({"images": entries, "licenses": list(licences)}))
    for number, (name, _) in enumerate(images):
        if not name.startswith("no_"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / name)
    return path


def names_of(source):
    return [source.source_id(index) for index in range(len(source))]


def test_photos_come_by_name_with_their_licences(tmp_path):
    notes = listed(tmp_path, [("b.png", 4), ("sub/a.png", 9), ("a.png", None), ("c.png", 77)])
    source = CocoImages(tmp_path, notes)
    assert names_of(source) == ["a.png", "b.png", "c.png", "sub/a.png"]
    assert [source.scene(k).licence for k in range(4)] == ["", BY_TEXT, "", "Own work"]
    assert [int(source.scene(k).image[0, 0, 0]) for k in range(4)] == [2, 0, 3, 1]
    again = pickle.loads(pickle.dumps(source))
    notes.unlink()
    assert again.scene(1).licence == BY_TEXT
    assert IMAGE_SOURCES.get("coco") is CocoImages
    assert not source.has_depth


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ([4], ["b.png"]),
        (["4"], ["b.png"]),
        (["Own work"], ["a.png"]),
        (["http://creativecommons.org/licenses/by/2.0/", 9], ["a.png", "b.png"]),
        (None, ["a.png", "b.png", "c.png"]),
    ],
)
def test_filter_of_licences(tmp_path, licences, expected):
    notes = listed(tmp_path, [("b.png", 4), ("a.png", 9), ("c.png", None)])
    source = CocoImages(tmp_path, notes, licences=licences)
    assert names_of(source) == expected
    assert source.left_out() == {}


def test_missing_and_broken_files_are_named_and_warned_of_once(tmp_path, caplog):
    notes = listed(tmp_path, [("no_1.png", 4), ("a.png", 4), ("no_2.png", 9), ("b.png", 4)])
    (tmp_path / "b.png").write_bytes(b"<html>")
    source = CocoImages(tmp_path, notes)
    with caplog.at_level(logging.WARNING):
        source.prepare()
        assert names_of(source) == ["a.png"]
    assert source.left_out() == {
        "b.png": "not a picture", "no_1.png": "missing file", "no_2.png": "missing file",
    }  # fmt: skip
    (record,) = caplog.records
    assert "Left out 3 of 4 files" in record.getMessage()
    assert "missing file: 2" in record.getMessage()


def test_settings_of_pictures_reach_them(tmp_path):
    notes = listed(tmp_path, [("a.png", 4), ("b.png", 4)])
    inside = np.random.default_rng(0).integers(60, 200, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(np.pad(inside, ((2, 2), (2, 2), (0, 0)))).save(tmp_path / "a.png")
    source = CocoImages(tmp_path, notes, limit=1, trim_frame=True)
    assert len(source) == 1
    np.testing.assert_array_equal(source.scene(0).image, inside)
    assert CocoImages(tmp_path, notes, size=40, square=True).scene(1).image.shape == (40, 40, 3)
    assert settings_of(source)["licences"] is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, r"notes\.json' cannot be read \(No such file"),
        ("{", r"notes\.json' is not JSON"),
        ("[]", "has no list 'images'; give a COCO"),
        ('{"images": {}}', "has no list 'images'"),
        ('{"images": []}', "lists no image"),
        ('{"images": [{"id": 1}]}', r"images\[0\] has no 'file_name'"),
        ('{"images": [], "licenses": [{}]}', r"licenses\[0\] has no 'id'"),
        ('{"images": [{"file_name": "../x.jpg"}]}', "outside of the folder"),
        ('{"images": [{"file_name": "/x.jpg"}]}', "outside of the folder"),
        ('{"images": [{"file_name": "x.jpg"}]}', r"only broken picture files .*x\.jpg: missing"),
    ],
)
def test_annotation_files_that_cannot_work(tmp_path, content, text):
    if content is not None:
        (tmp_path / "notes.json").write_text(content)
    source = CocoImages(tmp_path, tmp_path / "notes.json")
    with pytest.raises(ConfigError, match=text):
        source.prepare()


def test_licence_that_is_not_listed(tmp_path):
    notes = listed(tmp_path, [("a.png", 4)])
    with pytest.raises(ConfigError, match=r"licences names 'CC0'.*it lists: 4 Attribution Lic"):
        len(CocoImages(tmp_path, notes, licences=["CC0"]))
    with pytest.raises(ConfigError, match=r"lists no image under licences \[9\]"):
        len(CocoImages(tmp_path, notes, licences=[9]))
    with pytest.raises(ConfigError, match="licences is an empty list"):
        CocoImages(tmp_path, notes, licences=[])


def test_folder_that_does_not_exist(tmp_path):
    notes = listed(tmp_path, [("a.png", 4)])
    with pytest.raises(ConfigError, match="nowhere' is not a folder"):
        CocoImages(tmp_path / "nowhere", notes).prepare()


@needs_samples
def test_samples_with_the_licences_their_index_states():
    source = CocoImages(SAMPLES / "val2017", SAMPLES / "annotations" / "test_coco.json")
    source.prepare()
    stated = {  # Address, size: from the index of the samples.
        "000000000785.jpg": ("licenses/by/2.0/", (425, 640)),
        "000000040083.jpg": ("licenses/by-nc-nd/2.0/", (333, 500)),
        "000000196141.jpg": ("licenses/by-nc-sa/2.0/", (429, 640)),
    }
    on_disk = sorted(path.name for path in (SAMPLES / "val2017").iterdir())
    assert names_of(source) == on_disk
    for index, name in enumerate(on_disk):
        if name in stated:
            scene = source.scene(index)
            assert scene.licence.endswith(stated[name][0])
            assert scene.image.shape == (*stated[name][1], 3)
    free = CocoImages(SAMPLES / "val2017", SAMPLES / "annotations" / "test_coco.json", licences=[4])
    assert names_of(free) == ["000000000785.jpg"]
    listed_only = {"000000000785.jpg", "000000040083.jpg", "000000196141.jpg", "000000197388.jpg"}
    assert set(source.left_out()) == listed_only - set(on_disk)
