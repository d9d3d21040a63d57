"""What every registered image source must do, built as a user would build it."""

import json
import pickle
from functools import partial

import datasets
import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.images import IMAGE_SOURCES, HubColumns, ImageFolder, RGBDPairs, SyntheticScenes
from spatial_ssrl.images.base import ImageSource
from support.rgbd_trees import IN_HDF5, WRITERS, build

SIZE = 32


def files(folder):
    """Write three pictures with depth maps, and return their folder."""
    rng = np.random.default_rng(0)
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    for number in range(3):
        colours = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        millimetres = rng.integers(500, 5000, (SIZE, SIZE)).astype(np.uint16)
        Image.fromarray(colours).save(folder / "rgb" / f"{number}.png")
        Image.fromarray(millimetres).save(folder / "depth" / f"{number}.png")
    return folder


def annotations(folder):
    """List the three pictures, and one that is missing, as COCO does."""
    images = [{"file_name": f"{number}.png", "license": 1} for number in range(4)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "licenses": [{"id": 1, "name": "CC0"}]}))
    return path


def saved_set(folder):
    """Save the three pictures with depth, and a row without a picture, as a table."""
    files(folder)
    table = {
        kind: [*({"bytes": (folder / kind / f"{n}.png").read_bytes()} for n in range(3)), None]
        for kind in ("rgb", "depth")
    }
    kinds = datasets.Features({name: datasets.Image() for name in table})
    datasets.Dataset.from_dict(table, features=kinds).save_to_disk(str(folder / "set"))
    return str(folder / "set")


BUILD = {
    "synthetic_scenes": lambda cls, folder: cls(count=3, size=SIZE),
    "image_folder": lambda cls, folder: cls(files(folder) / "rgb"),
    "coco": lambda cls, folder: cls(files(folder) / "rgb", annotations(folder)),
    "hub_images": lambda cls, folder: cls(
        saved_set(folder), columns=HubColumns(depth="depth", depth_scale=0.001)
    ),
    "rgbd_pairs": lambda cls, folder: cls(
        files(folder), "rgb/{name}.png", "depth/{name}.png", depth_scale=0.001
    ),
    "cached_scenes": lambda cls, folder: cls(
        SyntheticScenes(count=3, size=SIZE), folder / "cache", processes=1
    ),
    "concat": lambda cls, folder: cls(
        [SyntheticScenes(count=1, size=SIZE), ImageFolder(files(folder) / "rgb", limit=2)]
    ),
}


BUILD |= {key: partial(build, key=key) for key in WRITERS}


@pytest.fixture(params=[entry.key for entry in IMAGE_SOURCES.entries()])
def source(request, tmp_path) -> ImageSource:
    """A prepared source of three scenes; a new source needs a line in `BUILD`."""
    if request.param in IN_HDF5:
        pytest.importorskip("h5py")
    built = BUILD[request.param](IMAGE_SOURCES.get(request.param), tmp_path)
    built.prepare()
    return built


def same(first, second) -> bool:
    depths = (first.depth is None) == (second.depth is None)
    if depths and first.depth is not None:
        depths = np.array_equal(first.depth, second.depth, equal_nan=True)
    return depths and np.array_equal(first.image, second.image)


def test_scenes_are_what_the_contract_says(source):
    assert len(source) == 3
    for index in range(3):
        scene = source.scene(index)
        height, width, channels = scene.image.shape
        assert scene.image.dtype == np.uint8
        assert channels == 3
        assert (scene.depth is not None) >= source.has_depth
        if scene.depth is not None:
            assert scene.depth.shape == (height, width)
            assert scene.depth.dtype == np.float32
            known = scene.depth[np.isfinite(scene.depth)]
            assert known.size > 0
            assert (known > 0).all()
            assert not np.isinf(scene.depth).any()


def test_names_are_unique_and_told_without_decoding(source):
    names = [source.source_id(index) for index in range(3)]
    assert len(set(names)) == 3
    assert names == [source.scene(index).source_id for index in range(3)]


def test_a_scene_depends_on_its_number_alone(source):
    forwards = [source.scene(index) for index in (0, 1, 2)]
    backwards = [source.scene(index) for index in (2, 1, 0)][::-1]
    assert all(map(same, forwards, backwards))
    assert not np.array_equal(forwards[0].image, forwards[1].image)


def test_what_is_left_out_is_no_scene(source):
    left_out = source.left_out()
    assert not set(left_out) & {source.source_id(index) for index in range(3)}
    assert pickle.loads(pickle.dumps(source)).left_out() == left_out
    assert all(isinstance(text, str) for pair in left_out.items() for text in pair)


def test_workers_can_hold_it(source):
    copy = pickle.loads(pickle.dumps(source))
    assert same(copy.scene(1), source.scene(1))


def test_writing_into_a_scene_spoils_no_other_reading(source):
    before = source.scene(0).image.copy()
    scene = source.scene(0)
    if scene.image.flags.writeable:
        scene.image[:] = 0
    assert np.array_equal(source.scene(0).image, before)


def test_images_of_a_depth_reader_are_in_metres(tmp_path):
    scene = RGBDPairs(
        files(tmp_path), "rgb/{name}.png", "depth/{name}.png", depth_scale=0.001
    ).scene(0)
    stored = np.asarray(Image.open(tmp_path / "depth" / "0.png"))
    np.testing.assert_allclose(scene.depth, stored / 1000, rtol=1e-6)
