"""From losses of tokens to one number, against a loop, whole and in parts."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.algorithms import AggregationSettings
from spatial_ssrl.algorithms.aggregation import aggregate, normaliser

LENGTHS = torch.tensor([3, 0, 1, 4])
MASK = torch.arange(4) < LENGTHS[:, None]
VALUES = torch.where(
    MASK, torch.arange(16, dtype=torch.float64).view(4, 4) ** 1.5, torch.tensor(torch.nan)
)
ROWS = [[float(v) for v in row[:n]] for row, n in zip(VALUES, LENGTHS, strict=True)]
SUMS = [sum(row) for row in ROWS]
MEANS = [sum(row) / max(len(row), 1) for row in ROWS]
CASES = [
    (AggregationSettings("token_mean"), sum(SUMS) / 8),
    (AggregationSettings("token_sum"), sum(SUMS)),
    (AggregationSettings("sequence_mean"), sum(MEANS) / 4),
    (AggregationSettings("sequence_mean", count="non_empty"), sum(MEANS) / 3),
    (AggregationSettings("sequence_sum"), sum(SUMS) / 4),
    (AggregationSettings("sequence_sum", count="non_empty"), sum(SUMS) / 3),
    (AggregationSettings("fixed_length", length=10), sum(SUMS) / 40),
    (AggregationSettings("fixed_length"), sum(SUMS) / 16),
]


@pytest.mark.parametrize(("how", "expected"), CASES)
def test_whole_and_in_parts(how: AggregationSettings, expected: float) -> None:
    total = normaliser(LENGTHS, how)
    assert aggregate(VALUES, MASK, total, how).item() == pytest.approx(expected)
    parts = [aggregate(VALUES[rows], MASK[rows], total, how) for rows in ([0], [1, 2], [3])]
    assert sum(part.item() for part in parts) == pytest.approx(expected)


def test_the_scope_of_a_micro_batch_averages_its_own_mean() -> None:
    how = AggregationSettings("token_mean", scope="micro_batch")
    total = normaliser(LENGTHS, how)
    halves = [aggregate(VALUES[rows], MASK[rows], total, how) for rows in ([0, 1], [2, 3])]
    expected = (sum(SUMS[:2]) / 3 + sum(SUMS[2:]) / 5) / 2
    assert sum(half.item() for half in halves) == pytest.approx(expected)
    assert expected != pytest.approx(sum(SUMS) / 8)


def test_nothing_at_all_is_no_division_by_zero() -> None:
    empty = torch.zeros(2, dtype=torch.int64)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    for how, _ in CASES:
        assert aggregate(VALUES[:2], mask, normaliser(empty, how), how).item() == 0
