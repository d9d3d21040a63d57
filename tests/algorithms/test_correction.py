"""Weights for samplers that compute otherwise than the policy."""

from __future__ import annotations

import math

import pytest
import torch

from spatial_ssrl.algorithms import (
    DAPO,
    GRPO,
    GSPO,
    RLOO,
    ClipSettings,
    CorrectionSettings,
    RatioSettings,
)
from spatial_ssrl.algorithms.correction import correction_weights, off_policy
from spatial_ssrl.core.batches import LossInputs
from support.golden import LENGTHS, LOGPROBS, MASK, OLD, SAMPLING

FREE = {"low": None, "high": None}


def test_ratios_equal_reference_values() -> None:
    token, outside = correction_weights(OLD, SAMPLING, MASK, CorrectionSettings("token", **FREE))
    assert token[0].tolist() == pytest.approx([0.951229, 1.105171, 1, 0.818731, 1], abs=1e-6)
    assert not outside.any()
    expected = {
        "sequence_product": [0.860708, 0.778801, 1.349859, 0.22313],
        "sequence_mean": [0.970446, 0.920044, 1.077884, 0.472367],
    }
    for level, values in expected.items():
        how = CorrectionSettings(level, **FREE)  # type: ignore[arg-type]
        found, _ = correction_weights(OLD, SAMPLING, MASK, how)
        assert found[:, 0].tolist() == pytest.approx(values, abs=1e-6)
        assert torch.equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize("outside", ["truncate", "mask"])
def test_bounds_against_a_loop(outside: str) -> None:
    how = CorrectionSettings("token", outside, 0.8, 1.2)  # type: ignore[arg-type]
    weights, changed = correction_weights(OLD, SAMPLING, MASK, how)
    for row, column in MASK.nonzero().tolist():
        ratio = math.exp(float(OLD[row, column] - SAMPLING[row, column]))
        inside = 0.8 <= ratio <= 1.2
        expected = min(max(ratio, 0.8), 1.2) if outside == "truncate" else ratio * inside
        assert weights[row, column].item() == pytest.approx(expected)
        assert bool(changed[row, column]) is not inside
    assert changed.any()
    assert not changed[~MASK].any()


def test_an_unknown_sampling_probability_counts_as_no_difference() -> None:
    sampling = SAMPLING.clone()
    sampling[0, 1] = torch.nan
    for level in ("token", "sequence_product", "sequence_mean"):
        how = CorrectionSettings(level, **FREE)  # type: ignore[arg-type]
        found, _ = correction_weights(OLD, sampling, MASK, how)
        same = SAMPLING.clone()
        same[0, 1] = OLD[0, 1]
        expected, _ = correction_weights(OLD, same, MASK, how)
        assert torch.equal(found, expected)


def test_a_completion_out_of_bounds_counts_its_own_tokens_only() -> None:
    how = CorrectionSettings("sequence_product", "mask", low=0.5)
    weights, changed = correction_weights(OLD, SAMPLING, MASK, how)
    assert changed.sum(dim=1).tolist() == [0, 0, 0, 2]
    assert not weights[3].any()
    assert weights[:3].all()


def test_statistics_and_needs() -> None:
    algorithm = GRPO(kl_coefficient=0.0, correction=CorrectionSettings("token", "mask", high=1.1))
    assert algorithm.needs_old_scores
    assert not GRPO().needs_old_scores
    # Bounds of GSPO are narrower than what a sampler in bfloat16 may be off by.
    assert GSPO().needs_old_scores
    assert not GSPO(clip=ClipSettings()).needs_old_scores
    assert DAPO(clip=ClipSettings(low=0.005, high=0.1)).needs_old_scores
    # A product of ratios adds up what each token is off by.
    assert RLOO().needs_old_scores
    assert not RLOO(ratio=RatioSettings()).needs_old_scores
    inputs = LossInputs(LOGPROBS, OLD, None, SAMPLING, torch.ones_like(OLD), MASK)
    stats = algorithm.loss(inputs, algorithm.normaliser(LENGTHS)).stats
    weights, changed = correction_weights(OLD, SAMPLING, MASK, algorithm.correction)
    assert stats["correction"].item() == pytest.approx(weights[MASK].sum().item())
    assert int(stats["corrected"]) == int(changed.sum()) > 0
    unknown = LossInputs(LOGPROBS, OLD, None, None, torch.ones_like(OLD), MASK)
    with pytest.raises(ValueError, match=r'set correction.level to "none"'):
        algorithm.loss(unknown, 4.0)


def test_bad_completions_far_from_the_sampler_are_left_out_against_a_loop() -> None:
    sampling = SAMPLING.clone()
    sampling[0, 1] = math.nan  # unknown, which counts as no difference
    advantages = torch.tensor([[-1.0], [-1.0], [1.0], [-0.5]], dtype=torch.float64).expand(4, 5)
    for limit in (0.01, 0.3, 0.5):
        found = off_policy(LOGPROBS, sampling, advantages, MASK, limit)
        for row in range(4):
            gaps = (sampling - LOGPROBS)[row, : LENGTHS[row]].tolist()
            mean = sum(0 if math.isnan(gap) else gap for gap in gaps) / len(gaps)
            assert found[row].tolist() == (MASK[row] & (mean > limit) & (row != 2)).tolist()
    far = off_policy(LOGPROBS, sampling, advantages, MASK, 0.3)
    assert far.any(), "a limit that leaves nothing out shows nothing"


@pytest.mark.parametrize("noted", [True, False])
def test_what_is_left_out_is_counted_and_has_no_gradient(noted: bool) -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=LOGPROBS + 1,
        ref_logprobs=None,
        sampling_logprobs=LOGPROBS + 1 if noted else None,
        advantages=torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64) * MASK,
        mask=MASK,
    )
    algorithm = GRPO(
        kl_coefficient=0.0,
        clip=ClipSettings(low=1.0),
        correction=CorrectionSettings(off_policy=0.9),
    )
    output = algorithm.loss(inputs, algorithm.normaliser(LENGTHS))
    output.loss.backward()
    assert output.stats["off_policy"] == LENGTHS[0] + LENGTHS[2]
    assert logprobs.grad is not None
    assert logprobs.grad.any(dim=1).tolist() == [False, True, False, True]
