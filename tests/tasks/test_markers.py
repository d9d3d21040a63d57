import numpy as np
import pytest

from spatial_ssrl.tasks import markers

BACKGROUNDS = [0, 127, 255]


def drawn(number, radius, background, side=None, place=None):
    side = side or 4 * radius + 1
    image = np.full((side, side, 3), background, np.uint8)
    markers.draw_marker(image, number, *(place or (side // 2, side // 2)), radius)
    return image


@pytest.mark.parametrize(("size", "radius"), [((64, 64), 6), ((480, 640), 14), ((4320, 7680), 130)])
def test_radius_follows_the_shorter_side(size, radius):
    assert markers.marker_radius(*size) == radius


@pytest.mark.parametrize("radius", [6, 14, 130])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_marker_stands_out_and_stays_inside_its_radius(radius, background):
    image = drawn(1, radius, background)
    changed = np.argwhere((image != background).any(axis=-1)) - len(image) // 2
    assert np.abs(changed).max() <= radius
    assert len(changed) > 0.6 * np.pi * radius**2
    contrast = np.abs(image.astype(int) - background).max(axis=-1)
    assert contrast.max() > 100


@pytest.mark.parametrize("radius", [6, 14])
def test_digits_are_told_apart_by_shape_alone(radius):
    white = [(drawn(n, radius, 0) > 160).all(axis=-1) for n in range(1, 7)]
    for first in range(6):
        for second in range(first):
            assert (white[first] ^ white[second]).sum() >= 0.03 * (2 * radius) ** 2


def test_marker_is_centred():
    changed = np.argwhere((drawn(8, 20, 255) != 255).any(axis=-1))
    assert changed.min(axis=0) + changed.max(axis=0) == pytest.approx([80, 80], abs=1)


@pytest.mark.parametrize("place", [(0, 0), (0, 29), (29, 0), (29, 29), (-3, 31)])
def test_marker_over_the_edge_is_cut_not_moved(place):
    whole = drawn(5, 6, 50, side=60, place=(place[0] + 15, place[1] + 15))
    assert np.array_equal(drawn(5, 6, 50, side=30, place=place), whole[15:45, 15:45])


def test_opaque_parts_hide_the_picture_completely():
    light, dark = drawn(2, 30, 255), drawn(2, 30, 0)
    middle = slice(45, 76)
    assert np.array_equal(light[middle, middle], dark[middle, middle])


def test_label_has_a_white_digit_with_a_black_outline():
    image = np.full((40, 40, 3), 128, np.uint8)
    markers.draw_label(image, 3, 5, 7, 20)
    assert (image == 255).all(axis=-1).any()
    assert (image == 0).all(axis=-1).any()
    changed = np.argwhere((image != 128).any(axis=-1))
    assert changed.min(axis=0) == pytest.approx([5, 7], abs=1)
    assert changed.max(axis=0) == pytest.approx([23, 20], abs=3)
