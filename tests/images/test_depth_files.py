import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images.depth_files import read_values

VALUES = np.array([[0, 1, 258], [1000, 4660, 65535]], np.uint16)


def test_png_of_16_bit_keeps_every_bit(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "d.png")
    np.testing.assert_array_equal(read_values(tmp_path / "d.png"), VALUES)


def test_pgm_is_big_endian_and_never_stretched(tmp_path):
    # A maximum of 10000 must not change what 4660 means.
    body = b"P5\n# made by hand\n2 1\n10000\n" + bytes([0x12, 0x34, 0x00, 0x0A])
    (tmp_path / "d.pgm").write_bytes(body)
    assert read_values(tmp_path / "d.pgm").tolist() == [[4660, 10]]
    (tmp_path / "e.pgm").write_bytes(b"P5 2 1 255\n" + bytes([7, 255]))
    assert read_values(tmp_path / "e.pgm").tolist() == [[7, 255]]


@pytest.mark.parametrize(("scale", "kind"), [("-1.0", "<f4"), ("1", ">f4")])
def test_pfm_is_upright_in_either_byte_order(tmp_path, scale, kind):
    rows = np.array([[1.5, 2.5], [np.inf, 4.0]])
    data = np.flipud(rows).astype(kind).tobytes()
    (tmp_path / "d.pfm").write_bytes(b"Pf\n2 2\n" + scale.encode() + b"\n" + data)
    np.testing.assert_array_equal(read_values(tmp_path / "d.pfm"), rows)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (1, 2, 3)])
def test_npy_loses_its_channel_axis(tmp_path, shape):
    np.save(tmp_path / "d.npy", VALUES.reshape(shape).astype(np.float32))
    np.testing.assert_array_equal(read_values(tmp_path / "d.npy"), VALUES)


def test_npz_by_key_or_alone(tmp_path):
    np.savez(tmp_path / "one.npz", VALUES)
    np.testing.assert_array_equal(read_values(tmp_path / "one.npz"), VALUES)
    np.savez(tmp_path / "two.npz", depth=VALUES, other=VALUES + 1)
    np.testing.assert_array_equal(read_values(tmp_path / "two.npz", "depth"), VALUES)
    with pytest.raises(SceneUnreadable, match=r"no array 'z'; set hdf5_key to one of depth, other"):
        read_values(tmp_path / "two.npz", "z")


def test_hdf5_by_key(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as archive:
        archive["depth"] = VALUES
    np.testing.assert_array_equal(read_values(tmp_path / "d.h5"), VALUES)
    with pytest.raises(SceneUnreadable, match=r"d\.h5 holds no array 'dataset'.*one of depth"):
        read_values(tmp_path / "d.h5", "dataset")


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SceneUnreadable, match="pip install h5py"):
        read_values(tmp_path / "d.h5")


def test_colour_picture_is_no_depth(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "d.png")
    with pytest.raises(SceneUnreadable, match=r"d\.png is a colour picture"):
        read_values(tmp_path / "d.png")


def test_file_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    Image.new("I;16", (4, 4)).save(tmp_path / "d.png")
    data = bytearray((tmp_path / "d.png").read_bytes())
    data[16:24] = (12_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "d.png").write_bytes(data)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(SceneUnreadable, match=r"d\.png claims 12000x12000 pixels"),
    ):
        read_values(tmp_path / "d.png")


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3), (0, 4)])
def test_array_that_is_no_map(tmp_path, shape):
    np.save(tmp_path / "d.npy", np.zeros(shape))
    with pytest.raises(SceneUnreadable, match=r"d\.npy holds float64 values of shape"):
        read_values(tmp_path / "d.npy")


@pytest.mark.parametrize("name", ["d.png", "d.pgm", "d.pfm", "d.npy", "d.npz"])
def test_broken_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(SceneUnreadable, match=name):
        read_values(tmp_path / name)
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(SceneUnreadable, match=name):
        read_values(tmp_path / name)


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SceneUnreadable, match=r"d\.npy"):
        read_values(tmp_path / "d.npy")


def test_unknown_ending_lists_the_known_ones(tmp_path):
    with pytest.raises(SceneUnreadable, match=r"d\.exr has no known depth format.*\.npy"):
        read_values(tmp_path / "d.exr")
