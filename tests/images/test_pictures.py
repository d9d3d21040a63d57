import io

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.pictures import (
    apply_crop,
    check_fit,
    crop_for,
    open_picture,
    undo_orientation,
)

UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
# What a camera stores so that a viewer that follows the tag shows UPRIGHT.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.array([[80, 200], [40, 160], [0, 120]], np.uint8),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.array([[120, 0], [160, 40], [200, 80]], np.uint8),
}


def saved(tmp_path, picture, name="x.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


def first_pixel(path):
    picture, _ = open_picture(path)
    values = np.array(picture)
    assert values.dtype == np.uint8
    assert values.ndim == 3
    return tuple(int(value) for value in values[0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_orientation_is_undone(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(STORED[orientation]), f"x.{suffix}", exif=exif)
    picture, found = open_picture(path)
    assert found == orientation
    np.testing.assert_array_equal(np.array(picture)[..., 0], UPRIGHT)
    turned = undo_orientation(STORED[orientation].astype(np.float32), orientation)
    np.testing.assert_array_equal(turned, UPRIGHT)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 100, "png", (100, 100, 100)),
        ("LA", (100, 255), "png", (100, 100, 100)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("LA", (0, 51), "png", (204, 204, 204)),
        ("RGB", (1, 2, 3), "png", (1, 2, 3)),
        ("RGB", (1, 2, 3), "bmp", (1, 2, 3)),
        ("RGB", (1, 2, 3), "tiff", (1, 2, 3)),
        ("RGBA", (10, 20, 30, 255), "png", (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), "png", (255, 255, 255)),
        ("RGBA", (0, 0, 255, 51), "webp", (204, 204, 255)),
        ("CMYK", (0, 255, 255, 0), "tiff", (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), "tiff", (0, 0, 0)),
        ("I;16", 32896, "png", (128, 128, 128)),
        ("I;16", 65535, "tiff", (255, 255, 255)),
        ("I", 32896, "tiff", (128, 128, 128)),
        ("F", 0.5, "tiff", (128, 128, 128)),
        ("F", 100.0, "tiff", (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, suffix, expected):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path, Image.new(mode, (4, 3), colour), f"x.{suffix}", **options)
    assert first_pixel(path) == pytest.approx(expected, abs=1)


def test_integers_above_16_bit_are_scaled_by_their_maximum(tmp_path):
    values = np.array([[1_000_000, 500_000]], np.int32)
    picture, _ = open_picture(saved(tmp_path, Image.fromarray(values), "x.tiff"))
    assert np.array(picture)[0, :, 0].tolist() == [255, 128]


def test_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.putpixel((1, 0), 1)
    plain = saved(tmp_path, picture, "plain.png")
    assert np.array(open_picture(plain)[0])[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    clear = saved(tmp_path, picture, "clear.png", transparency=0)
    assert np.array(open_picture(clear)[0])[0].tolist() == [[255, 255, 255], [0, 255, 0]]


def test_colour_key_of_an_rgb_png_is_transparent(tmp_path):
    picture = Image.new("RGB", (2, 1), (9, 9, 9))
    path = saved(tmp_path, picture, transparency=(9, 9, 9))
    assert first_pixel(path) == (255, 255, 255)


def test_first_frame_of_a_gif(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    path = saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert first_pixel(path) == (255, 0, 0)


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "x.jpg")
    assert first_pixel(path) == pytest.approx((255, 255, 255), abs=2)


def test_broken_file_is_named_with_its_cause(tmp_path):
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(data.getvalue()[:600])
    with pytest.raises(SceneUnreadable, match=r"cut\.jpg cannot be read as a picture: .*truncated"):
        open_picture(path)


def test_crop_by_hand():
    crop = crop_for(300, 200, 50, square=True)
    assert (crop.left, crop.top, crop.width, crop.height) == (50, 0, 200, 200)
    assert (crop.columns, crop.rows) == (50, 50)
    crop = crop_for(300, 200, 150, square=False)
    assert (crop.columns, crop.rows) == (150, 100)
    crop = crop_for(30, 20, 150, square=False)
    assert (crop.columns, crop.rows) == (30, 20)
    assert crop_for(1000, 1, 10, square=False).rows == 1


def test_square_cuts_out_the_middle():
    values = np.zeros((20, 40, 3), np.uint8)
    values[:, 10:30] = 200
    picture = Image.fromarray(values)
    result = apply_crop(picture, crop_for(40, 20, 20, square=True))
    assert result.shape == (20, 20, 3)
    assert (result == 200).all()
    assert apply_crop(picture, crop_for(40, 20, 64, square=True)).shape == (64, 64, 3)


def test_scaling_averages_instead_of_skipping():
    values = np.zeros((64, 64, 3), np.uint8)
    values[:, ::2] = 255
    result = apply_crop(Image.fromarray(values), crop_for(64, 64, 16, square=False))
    assert abs(int(result[8, 8, 0]) - 128) < 12


@pytest.mark.parametrize(
    ("size", "square", "text"),
    [(0, False, "size must be at least 1 pixel"), (None, True, "square=true needs a size")],
)
def test_sizes_that_cannot_work(size, square, text):
    with pytest.raises(ConfigError, match=text):
        check_fit(size, square)
