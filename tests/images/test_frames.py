import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.images import ImageFolder
from spatial_ssrl.images.frames import Frame, find_frame, without_frame
from spatial_ssrl.images.pictures import fit_picture, open_picture

SAMPLES = Path(os.environ.get("SPATIAL_SSRL_SAMPLES", ""))
needs_samples = pytest.mark.skipif(
    "SPATIAL_SSRL_SAMPLES" not in os.environ, reason="SPATIAL_SSRL_SAMPLES is not set"
)
NYU = {
    "nyuv2_png/metric3d_demo/rgb_00000.jpg",
    "nyuv2_png/metric3d_demo/rgb_00100.jpg",
    "nyuv2_png/unidepth_demo/rgb.png",
    "nyuv2_pgm_mm/slambook2_ch5/color/1.png",
}


def photo(height=200, width=300, seed=0, low=0, high=256):
    """Return blotches of random colour, which reach every edge."""
    rng = np.random.default_rng(seed)
    small = rng.integers(low, high, (height // 10, width // 10, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def framed(inside, frame, colour):
    widths = ((frame.top, frame.bottom), (frame.left, frame.right), (0, 0))
    return np.pad(inside, widths, constant_values=colour)


def through_jpeg(tmp_path, picture, quality):
    Image.fromarray(picture).save(tmp_path / "x.jpg", quality=quality)
    return np.array(Image.open(tmp_path / "x.jpg"))


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize(
    "frame",
    [
        Frame(7, 6, 8, 5),  # A rim like that of NYU frames.
        Frame(0, 1, 0, 0),
        Frame(5, 0, 0, 0),
        Frame(0, 30, 0, 30),  # Cinema in a 16:9 film.
        Frame(0, 60, 0, 60),  # Cinema in a 4:3 film.
        Frame(190, 0, 190, 0),  # An upright film in a lying one.
        Frame(40, 30, 40, 30),  # Bars on all sides.
    ],
)
def test_frames_are_found_to_the_pixel(frame, colour):
    inside = photo()
    picture = framed(inside, frame, colour)
    assert find_frame(picture) == frame
    np.testing.assert_array_equal(without_frame(picture), inside)


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("colour", [0, 255])
def test_noise_of_jpeg_hides_no_frame(tmp_path, colour, quality):
    for seed in range(5):
        picture = framed(photo(seed=seed, low=60, high=200), Frame(7, 6, 8, 5), colour)
        found = find_frame(through_jpeg(tmp_path, picture, quality))
        widths = np.array([found.left, found.top, found.right, found.bottom]) - [7, 6, 8, 5]
        assert ((widths >= 0) & (widths <= 1)).all()


def test_bent_edge_is_cut_off_whole():
    picture = framed(photo(480, 640), Frame(0, 6, 0, 0), 255)
    columns = np.arange(640)
    bend = np.rint(3 * (2 * columns / 639 - 1) ** 2).astype(int)  # As undistortion bends it.
    picture[np.arange(486)[:, None] < 6 + bend] = 255
    found = find_frame(picture)
    assert found.left == found.right == found.bottom == 0
    assert 7 <= found.top <= 9


def sky_that_brightens_slowly():
    ramp = np.clip(np.arange(300) - 40, 0, 255)[:, None, None]
    return np.broadcast_to(ramp, (300, 400, 3)).astype(np.uint8)


def skyline_at_night():
    picture = np.full((300, 400, 3), 4, np.uint8)
    tops = np.random.default_rng(0).integers(60, 200, 40).repeat(10)
    picture[np.arange(300)[:, None] > tops] = (180, 160, 90)
    return picture


def lit_window_in_the_dark():
    picture = np.random.default_rng(0).integers(0, 8, (300, 400, 3)).astype(np.uint8)
    picture[100:160, 150:220] = (250, 240, 180)
    return picture


def round_product_before_white():
    rows, columns = np.mgrid[:300, :400]
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[((rows - 150) / 130) ** 2 + ((columns - 200) / 180) ** 2 < 1] = (30, 90, 160)
    return picture


def slim_product_before_white():
    picture = np.full((300, 400, 3), 255, np.uint8)
    picture[30:270, 170:230] = (30, 90, 160)
    return picture


def page_of_text():
    picture = np.full((300, 400, 3), 255, np.uint8)
    rng = np.random.default_rng(0)
    for top in range(30, 270, 12):
        picture[top : top + 6, 40:360] = np.where(rng.random((6, 320, 1)) < 0.3, 20, 255)
    return picture


def sea_under_a_black_sky():
    return framed(photo(200, 400), Frame(top=100), 0)


def dark_room_in_a_black_frame():
    return framed(photo(low=0, high=12), Frame(6, 6, 6, 6), 0)


@pytest.mark.parametrize(
    "draw",
    [
        photo,
        sky_that_brightens_slowly,
        skyline_at_night,
        lit_window_in_the_dark,
        round_product_before_white,
        slim_product_before_white,
        page_of_text,
        sea_under_a_black_sky,
        dark_room_in_a_black_frame,
    ],
)
def test_photos_without_a_certain_frame_stay_whole(draw):
    picture = draw()
    for turned in (picture, picture[::-1], picture.swapaxes(0, 1), picture[:, ::-1]):
        assert find_frame(turned) == Frame()
        assert without_frame(turned).shape == turned.shape


@pytest.mark.parametrize("colour", [0, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 2), (2, 90), (32, 32), (300, 400)])
def test_uniform_and_tiny_pictures_have_no_frame(shape, colour):
    assert find_frame(np.full((*shape, 3), colour, np.uint8)) == Frame()


def test_every_size_of_noise_is_searched_without_error():
    rng = np.random.default_rng(0)
    for height in range(1, 12):
        for width in range(1, 12):
            picture = rng.choice(np.array([0, 255], np.uint8), (height, width, 1)).repeat(3, 2)
            rest = without_frame(picture)
            assert rest.size > 0


def test_frame_is_cut_off_before_size_and_square():
    picture = Image.fromarray(framed(np.full((200, 300, 3), 99, np.uint8), Frame(7, 6, 8, 5), 255))
    trimmed = fit_picture(picture, 64, square=True, trim_frame=True)
    assert trimmed.shape == (64, 64, 3)
    assert (trimmed == 99).all()
    assert fit_picture(picture, 150, square=False, trim_frame=True).shape == (100, 150, 3)
    assert (fit_picture(picture, None, square=False, trim_frame=False)[0] == 255).all()


def test_folder_cuts_frames_off_where_asked(tmp_path):
    Image.fromarray(framed(photo(), Frame(7, 6, 8, 5), 0)).save(tmp_path / "a.png")
    assert ImageFolder(tmp_path).scene(0).image.shape == (211, 315, 3)
    image = ImageFolder(tmp_path, trim_frame=True).scene(0).image
    np.testing.assert_array_equal(image, photo())


def test_frame_of_a_jpeg_leaves_no_trace_when_scaled(tmp_path):
    inside = np.full((960, 1280, 3), 100, np.uint8)
    Image.fromarray(framed(inside, Frame(12, 12, 12, 12), 255)).save(tmp_path / "a.jpg", quality=95)
    image = ImageFolder(tmp_path, size=64, trim_frame=True).scene(0).image.astype(int)
    assert np.abs(image - 100).max() < 10


@needs_samples
@pytest.mark.parametrize("name", sorted(NYU))
def test_rims_of_nyu_frames_are_cut_off(name):
    picture = np.array(open_picture(SAMPLES / "rgbd" / name)[0])
    frame = find_frame(picture)
    assert all(5 <= width <= 8 for width in (frame.left, frame.top, frame.right, frame.bottom))
    colour = picture[0, 0].astype(int)
    rest = without_frame(picture).astype(int)
    for line in (rest[0], rest[-1], rest[:, 0], rest[:, -1]):
        assert (np.abs(line - colour).max(axis=1) < 25).mean() < 0.5


@needs_samples
def test_no_other_sample_is_touched():
    # Its first columns are indeed black: 0 or 1 in every row of the first three.
    framed_too = {"spatialssrl_RGB_img_rgba.png": Frame(left=4)}
    paths = [
        path
        for folder in ("rgb", "coco", "rgbd")
        for path in sorted((SAMPLES / folder).rglob("*"))
        if path.suffix.lower() in (".jpg", ".png", ".gif", ".webp", ".ppm")
        and not any("depth" in part.replace("unidepth", "") for part in path.parts)
        and not {"nyuv2_png", "nyuv2_pgm_mm", "fullres"} & set(path.parts)
    ]
    assert len(paths) > 40
    for path in paths:
        picture = np.array(open_picture(path)[0])
        assert find_frame(picture) == framed_too.get(path.name, Frame()), path.name


@needs_samples
def test_bars_of_a_warped_kinect_picture_are_cut_off():
    (path,) = (SAMPLES / "rgbd" / "sunrgbd").rglob("fullres/*.jpg")
    picture = np.array(open_picture(path)[0])
    frame = find_frame(picture)
    # Seen in an enlargement: white bars of about 108 and 103 rows, and a slanted one of 10 to 20.
    assert abs(frame.top - 108) <= 4
    assert abs(frame.bottom - 103) <= 4
    assert 10 <= frame.right <= 21
    assert frame.left == 0
