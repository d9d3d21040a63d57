"""Packed rows against what must hold of them, for random completions of any length."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.policies import packing
from spatial_ssrl.policies.packing import distinct_completions, packed_rows, packed_tokens
from support.oracles import rollouts_of


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_row", [1, 2, 8])
def test_every_distinct_completion_is_laid_out_once(
    seed: int, per_row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_PER_ROW", per_row)
    generator = torch.Generator().manual_seed(seed)
    group, longest = 6, 5
    # Few tokens, so that completions repeat; some are empty or of one token.
    tokens = torch.randint(1, 3, (4 * group, longest), generator=generator)
    mask = torch.arange(longest) < torch.randint(
        0, longest + 1, (4 * group, 1), generator=generator
    )
    mask[0] = True
    rollouts = rollouts_of(tokens, mask, group)
    completions = distinct_completions(rollouts)
    distinct = {(row // group, *tokens[row, mask[row]].tolist()) for row in range(len(tokens))}
    found = [
        (int(question), *row[kept].tolist())
        for question, row, kept in zip(
            completions.question, completions.tokens, completions.mask, strict=True
        )
    ]
    assert len(found) == len(distinct)
    assert set(found) == distinct
    for row in range(len(tokens)):
        wanted = (row // group, *tokens[row, mask[row]].tolist())
        assert found[int(completions.inverse[row])] == wanted

    rows = packed_rows(completions)
    assert rows.shape[1] <= (longest - 1) * per_row
    flat_owner, flat_offset = rows.owner.flatten(), rows.offset.flatten()
    for index, (question, *kept) in enumerate(found):
        place = (flat_owner == index).nonzero().flatten()
        assert flat_offset[place].tolist() == list(range(len(kept) - 1))
        if len(kept) > 1:
            assert place.tolist() == list(range(int(rows.start[index]), int(place[-1]) + 1))
            row = int(place[0]) // rows.shape[1]
            assert row == int(place[-1]) // rows.shape[1]
            assert rows.question[row] == question


def test_first_fit_fills_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_PER_ROW", 1)
    tokens = torch.arange(1, 25).view(4, 6)
    mask = torch.arange(6) < torch.tensor([[6], [3], [4], [2]])  # 5, 2, 3 and 1 tokens are read
    # Distinct completions are ordered by length.
    rows = packed_rows(distinct_completions(rollouts_of(tokens, mask, 4)))
    assert rows.owner.tolist() == [[3, 3, 3, 3, 3], [2, 2, 2, 1, 1], [0, -1, -1, -1, -1]]


def test_nothing_to_read() -> None:
    tokens, mask = torch.ones(3, 1, dtype=torch.int64), torch.tensor([[True], [False], [True]])
    rows = packed_rows(distinct_completions(rollouts_of(tokens, mask, 1)))
    assert rows.shape == (0, 0)


def test_a_third_of_a_repeated_forward_or_less() -> None:
    # One group: a prompt of 1,500 tokens and eight completions of 300.
    assert 3 * packed_tokens([1500], [[300] * 8]) <= 8 * (1500 + 300)
    # Four groups of completions of mixed length: what is padded stays small.
    groups = [[300, 40, 120, 80, 260, 150, 90, 210]] * 4
    assert 3 * packed_tokens([1500] * 4, groups) <= 4 * (8 * 1500 + sum(groups[0]))


def test_tokens_are_counted_as_they_are_laid_out() -> None:
    tokens = torch.arange(1, 49).view(8, 6)
    lengths = torch.tensor([[6], [3], [4], [2], [1], [5], [6], [6]])
    completions = distinct_completions(rollouts_of(tokens, torch.arange(6) < lengths, 4))
    rows, width = packed_rows(completions).shape
    assert packed_tokens([7, 9], [[6, 3, 4, 2], [1, 5, 6, 6]]) == 2 * 9 + rows * width
