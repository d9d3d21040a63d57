"""Divergence estimators against values of other libraries and of the exact divergence."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.algorithms import KLSettings
from spatial_ssrl.algorithms.kl import divergence
from support.golden import LOGPROBS, MASK, REFERENCE

ROWS = {
    "k1": (0.11571429, [0.4, -0.6, 0.35, 0.6, -0.05]),
    "abs": (0.44142857, [0.4, 0.6, 0.35, 0.6, 0.05]),
    "k2": (0.17469286, [0.08, 0.18, 0.06125, 0.18, 0.00125]),
    "k3": (0.20612800, [0.07032, 0.222119, 0.054688, 0.148812, 0.001271]),
}
K3_GRADIENT = [0.023549, -0.058723, 0.021094, 0.032228, -0.003662]
K2_GRADIENT = [0.028571, -0.042857, 0.025, 0.042857, -0.003571]


@pytest.mark.parametrize("estimator", ROWS)
def test_estimates_equal_those_of_verl(estimator: str) -> None:
    mean, row = ROWS[estimator]
    for straight_through in (False, True):
        how = KLSettings(estimator, straight_through=straight_through)  # type: ignore[arg-type]
        found = divergence(LOGPROBS, REFERENCE, MASK, how)
        assert found[0].tolist() == pytest.approx(row, abs=1e-6)
        assert found[MASK].mean().item() == pytest.approx(mean, abs=1e-8)
        assert not found[~MASK].any()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (KLSettings("k3"), K3_GRADIENT),
        (KLSettings("k3", straight_through=True), K2_GRADIENT),
        (KLSettings("k1", straight_through=True), K2_GRADIENT),
    ],
)
def test_gradients_equal_those_of_verl(how: KLSettings, expected: list[float]) -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    divergence(logprobs, REFERENCE, MASK, how)[MASK].mean().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_clamps_bound_value_and_gradient() -> None:
    logprobs = torch.tensor([[-30.0, -3.5, -1.0]], requires_grad=True)
    reference, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    how = KLSettings(clamp_input=20.0, clamp_output=10.0)
    found = divergence(logprobs, reference, mask, how)
    k3 = [torch.exp(torch.tensor(d)).item() - d - 1 for d in (3.5, 1.0)]
    assert found[0].tolist() == pytest.approx([10.0, 10.0, k3[1]])
    assert k3[0] > 10
    found.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0, :2].tolist() == [0, 0]
    assert logprobs.grad[0, 2] != 0
    only_input = divergence(logprobs, reference, mask, KLSettings("k1", clamp_input=3.0))
    assert only_input[0].tolist() == [-3.0, -3.0, -1.0]


def test_k1_and_k3_estimate_the_exact_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 12, generator=generator, dtype=torch.float64).log_softmax(1)
    exact = (policy.exp() * (policy - reference)).sum().item()
    mask = torch.ones(1, 12, dtype=torch.bool)
    for estimator in ("k1", "k3"):
        how = KLSettings(estimator)  # type: ignore[arg-type]
        values = divergence(policy[None], reference[None], mask, how)
        assert (policy.exp() * values).sum().item() == pytest.approx(exact)
