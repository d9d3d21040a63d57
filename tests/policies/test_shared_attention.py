"""Who sees whom when completions share a prompt, against slow loops."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.policies.packing import distinct_completions, packed_rows
from spatial_ssrl.policies.shared_attention import shared_layout
from support.oracles import rollouts_of

LENGTH = 6
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
MUTUAL = torch.tensor([[-1, -1, 0, 0, -1, -1], [0, 0, 0, -1, 1, 1]])
LENGTHS = (5, 8, 3, 4)  # of two completions each


def rows() -> object:
    tokens = torch.arange(4 * 8).view(4, 8)
    mask = torch.arange(8) < torch.tensor(LENGTHS)[:, None]
    return packed_rows(distinct_completions(rollouts_of(tokens, mask, 2)))


@pytest.mark.parametrize("mutual", [None, MUTUAL], ids=["causal", "mutual"])
@pytest.mark.parametrize("window", [None, 3, 5])
def test_what_each_token_sees(window: int | None, mutual: torch.Tensor | None) -> None:
    packed = rows()
    masks = shared_layout(MASK, packed, mutual, torch.float32).masks(window)

    def near(query: int, key: int) -> bool:
        return window is None or key > query - window

    for row in range(2):
        for query in range(LENGTH):
            for key in range(LENGTH):
                group = -1 if mutual is None else int(mutual[row, query])
                alike = group >= 0 and group == int(mutual[row, key])
                sees = bool(MASK[row, key]) and (key <= query or alike) and near(query, key)
                seen = masks.prompts[row, 0, query, key] == 0
                assert bool(seen) == (sees or query == key)
    count, width = packed.shape
    for row in range(count):
        for query in range(width):
            place = LENGTH + int(packed.offset[row, query])
            if packed.owner[row, query] < 0:
                continue
            for key in range(LENGTH):
                sees = bool(MASK[packed.question[row], key]) and near(place, key)
                assert bool(masks.rows[row, 0, query, key] == 0) == sees
            for key in range(width):
                same = packed.owner[row, query] == packed.owner[row, key] and key <= query
                sees = bool(same) and near(place, LENGTH + int(packed.offset[row, key]))
                assert bool(masks.rows[row, 0, query, LENGTH + key] == 0) == sees


def test_windows_longer_than_everything_need_no_masks_of_their_own() -> None:
    layout = shared_layout(torch.ones(2, LENGTH, dtype=torch.bool), rows(), None, torch.float32)
    longest = LENGTH + max(LENGTHS) - 1  # The last token of a completion is not read.
    assert layout.masks(longest) is layout.masks(None)
    assert layout.masks(None).prompts is None
    assert layout.masks(longest - 1).prompts is not None
