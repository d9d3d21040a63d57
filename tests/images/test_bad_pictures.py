"""Picture files as they are found in the wild: broken, hostile, tiny, huge or unusual."""

import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.images.pictures import (
    MOST_PIXELS,
    decode_picture,
    open_picture,
    why_no_picture,
)

SAMPLES = Path(os.environ.get("SPATIAL_SSRL_SAMPLES", ""))
needs_samples = pytest.mark.skipif(
    "SPATIAL_SSRL_SAMPLES" not in os.environ, reason="SPATIAL_SSRL_SAMPLES is not set"
)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_warning_escapes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour_type, rows=b""):
    """Return the bytes of a PNG file, written without Pillow."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp"])
def test_a_file_cut_anywhere_gives_no_scene(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(NOISE).save(whole)
    data = whole.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.98):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SceneUnreadable, match=rf"cut\.{suffix} cannot be read as a picture"):
            open_picture(cut)
        with pytest.raises(SceneUnreadable, match="row 7 cannot be read as a picture"):
            decode_picture(cut.read_bytes(), "row 7")


BAD = {
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not a picture"),
    "drawing.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "start.png": (png(8, 8, 8, 2)[:12], "not a picture"),
    "bomb.png": (png(60_000, 60_000, 8, 2), "too many pixels"),
    "bomb.gif": (
        b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4 + b"\0\x02\0;",
        "too many pixels",
    ),
    "bomb.bmp": (
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 1 << 20, 1 << 20, 1, 24, 0, 0, 0, 0, 0, 0),
        "too many pixels",
    ),
}  # fmt: skip


def test_one_bad_file_neither_stops_a_run_nor_is_silent(tmp_path, caplog):
    for name, (data, _) in BAD.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    Image.fromarray(NOISE).save(tmp_path / "good.png")
    source = ImageFolder(tmp_path)
    source.prepare()
    assert [source.source_id(k) for k in range(len(source))] == ["good.png"]
    expected = {name: reason for name, (_, reason) in BAD.items()}
    assert source.left_out() == expected | {"gone.jpg": "missing file"}
    (record,) = caplog.records
    assert "Left out 8 of 9 files" in record.getMessage()
    assert "too many pixels: 3" in record.getMessage()


def test_bomb_that_is_asked_for_is_refused_without_decoding(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(BAD["bomb.png"][0])
    with pytest.raises(SceneUnreadable, match=r"bomb\.png .* 60000 x 60000 pixels.*scale it down"):
        open_picture(path)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [(16384, 8192, ""), (16384, 8193, "too many pixels"), (1, MOST_PIXELS, "")],
)
def test_limit_on_pixels(tmp_path, width, height, reason):
    (tmp_path / "x.png").write_bytes(png(width, height, 1, 0))
    assert why_no_picture(tmp_path / "x.png") == reason


@pytest.mark.parametrize(
    ("size", "most", "shape"),
    [
        ((1, 1), 512, (1, 1)),
        ((1, 700), 70, (70, 1)),
        ((32, 32), 512, (32, 32)),
        ((1088, 192), 512, (90, 512)),
        ((4096, 2048), 512, (256, 512)),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_tiny_pictures_and_panoramas(tmp_path, size, most, shape, suffix):
    Image.new("RGB", size, (0, 0, 0)).save(tmp_path / f"x.{suffix}")
    scene = ImageFolder(tmp_path, size=most).scene(0)
    assert scene.image.shape == (*shape, 3)
    assert (scene.image == 0).all()
    trimmed = ImageFolder(tmp_path, size=most, trim_frame=True).scene(0)
    assert trimmed.image.shape == scene.image.shape


@pytest.mark.parametrize(
    ("colour_type", "bands"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"]
)
def test_16_bit_png_of_every_kind(tmp_path, colour_type, bands):
    stored = np.random.default_rng(1).integers(0, 65536, (5, 4, bands)).astype(">u2")
    if bands in (2, 4):
        stored[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    (tmp_path / "x.png").write_bytes(png(4, 5, 16, colour_type, rows))
    colours = stored[..., : 3 if bands > 2 else 1].astype(float) / 65535 * 255
    image = np.array(open_picture(tmp_path / "x.png")[0]).astype(float)
    assert np.abs(image - np.broadcast_to(colours, (5, 4, 3))).max() <= 1


def test_broken_metadata_spoils_no_picture(tmp_path):
    path = tmp_path / "x.png"
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""):
        Image.fromarray(NOISE).save(path, exif=exif)
        picture, orientation = open_picture(path)
        assert orientation == 1
        np.testing.assert_array_equal(np.array(picture), NOISE)


@pytest.mark.parametrize("suffix", ["webp", "tiff"])
def test_a_fresh_process_knows_every_format(tmp_path, suffix):
    Image.fromarray(NOISE).save(tmp_path / f"x.{suffix}")
    program = (
        "import sys, pathlib; from spatial_ssrl.images.pictures import open_picture; "
        "print(open_picture(pathlib.Path(sys.argv[1]))[0].size)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / f"x.{suffix}")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "(64, 48)"


def listed():
    """Return name, stored mode, size and orientation of every picture the samples' index lists."""
    if not (SAMPLES / "INDEX.md").is_file():
        return []
    row = re.compile(
        r"^\| dev \| `((?:rgb|coco)/[^`]+)` \|.*?\| (?:JPEG|PNG|GIF|WEBP) (\w+) (\d+)x(\d+)"
        r"(?:, EXIF orient (\d))?",
        re.MULTILINE,
    )
    text = (SAMPLES / "INDEX.md").read_text(encoding="utf-8")
    return [
        pytest.param(name, mode, (int(width), int(height)), int(turn or 1), id=name)
        for name, mode, width, height, turn in row.findall(text)
    ]


def over_white(colours, alpha):
    share = alpha.astype(float)[..., None] / 255
    return colours.astype(float) * share + 255 * (1 - share)


@needs_samples
@pytest.mark.parametrize(("name", "mode", "size", "turn"), listed())
def test_every_sample_is_what_its_index_says(name, mode, size, turn):
    picture, orientation = open_picture(SAMPLES / name)
    assert orientation == turn
    assert picture.size == (size if turn < 5 else size[::-1])
    assert picture.mode == "RGB"
    with Image.open(SAMPLES / name) as file:
        raw = np.array(file)
        palette = np.array(file.getpalette() or []).reshape(-1, 3)
        assert file.mode == mode
    colours = {
        "RGB": lambda: raw,
        "L": lambda: np.repeat(raw[..., None], 3, axis=2),
        "LA": lambda: over_white(np.repeat(raw[..., :1], 3, axis=2), raw[..., 1]),
        "RGBA": lambda: over_white(raw[..., :3], raw[..., 3]),
        "CMYK": lambda: (255.0 - raw[..., :3]) * (255.0 - raw[..., 3:]) / 255,
        "P": lambda: palette[raw],
    }[mode]()
    turned = {1: colours, 3: colours[::-1, ::-1], 6: colours[::-1].swapaxes(0, 1)}[turn]
    assert np.abs(np.array(picture).astype(float) - turned).max() <= 1


@needs_samples
def test_index_of_the_samples_was_read():
    on_disk = {
        str(path.relative_to(SAMPLES))
        for folder in ("rgb", "coco/val2017")
        for path in (SAMPLES / folder).iterdir()
    }
    assert {case.id for case in listed()} >= on_disk
    assert len(on_disk) >= 29
