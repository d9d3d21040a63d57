import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images import IMAGE_SOURCES, ConcatSources, ImageFolder, SyntheticScenes


def test_scenes_follow_one_another_under_distinct_names():
    parts = [SyntheticScenes(count=2, size=16), SyntheticScenes(count=3, size=16)]
    joined = ConcatSources(parts)
    assert len(joined) == 5
    assert joined.has_depth
    expected = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    for index, (number, inner) in enumerate(expected):
        scene = parts[number].scene(inner)
        np.testing.assert_array_equal(joined.scene(index).image, scene.image)
        assert joined.scene(index).source_id == f"{number}/{scene.source_id}"
        assert joined.source_id(index) == f"{number}/{scene.source_id}"
        assert joined.scene(index).depth_unit == "metre"
    assert len({joined.source_id(index) for index in range(5)}) == 5
    assert IMAGE_SOURCES.get("concat") is ConcatSources


def test_depth_only_if_all_have_it(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    photos = ImageFolder(tmp_path)
    joined = ConcatSources([SyntheticScenes(count=2, size=16), photos])
    assert not joined.has_depth
    assert joined.scene(0).depth is not None
    assert joined.source_id(2) == "1/a.png"


def test_what_sources_left_out_is_named_like_their_scenes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    joined = ConcatSources([SyntheticScenes(count=2, size=16), ImageFolder(tmp_path)])
    assert joined.left_out() == {"1/b.png": "not a picture"}


def test_prepare_reaches_every_source(tmp_path):
    joined = ConcatSources([SyntheticScenes(count=2, size=16), ImageFolder(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="nowhere"):
        joined.prepare()


def test_nothing_to_join():
    with pytest.raises(ConfigError, match="sources must name at least one"):
        ConcatSources([])


@pytest.mark.parametrize("index", [-1, 2])
def test_index_out_of_range(index):
    with pytest.raises(IndexError):
        ConcatSources([SyntheticScenes(count=2, size=16)]).scene(index)
