from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.questions import Question


def batch_of(lengths: list[int], **fields: object) -> PromptBatch:
    """Return left-padded prompts of these lengths."""
    width = max(lengths, default=0) + 2
    mask = torch.arange(width) >= width - torch.tensor(lengths, dtype=torch.long)[:, None]
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    question = Question("uid", "task", (image,), "<image>", "A", "choice")
    return PromptBatch(
        input_ids=torch.arange(len(lengths) * width).view(len(lengths), width),
        attention_mask=mask.view(len(lengths), width),
        vision={"pixel_values": torch.rand(len(lengths), 3, 2, 2)},
        questions=(question,) * len(lengths),
        **fields,  # type: ignore[arg-type]
    )


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=30)


@given(LENGTHS, st.data())
def test_alike_groups_part_the_rows(lengths: list[int], data: st.DataObject) -> None:
    batch = batch_of(lengths)
    rows = data.draw(st.none() | st.lists(st.sampled_from(range(len(lengths))), unique=True))
    size = data.draw(st.none() | st.integers(1, 5))
    groups = batch.alike(rows, size)
    wanted = range(len(lengths)) if rows is None else rows
    assert sorted(row for group in groups for row in group) == sorted(wanted)
    for group in groups:
        assert group
        assert group == sorted(group)
        assert size is None or len(group) <= size
        assert min(lengths[row] for row in group) >= 0.75 * max(lengths[row] for row in group)


@given(LENGTHS, st.none() | st.integers(1, 5))
def test_alike_groups_run_from_long_to_short_and_are_no_more_than_needed(
    lengths: list[int], size: int | None
) -> None:
    groups = batch_of(lengths).alike(size=size)
    for group, after in pairwise(groups):
        longest = max(lengths[row] for row in group)
        assert min(lengths[row] for row in group) >= max(lengths[row] for row in after)
        # The next group was opened because this one was full or its longest too long for it.
        full = size is not None and len(group) == size
        assert full or max(lengths[row] for row in after) < 0.75 * longest


def test_alike_by_hand() -> None:
    batch = batch_of([10, 40, 30, 29, 8, 7])
    assert batch.alike() == [[1, 2], [3], [0, 4], [5]]
    assert batch.alike(size=1) == [[1], [2], [3], [0], [4], [5]]
    assert batch.alike(rows=[5, 3, 4]) == [[3], [4, 5]]
    assert batch.alike(rows=[]) == []
    assert len(batch) == 6


def test_every_tensor_of_a_batch_moves() -> None:
    targets = torch.ones(2, 3, dtype=torch.long)
    batch = batch_of([3, 5], targets=targets, target_mask=targets.bool())
    moved = batch.to("meta")
    tensors = [moved.input_ids, moved.attention_mask, *moved.vision.values()]
    assert moved.targets is not None
    assert moved.target_mask is not None
    for tensor in (*tensors, moved.targets, moved.target_mask):
        assert tensor.device.type == "meta"
    assert moved.questions is batch.questions
    # The batch itself stays where it was, and a move to the same place loses nothing.
    assert batch.input_ids.device.type == "cpu"
    stayed = batch.to("cpu")
    assert torch.equal(stayed.input_ids, batch.input_ids)
    assert torch.equal(stayed.attention_mask, batch.attention_mask)
    assert torch.equal(stayed.vision["pixel_values"], batch.vision["pixel_values"])
    assert stayed.targets is not None
    assert torch.equal(stayed.targets, targets)


def test_absent_targets_stay_absent() -> None:
    moved = batch_of([3, 5]).to("meta", non_blocking=True)
    assert moved.targets is None
    assert moved.target_mask is None


@pytest.mark.parametrize("rows", [1, 6])
def test_rollouts_are_as_many_as_their_rows(rows: int) -> None:
    tokens = torch.zeros(rows, 4, dtype=torch.long)
    cut = torch.zeros(rows, dtype=torch.bool)
    assert len(Rollouts(tokens, tokens.bool(), None, ("",) * rows, cut, 1)) == rows
