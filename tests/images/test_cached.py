import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images import (
    IMAGE_SOURCES,
    CachedScenes,
    ImageFolder,
    ImageSource,
    SyntheticScenes,
)
from spatial_ssrl.images.cached import settings_of


class Drawn(ImageSource):
    """Plain pictures that count how often they are drawn, and fail where they are told to."""

    def __init__(self, count=5, shade=7, fails_at=None, odd_at=None, unreadable_at=None):
        self.count = count
        self.shade = shade
        self.fails_at = fails_at
        self.odd_at = odd_at
        self.unreadable_at = unreadable_at
        self.drawn = 0

    def __len__(self):
        return self.count

    def source_id(self, index):
        return f"drawn/{index}"

    def scene(self, index):
        self.drawn += 1
        if index == self.fails_at:
            raise RuntimeError("power cut")
        if index == self.unreadable_at:
            raise SceneUnreadable(f"drawn/{index} is broken")
        side = 9 if index == self.odd_at else 8
        pixels = np.full((side, side, 3), self.shade + index, np.uint8)
        return Scene(pixels, f"drawn/{index}", licence=f"licence {index % 2}")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_licences_are_kept(tmp_path):
    cached = CachedScenes(Drawn(unreadable_at=3), tmp_path / "cache", processes=1)
    cached.prepare()
    found = [cached.scene(index).licence for index in (0, 1, 2, 4)]
    assert found == ["licence 0", "licence 1", "licence 0", "licence 0"]


def test_cache_gives_what_the_source_gives(tmp_path):
    source = SyntheticScenes(count=150, size=16, seed=4)
    cached = CachedScenes(source, tmp_path / "cache", processes=2)
    cached.prepare()
    assert len(cached) == 150
    assert cached.has_depth
    for index in (0, 63, 64, 127, 128, 149):
        one, other = cached.scene(index), source.scene(index)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.depth, other.depth)
        assert one.source_id == other.source_id == cached.source_id(index)
        assert one.depth_unit == "metre"
        assert type(one.image) is np.ndarray
        assert one.depth.dtype == np.float32
    assert not [name for name in names(tmp_path / "cache") if "partial" in name]
    again = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(again.scene(70).image, source.scene(70).image)
    assert IMAGE_SOURCES.get("cached_scenes") is CachedScenes


def test_finished_cache_is_used_again(tmp_path):
    CachedScenes(Drawn(), tmp_path, processes=1).prepare()
    source = Drawn()
    cached = CachedScenes(source, tmp_path, processes=1)
    cached.prepare()
    assert source.drawn == 2  # The first and the last, to see that they are still the same.
    assert cached.scene(3).image[0, 0, 0] == 10
    assert cached.scene(3).depth is None
    assert not cached.has_depth
    assert source.drawn == 2


@pytest.mark.parametrize("change", [{"shade": 9}, {"count": 6}])
def test_cache_of_other_settings_is_made_again(tmp_path, change):
    CachedScenes(Drawn(), tmp_path, processes=1).prepare()
    before = names(tmp_path)
    cached = CachedScenes(Drawn(**change), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="holds no finished cache of this source"):
        cached.scene(0)
    cached.prepare()
    assert cached.scene(4).image[0, 0, 0] == change.get("shade", 7) + 4
    assert len(names(tmp_path)) == len(before) == 2
    assert names(tmp_path) != before


def test_source_that_draws_differently_under_the_same_settings_is_noticed(tmp_path, monkeypatch):
    CachedScenes(Drawn(), tmp_path, processes=1).prepare()
    draw = Drawn.scene
    monkeypatch.setattr(
        Drawn, "scene", lambda self, index: Scene(draw(self, index).image + 1, f"drawn/{index}")
    )
    cached = CachedScenes(Drawn(), tmp_path, processes=1)
    cached.prepare()
    assert cached.scene(2).image[0, 0, 0] == 10


def test_failure_midway_leaves_nothing_that_is_believed(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        CachedScenes(Drawn(count=9, fails_at=4), tmp_path, processes=1).prepare()
    assert names(tmp_path) == []


def test_failed_remake_keeps_the_old_cache_and_does_not_pass_it_off(tmp_path):
    CachedScenes(Drawn(count=9), tmp_path, processes=1).prepare()
    other = CachedScenes(Drawn(count=9, shade=50, fails_at=4), tmp_path, processes=1)
    with pytest.raises(RuntimeError, match="power cut"):
        other.prepare()
    with pytest.raises(ConfigError, match="holds no finished cache"):
        other.scene(0)
    kept = CachedScenes(Drawn(count=9), tmp_path, processes=1)
    assert kept.scene(5).image[0, 0, 0] == 12


def test_killed_process_leaves_nothing_that_is_believed(tmp_path):
    program = f"""
import os, signal
from spatial_ssrl.images import CachedScenes, SyntheticScenes
draw = SyntheticScenes.scene
def scene(self, index):
    if index == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, index)
SyntheticScenes.scene = scene
CachedScenes(SyntheticScenes(count=50, size=16), {str(tmp_path)!r}, processes=1).prepare()
"""
    run = subprocess.run([sys.executable, "-c", program], check=False)
    assert run.returncode == -signal.SIGKILL
    assert any("partial" in name for name in names(tmp_path))
    cached = CachedScenes(SyntheticScenes(count=50, size=16), tmp_path, processes=1)
    with pytest.raises(ConfigError, match="holds no finished cache"):
        cached.scene(0)
    cached.prepare()
    expected = SyntheticScenes(count=50, size=16).scene(45)
    np.testing.assert_array_equal(cached.scene(45).image, expected.image)


def test_old_leftovers_are_removed_and_young_ones_kept(tmp_path):
    for name, age in (("old.partial", 7200), ("young.partial", 0)):
        (tmp_path / name).touch()
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    (tmp_path / "mine.npy").touch()
    CachedScenes(Drawn(), tmp_path, processes=1).prepare()
    assert "old.partial" not in names(tmp_path)
    assert {"young.partial", "mine.npy"} <= set(names(tmp_path))


@pytest.mark.parametrize("harm", ["cut manifest", "no manifest", "no array", "other version"])
def test_incomplete_cache_is_made_again(tmp_path, harm):
    CachedScenes(Drawn(), tmp_path, processes=1).prepare()
    manifest = tmp_path / "manifest.json"
    match harm:
        case "cut manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "no manifest":
            manifest.unlink()
        case "no array":
            next(tmp_path.glob("images-*")).unlink()
        case "other version":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 0}))
    cached = CachedScenes(Drawn(), tmp_path, processes=1)
    with pytest.raises(ConfigError, match=r"call prepare\(\) once"):
        cached.scene(0)
    cached.prepare()
    assert cached.scene(1).image[0, 0, 0] == 8


def test_scenes_of_two_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"drawn/3 is 9x9 pixels but others are 8x8.*square=true"):
        CachedScenes(Drawn(odd_at=3), tmp_path, processes=1).prepare()


def test_unreadable_scene_stays_unreadable(tmp_path):
    cached = CachedScenes(Drawn(unreadable_at=0), tmp_path, processes=1)
    cached.prepare()
    with pytest.raises(SceneUnreadable, match="drawn/0 is broken"):
        cached.scene(0)
    assert cached.source_id(0) == "drawn/0"
    assert cached.scene(1).image[0, 0, 0] == 8


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"file' cannot hold the cache .*choose a folder"):
        CachedScenes(Drawn(), tmp_path / "file", processes=1).prepare()


def test_source_that_hides_its_settings(tmp_path):
    class Hidden(Drawn):
        def __init__(self, secret=1):
            super().__init__()

    with pytest.raises(ConfigError, match=r"keep its argument 'secret' as self\.secret"):
        CachedScenes(Hidden(), tmp_path).prepare()


def test_settings_name_nested_sources():
    nested = settings_of(CachedScenes(SyntheticScenes(count=3), "x"))
    assert nested["source"]["count"] == 3
    assert nested["source"]["class"].endswith("SyntheticScenes")
    with pytest.raises(ConfigError, match=r"Drawn\.shade is a object"):
        settings_of(Drawn(shade=object()))


def test_empty_source(tmp_path):
    with pytest.raises(ConfigError, match="no readable scene"):
        CachedScenes(Drawn(count=0), tmp_path, processes=1).prepare()


@pytest.mark.parametrize("index", [-1, 5])
def test_index_out_of_range(tmp_path, index):
    cached = CachedScenes(Drawn(), tmp_path, processes=1)
    cached.prepare()
    with pytest.raises(IndexError):
        cached.scene(index)


def test_processes_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="processes must be at least 1"):
        CachedScenes(Drawn(), tmp_path, processes=0)


def test_what_the_source_left_out_is_told(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")
    (photos / "b.png").write_bytes(b"no picture")
    cached = CachedScenes(ImageFolder(photos), tmp_path / "cache", processes=1)
    cached.prepare()
    assert cached.left_out() == {"b.png": "not a picture"}
