import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.tasks import grid

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 3), (3, 1), (2, 3)])
def test_patches_lie_in_reading_order_and_join_back(rows, columns):
    image = noise(12 * rows, 9 * columns, 3)
    patches = grid.cut(image, rows, columns)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        expected = image[12 * row : 12 * row + 12, 9 * column : 9 * column + 9]
        assert np.array_equal(patches[index], expected)
    joined = grid.join(patches, rows, columns)
    assert np.array_equal(joined, image)
    assert not np.shares_memory(joined, image)


def test_crop_drops_only_what_fills_no_patch():
    image = noise(43, 50, 3)
    assert np.array_equal(grid.crop_to_grid(image, 2, 3), image[:42, :48])


def test_patches_under_sixteen_pixels_and_pictures_under_forty_are_refused():
    assert grid.crop_to_grid(noise(40, 48, 3), 2, 3).shape == (40, 48, 3)
    for shape in ((40, 47, 3), (39, 100, 3)):
        with pytest.raises(SceneRejected, match="too small"):
            grid.crop_to_grid(noise(*shape), 2, 3)


@pytest.mark.parametrize(
    ("rows", "columns", "names"),
    [
        (
            2,
            2,
            ["top-left corner", "top-right corner", "bottom-left corner", "bottom-right corner"],
        ),
        (1, 3, ["left part", "middle part", "right part"]),
        (4, 1, ["top part", "second part from the top", "third part from the top", "bottom part"]),
    ],
)
def test_places_have_names(rows, columns, names):
    count = rows * columns
    assert [grid.place_name(i, rows, columns) for i in range(count)] == [f"the {n}" for n in names]


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 5), (10, 10), (10, 1)])
def test_names_of_places_differ(rows, columns):
    count = rows * columns
    assert len({grid.place_name(index, rows, columns) for index in range(count)}) == count


@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (2, -1), (11, 2)])
def test_a_grid_needs_two_patches_and_at_most_ten_a_line(shape):
    with pytest.raises(ConfigError, match=f"rows={shape[0]}, columns={shape[1]}"):
        grid.check_grid(*shape)


def test_thumbnail_is_the_mean_of_each_block():
    patches = noise(3, 19, 26, 3)  # 8 x 8 blocks of 2 x 3 pixels, centred
    kept = patches[:, 1:17, 1:25]
    thumbnails = grid.thumbnails(patches)
    for row in range(8):
        for column in range(8):
            block = kept[:, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            expected = block.astype(float).mean(axis=(1, 2))
            assert thumbnails[:, row, column] == pytest.approx(expected, abs=1e-4)


def test_smallest_difference_is_that_of_the_closest_pair():
    pictures = np.float32([[[0.0, 0]], [[10, 20]], [[11, 17]]])
    assert grid.smallest_difference(pictures) == pytest.approx(2)  # (|1| + |3|) / 2


def test_border_is_thin_and_the_same_around_every_patch():
    image = np.zeros((800, 1000, 3), np.uint8)
    grid.draw_grid(image, 2, 2, labels=False)
    red = (image == grid.BORDER_COLOUR).all(axis=-1)
    patches = red.reshape(2, 400, 2, 500).swapaxes(1, 2).reshape(4, 400, 500)
    expected = np.ones((400, 500), bool)
    expected[4:-4, 4:-4] = False
    assert all(np.array_equal(patch, expected) for patch in patches)
    assert grid.border_width(np.zeros((64, 64, 3))) == 1


@pytest.mark.parametrize("side", [64, 96, 480, 2000])
def test_labels_are_small_and_tell_patches_apart(side):
    plain = np.full((side, side, 3), 90, np.uint8)
    labelled = plain.copy()
    grid.draw_grid(plain, 2, 2, labels=False)
    grid.draw_grid(labelled, 2, 2, labels=True)
    changed = grid.cut((plain != labelled).astype(np.uint8) * 255, 2, 2).any(axis=-1)
    assert all(0.005 < patch.mean() < 0.12 for patch in changed)
    drawn = grid.cut(labelled, 2, 2)
    assert all((patch > 190).all(axis=-1).any() for patch in drawn), "white inside"
    for first in range(4):
        for second in range(first):
            assert (drawn[first] != drawn[second]).any(axis=-1).sum() >= 8
