"""Each question's share of a packed batch, against rows that say whose they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.image_packing import select

# Three questions with 1, 3 and 2 pictures.
IMAGES = (1, 3, 2)


def marked(*lengths: int) -> Tensor:
    """Packed rows, each holding the number of the question it belongs to."""
    return torch.cat([torch.full((n, 2), float(i)) for i, n in enumerate(lengths)])


@pytest.mark.parametrize(
    ("vision", "placeholders"),
    [
        ({"pixel_values": marked(1, 3, 2)}, (4, 12, 8)),  # one entry per picture
        ({"pixel_values": marked(1, 1, 1)}, (4, 12, 8)),  # one entry per question
        ({"token_type_ids": marked(1, 1, 1)}, (4, 12, 8)),
        # Tiles of each question in a row of their own, though there are as many as pictures.
        (
            {
                "pixel_values": marked(1, 1, 1).repeat(1, 3).view(3, 3, 2, 1),
                "pixel_attention_mask": torch.ones(3, 3, 2, 1),
            },
            (4, 12, 8),
        ),
        ({"pixel_values": marked(2, 6, 5)}, (8, 24, 20)),  # tiles, four tokens each
        (
            {
                "pixel_values": marked(4, 6 + 4 + 2, 2 + 8),
                "image_grid_thw": torch.tensor(
                    [[1, 2, 2], [1, 2, 3], [1, 2, 2], [1, 1, 2], [1, 2, 1], [2, 2, 2]]
                ),
            },
            (1, 3, 2),
        ),
    ],
)
def test_each_question_gets_its_own_share(
    vision: dict[str, Tensor], placeholders: tuple[int, ...]
) -> None:
    name = next(iter(vision))
    for rows in ([0], [1], [2], [2, 0], [1, 1]):
        share = select(vision, IMAGES, placeholders, rows)
        values = vision[name].flatten(1)[:, 0]
        expected = torch.cat([vision[name][values == row] for row in rows])
        assert torch.equal(share[name], expected)
        if "image_grid_thw" in share:
            assert int(share["image_grid_thw"].prod(-1).sum()) == len(share["pixel_values"])


def test_as_many_pictures_as_questions_are_not_taken_for_rows_of_tiles() -> None:
    tiles = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 4, 3, 2, 2)
    vision = {"pixel_values": tiles, "pixel_attention_mask": torch.ones(3, 4, 2, 2)}
    for row in range(3):
        share = select(vision, (0, 2, 1), (0, 8, 4), [row])
        assert torch.equal(share["pixel_values"], tiles[row : row + 1])


def test_tiles_that_pad_every_chosen_question_are_left_out() -> None:
    mask = torch.zeros(3, 5, 2, 2)
    for row, tiles in enumerate((2, 5, 3)):
        mask[row, :tiles, 0] = 1
    vision = {"pixel_values": mask.unsqueeze(2).expand(-1, -1, 3, -1, -1)}
    vision["pixel_attention_mask"] = mask
    share = select(vision, IMAGES, (4, 12, 8), [0, 2])
    assert torch.equal(share["pixel_attention_mask"], mask[[0, 2], :3])
    assert torch.equal(share["pixel_values"], vision["pixel_values"][[0, 2], :3])


def test_families_tell_what_their_outputs_do_not() -> None:
    # Three tiles of the second question: as many as there are questions, and as pictures.
    tiles = torch.arange(3.0).view(3, 1)
    images, placeholders = (0, 1, 2), (0, 4, 8)
    with pytest.raises(ConfigError, match="Cannot tell how the processor packs 'pixel_values'"):
        select({"pixel_values": tiles}, images, placeholders, [1])
    for packing, rows in (("tile", [1, 2]), ("row", [2]), ("image", [1, 2])):
        share = select(
            {"pixel_values": tiles}, images, placeholders, [2], {"pixel_values": packing}
        )
        assert share["pixel_values"].flatten().tolist() == rows
    share = select({"batch_num_images": torch.tensor([1, 2])}, images, placeholders, [2, 0, 1])
    assert share["batch_num_images"].tolist() == [2, 1]


def test_packing_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"packs 'odd' of shape \(7, 2\) for 3 questions with 6"):
        select({"odd": marked(2, 3, 2)}, IMAGES, (4, 12, 8), [0])
