import io
import pickle
import socket

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import IMAGE_SOURCES, CachedScenes, HubColumns, HubImages, PictureFit
from spatial_ssrl.images.cached import settings_of

RNG = np.random.default_rng(0)
PHOTOS = [RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(5)]
DEPTHS = [RNG.integers(500, 5000, (6, 8)).astype(np.uint16) for _ in range(5)]
MILLIMETRES = HubColumns(depth="depth", depth_scale=0.001)


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Keep the library's cache in the test's folder, and its hands off the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    datasets.disable_progress_bars()


def file_bytes(values, kind="PNG", **settings):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **settings)
    return buffer.getvalue()


def table(photos=PHOTOS, **columns):
    cells = [None if photo is None else {"bytes": file_bytes(photo)} for photo in photos]
    features = {"photo": datasets.Image()}
    for name in columns:
        features[name] = datasets.Image() if name == "depth" else datasets.Value("string")
    return datasets.Dataset.from_dict(
        {"photo": cells, **columns}, features=datasets.Features(features)
    )


def with_depth():
    return table(depth=[{"bytes": file_bytes(depth)} for depth in DEPTHS])


def names_of(source):
    return [source.source_id(index) for index in range(len(source))]


def check_photos(source, photos=PHOTOS):
    assert len(source) == len(photos)
    for index, photo in enumerate(photos):
        np.testing.assert_array_equal(source.scene(index).image, photo)


def test_saved_set(tmp_path):
    table().save_to_disk(str(tmp_path / "set"))
    source = HubImages(str(tmp_path / "set"))
    source.prepare()
    check_photos(source)
    assert names_of(source) == [f"set/train/{row}" for row in range(5)]
    assert not source.has_depth
    assert source.scene(0).depth is None
    assert source.left_out() == {}
    check_photos(pickle.loads(pickle.dumps(source)))
    assert IMAGE_SOURCES.get("hub_images") is HubImages


def test_split_of_a_saved_dictionary(tmp_path):
    splits = datasets.DatasetDict({"train": table(PHOTOS[:2]), "test": table(PHOTOS[2:])})
    splits.save_to_disk(str(tmp_path / "set"))
    source = HubImages(str(tmp_path / "set"), split="test")
    check_photos(source, PHOTOS[2:])
    assert names_of(source)[0] == "set/test/0"
    with pytest.raises(ConfigError, match=r"split 'val' is not in .*it has train, test"):
        HubImages(str(tmp_path / "set"), split="val").prepare()


@pytest.mark.parametrize("place", ["set", "set/one.parquet", "set/*.parquet"])
def test_parquet_on_disk(tmp_path, place):
    (tmp_path / "set").mkdir()
    table().to_parquet(str(tmp_path / "set" / "one.parquet"))
    source = HubImages(str(tmp_path / place))
    source.prepare()
    check_photos(source)


def test_parquet_of_another_program_holds_plain_bytes(tmp_path):
    cells = [file_bytes(photo) for photo in PHOTOS]
    pq.write_table(pa.table({"jpg": cells, "n": list(range(5))}), tmp_path / "x.parquet")
    source = HubImages(str(tmp_path / "x.parquet"), columns=HubColumns(image="jpg"))
    check_photos(source)
    with pytest.raises(ConfigError, match=r"0 columns of pictures among jpg, n; name one"):
        HubImages(str(tmp_path / "x.parquet")).prepare()


def test_stream_is_copied_once_and_read_from_the_copy(tmp_path):
    with_depth().to_parquet(str(tmp_path / "x.parquet"))
    settings = {"columns": MILLIMETRES, "limit": 3, "stream_to": tmp_path / "copies"}
    source = HubImages(str(tmp_path / "x.parquet"), **settings)
    with pytest.raises(ConfigError, match=r"no finished copy of this set; call prepare\(\)"):
        len(source)
    source.prepare()
    check_photos(source, PHOTOS[:3])
    whole = HubImages(str(tmp_path / "x.parquet"), columns=MILLIMETRES)
    assert names_of(source) == names_of(whole)[:3]
    for index in range(3):
        np.testing.assert_array_equal(source.scene(index).depth, whole.scene(index).depth)
    files = sorted(path.name for path in (tmp_path / "copies").iterdir())
    assert len(files) == 2
    assert not any(name.endswith(".partial") for name in files)
    (tmp_path / "x.parquet").write_bytes(b"gone")
    again = HubImages(str(tmp_path / "x.parquet"), **settings)
    again.prepare()
    check_photos(again, PHOTOS[:3])
    other = HubImages(str(tmp_path / "x.parquet"), **(settings | {"limit": 2}))
    with pytest.raises(ConfigError, match="no finished copy"):
        len(other)


def test_stream_that_breaks_off_leaves_no_copy(tmp_path, monkeypatch):
    table().to_parquet(str(tmp_path / "x.parquet"))
    source = HubImages(str(tmp_path / "x.parquet"), limit=4, stream_to=tmp_path / "copies")
    take = datasets.IterableDataset.take

    def broken(self, count):
        yield from take(self, 2)
        raise ConnectionError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "take", broken)
        with pytest.raises(ConfigError, match=r"could not be copied .*the line is dead"):
            source.prepare()
    assert list((tmp_path / "copies").iterdir()) == []
    source.prepare()
    check_photos(source, PHOTOS[:4])


def test_streamed_files_that_the_table_only_names_are_copied(tmp_path):
    for number, photo in enumerate(PHOTOS):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    cells = [str(tmp_path / f"{number}.png") for number in range(5)]
    pq.write_table(pa.table({"photo": cells}), tmp_path / "x.parquet")
    place, columns = str(tmp_path / "x.parquet"), HubColumns(image="photo")
    check_photos(HubImages(place, columns=columns))
    source = HubImages(place, columns=columns, limit=9, stream_to=tmp_path / "copies")
    source.prepare()
    for path in tmp_path.glob("*.png"):
        path.unlink()
    check_photos(source)
    with pytest.raises(SceneUnreadable, match=r"train/0 cannot be read: .*No such file"):
        HubImages(place, columns=columns).scene(0)


def test_depth_of_pictures_is_scaled_and_aligned(tmp_path):
    stored = DEPTHS[0].copy()
    stored[0, :3] = (0, 65535, 1000)
    cells = [{"bytes": file_bytes(values)} for values in (stored, *DEPTHS[1:])]
    table(depth=cells).save_to_disk(str(tmp_path / "set"))
    columns = HubColumns(depth="depth", depth_scale=0.001, depth_invalid=(65535.0,))
    source = HubImages(str(tmp_path / "set"), columns=columns)
    source.prepare()
    scene = source.scene(0)
    assert source.has_depth
    assert scene.depth_unit == "metre"
    assert np.isnan(scene.depth[0, :2]).all()
    assert scene.depth[0, 2] == pytest.approx(1.0)
    np.testing.assert_allclose(scene.depth[1:], stored[1:] / 1000, rtol=1e-6)


def test_depth_follows_rotation_frame_and_square(tmp_path):
    inside = RNG.integers(60, 200, (100, 140), dtype=np.uint8)
    seen = np.pad(inside, ((3, 2), (4, 5)), constant_values=255)
    values = seen.astype(np.uint16) * 10  # Depth repeats the picture, so it must stay with it.
    exif = Image.Exif()
    exif[0x0112] = 3
    colours = np.repeat(seen[::-1, ::-1, None], 3, axis=2)
    cell = {"bytes": file_bytes(colours, exif=exif)}
    rows = {"photo": [cell], "depth": [{"bytes": file_bytes(values[::-1, ::-1].copy())}]}
    kinds = datasets.Features({"photo": datasets.Image(), "depth": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "set"))
    columns = HubColumns(depth="depth", depth_scale=0.1)
    whole = HubImages(str(tmp_path / "set"), columns=columns).scene(0)
    np.testing.assert_allclose(whole.depth, seen, rtol=1e-6)
    fit = PictureFit(size=100, square=True, trim_frame=True)
    scene = HubImages(str(tmp_path / "set"), columns=columns, fit=fit).scene(0)
    np.testing.assert_array_equal(scene.image[..., 0], inside[:, 20:120])
    np.testing.assert_allclose(scene.depth, inside[:, 20:120], rtol=1e-6)


def test_depth_of_arrays_and_of_another_size(tmp_path):
    small = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    rows = {"photo": [{"bytes": file_bytes(PHOTOS[0])}], "depth": [small.tolist()]}
    kinds = datasets.Features(
        {"photo": datasets.Image(), "depth": datasets.Array2D((3, 4), "float32")}
    )
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(str(tmp_path / "x.parquet"))
    columns = HubColumns(depth="depth", depth_unit="relative")
    for settings in ({}, {"limit": 1, "stream_to": tmp_path / "copies"}):
        source = HubImages(str(tmp_path / "x.parquet"), columns=columns, **settings)
        source.prepare()
        np.testing.assert_array_equal(source.scene(0).depth, np.kron(small, np.ones((2, 2))))
        assert source.scene(0).depth_unit == "relative"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "holds depth of type float64 and shape"),
        ({"bytes": b"rubbish"}, "cannot be read as depth"),
        ({"bytes": file_bytes(np.zeros((6, 8), np.uint16))}, "holds no known depth"),
        ({"bytes": file_bytes(PHOTOS[0])}, r"depth of type uint8 and shape \(6, 8, 3\)"),
        ({"bytes": file_bytes(DEPTHS[0].T.copy())}, "6x8 for a picture of 8x6"),
    ],
)
def test_broken_depth_is_named(tmp_path, cell, text):
    good = {"bytes": file_bytes(DEPTHS[0])}
    table(PHOTOS[:2], depth=[good, cell]).save_to_disk(str(tmp_path / "set"))
    source = HubImages(str(tmp_path / "set"), columns=MILLIMETRES)
    source.prepare()
    with pytest.raises(SceneUnreadable, match=rf"set/train/1 .*{text}"):
        source.scene(1)


def test_rows_without_a_picture_are_left_out_and_broken_ones_named(tmp_path):
    cells = [None, {"bytes": b"<html>"}, {"bytes": file_bytes(PHOTOS[0])}, None]
    rows = datasets.Dataset.from_dict(
        {"photo": cells}, features=datasets.Features({"photo": datasets.Image()})
    )
    rows.to_parquet(str(tmp_path / "x.parquet"))
    for settings in ({}, {"limit": 4, "stream_to": tmp_path / "copies"}):
        source = HubImages(str(tmp_path / "x.parquet"), **settings)
        source.prepare()
        name = "x.parquet/train"
        assert source.left_out() == {f"{name}/0": "no picture", f"{name}/3": "no picture"}
        assert names_of(source) == [f"{name}/1", f"{name}/2"]
        with pytest.raises(SceneUnreadable, match=r"x\.parquet/train/1 cannot be read as a pict"):
            source.scene(0)
        np.testing.assert_array_equal(source.scene(1).image, PHOTOS[0])


def test_set_without_a_usable_picture(tmp_path):
    table([None, None]).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(ConfigError, match=r"no picture in column 'photo' of its 2 rows"):
        HubImages(str(tmp_path / "set")).prepare()


def test_licence_of_a_row_or_of_the_set(tmp_path):
    rows = table(PHOTOS[:2], terms=["CC0", None])
    rows.info.license = "mit"
    rows.save_to_disk(str(tmp_path / "set"))
    place = str(tmp_path / "set")
    assert HubImages(place).scene(0).licence == "mit"
    streamed = HubImages(place, limit=2, stream_to=tmp_path / "copies")
    streamed.prepare()
    assert streamed.scene(0).licence == "mit"
    own = HubImages(place, columns=HubColumns(licence="terms"))
    assert [own.scene(index).licence for index in range(2)] == ["CC0", ""]


def test_limit_and_columns(tmp_path):
    with_depth().save_to_disk(str(tmp_path / "set"))
    place = str(tmp_path / "set")
    with pytest.raises(ConfigError, match="has 2 columns of pictures among photo, depth"):
        HubImages(place).prepare()
    check_photos(HubImages(place, columns=HubColumns(image="photo"), limit=2), PHOTOS[:2])
    check_photos(HubImages(place, columns=MILLIMETRES, limit=99))
    with pytest.raises(ConfigError, match="has no column 'picture'; it has photo, depth"):
        HubImages(place, columns=HubColumns(image="picture")).prepare()
    with pytest.raises(IndexError):
        HubImages(place, columns=MILLIMETRES).scene(5)


def test_it_can_be_cached(tmp_path):
    table().save_to_disk(str(tmp_path / "set"))
    source = HubImages(str(tmp_path / "set"), fit=PictureFit(size=6, square=True))
    assert settings_of(source)["fit"]["size"] == 6
    cached = CachedScenes(source, tmp_path / "cache", processes=1)
    cached.prepare()
    assert cached.scene(2).image.shape == (6, 6, 3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"stream_to": "copies"}, "stream_to needs a limit"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ConfigError, match=text):
        HubImages("owner/name", **settings)


def test_parts_that_cannot_work():
    with pytest.raises(ConfigError, match="depth_scale must be above 0"):
        HubColumns(depth_scale=0)
    with pytest.raises(ConfigError, match="square=true needs a size"):
        PictureFit(square=True)


def test_set_on_the_hub_needs_a_revision():
    with pytest.raises(ConfigError, match=r"needs a revision: .* or main to accept"):
        HubImages("owner/name").prepare()
    with pytest.raises(ConfigError, match="no folder or parquet file here, nor an id"):
        HubImages("/no/such/folder").prepare()
    with pytest.raises(ConfigError, match="holds no parquet files"):
        HubImages("no/such/*.parquet").prepare()


def test_hub_id_and_settings_reach_the_library(tmp_path, monkeypatch):
    asked = []

    def load(path, **settings):
        asked.append((path, settings))
        return table()

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = HubImages("owner/name", config="small", split="val", revision="abc")
    source.prepare()
    expected = {"name": "small", "split": "val", "revision": "abc", "streaming": False}
    assert asked == [("owner/name", expected)]
    assert names_of(source)[0] == "owner/name/small/val/0"


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_that_cannot_be_reached_is_one_clear_error(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    settings = {"limit": 1, "stream_to": tmp_path / "copies"} if streaming else {}
    source = HubImages("owner/name", revision="main", **settings)
    with pytest.raises(ConfigError) as caught:
        source.prepare()
    message = str(caught.value)
    assert message.startswith("dataset='owner/name', split='train', revision='main' cannot be load")
    assert "check the spelling, the network" in message
    assert "\n" not in message
