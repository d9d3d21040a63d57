from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from spatial_ssrl.training.agreement import Distance, Tolerance, distances, tolerance


def test_distances_are_taken_question_by_question_and_leave_padding_out() -> None:
    found = torch.tensor([[-1.0, -2.0, 9.0], [-1.0, -1.5, -3.0], [0.0, 5.0, 5.0], [-4.0, 7.0, 7.0]])
    wanted = torch.tensor(
        [[-1.0, -2.5, 0.0], [-1.0, -1.5, -3.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]).bool()
    first, second = distances(found, wanted, mask, 2)
    assert first == Distance(0.5, pytest.approx(0.1), row=0, token=1)
    assert second == Distance(2.0, 1.0, row=3, token=0)


@pytest.mark.parametrize("odd", [math.nan, -math.inf])
def test_what_is_not_finite_is_infinitely_far(odd: float) -> None:
    values = torch.tensor([[0.0, odd]])
    (apart,) = distances(values, torch.zeros(1, 2), torch.ones(1, 2).bool(), 1)
    assert apart.largest == math.inf
    assert not Tolerance(1e9, 1e9, "float32").allows(apart)


@pytest.mark.parametrize(
    ("dtype", "spread", "largest", "mean"),
    [
        (torch.float32, 0.0, 1e-4, 1e-4),
        (torch.float32, 5e-5, 2e-4, 2e-4),  # four times what batches of other size change
        (torch.float32, 1.0, 8e-4, 8e-4),  # never more than eight times the floor
        (torch.float16, 0.0, 64 * 2**-10, 8 * 2**-10),
        (torch.bfloat16, 0.0, 0.5, 0.0625),
        (torch.bfloat16, 0.05, 0.5, 0.2),
    ],
)
def test_tolerance_follows_precision_and_spread(
    dtype: torch.dtype, spread: float, largest: float, mean: float
) -> None:
    policy = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(dtype))
    found = tolerance(policy, torch.device("cpu"), [Distance(spread, spread), Distance(0, 0)])
    assert (found.largest, found.mean) == pytest.approx((largest, mean))
    assert found.precision == str(dtype).removeprefix("torch.")


def test_autocast_and_the_products_of_quantised_layers_count() -> None:
    policy, cpu = nn.Linear(2, 2), torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert tolerance(policy, cpu, [Distance(0, 0)]).precision == "bfloat16"
    policy.compute_dtype = torch.float16  # type: ignore[assignment]
    assert tolerance(policy, cpu, [Distance(0, 0)]).precision == "float16"
