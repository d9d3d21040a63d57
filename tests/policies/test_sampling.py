"""Limits on tokens against those of transformers, which are written independently."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.sampling import SamplingSettings, adjusted_logits

SETTINGS = [
    SamplingSettings(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    for temperature, top_p, top_k, min_p in product(
        (1.0, 0.6, 1.7), (1.0, 0.9, 0.3, 1e-6), (0, 1, 7, 200), (0.0, 0.05, 0.6)
    )
]


def theirs(logits: Tensor, sampling: SamplingSettings) -> Tensor:
    """Return logits as `generate` would adjust them, in the order in which it does."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    return warpers(torch.zeros(len(logits), 1, dtype=torch.long), logits)


def random_logits(spread: float) -> Tensor:
    """Return 40 rows of 60 logits, some of them -inf: never the same ones twice in a row."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(40, 60, generator=generator)
    barred = torch.rand(40, 60, generator=generator) < 0.1
    return logits.masked_fill(barred, float("-inf"))


@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_limits_are_those_of_transformers(spread: float) -> None:
    logits = random_logits(spread)
    for sampling in SETTINGS:
        found, wanted = adjusted_logits(logits, sampling), theirs(logits, sampling)
        assert torch.equal(found.isneginf(), wanted.isneginf()), sampling
        torch.testing.assert_close(found, wanted)


def test_limits_keep_the_most_likely_token_and_leave_no_row_empty() -> None:
    logits = random_logits(3.0)
    for sampling in SETTINGS:
        kept = adjusted_logits(logits, sampling)
        assert torch.equal(kept.argmax(-1), logits.argmax(-1))
        assert torch.isfinite(kept.softmax(-1)).all()


def test_one_row_of_what_is_said_stays_possible_where_it_was_sayable() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, float("-inf")]] * 4)
    spared = torch.tensor([0, 1, 2, 3])
    kept = adjusted_logits(logits, SamplingSettings(top_k=1), spared)
    wanted = [[True, False, False, False], [True, True, False, False], [True, False, True, False]]
    assert torch.isfinite(kept).tolist() == [*wanted, [True, False, False, False]]


def test_limits_pass_gradients_to_kept_logits_only() -> None:
    logits = random_logits(1.0)[:3].nan_to_num(neginf=-20.0).requires_grad_()
    sampling = SamplingSettings(temperature=0.5, top_k=5, top_p=0.9, min_p=0.01)
    adjusted = adjusted_logits(logits, sampling)
    adjusted.logsumexp(-1).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, adjusted.detach().softmax(-1) / 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "got 1.5"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"min_p": 1.0}, r"min_p must be in \[0, 1\), got 1.0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"stop": ("a", "")}, "empty text"),
        ({"max_new_tokens": 0}, "at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SamplingSettings(**settings)  # type: ignore[arg-type]
