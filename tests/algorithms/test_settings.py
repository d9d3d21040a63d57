"""What cannot work is refused with its key, its value and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spatial_ssrl.algorithms import (
    CISPO,
    GMPO,
    GRPO,
    SAPO,
    VESPO,
    AdvantageSettings,
    AggregationSettings,
    Algorithm,
    ClipSettings,
    CorrectionSettings,
    DrGRPO,
    KLSettings,
    OverlongSettings,
    PassAtK,
    RatioSettings,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    ReMax,
    ReturnSettings,
)
from spatial_ssrl.algorithms.losses import clipped, levelled, log_ratio
from spatial_ssrl.core.errors import ConfigError
from support.golden import LENGTHS, LOGPROBS, MASK, OLD


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (ClipSettings, {"low": 1.5}, r"clip.low must be in \(0, 1\], got 1.5"),
        (ClipSettings, {"high": -0.1}, r"clip.high must be above 0, got -0.1"),
        (ClipSettings, {"high": 0.5, "dual": 1.4}, r"clip.dual must be at least .* 1.5, got 1.4"),
        (KLSettings, {"clamp_input": 0.0}, r"kl.clamp_input must be above 0, got 0.0"),
        (KLSettings, {"place": "reward", "straight_through": True}, r"leave out kl.straight"),
        (KLSettings, {"place": "reward", "ratio_weighted": True}, r"and kl.ratio_weighted"),
        (AdvantageSettings, {"eps": 0.0}, r"advantage.eps must be above 0, got 0.0"),
        (AdvantageSettings, {"parts": "normalise_each", "scale": "none"}, "fixes scale"),
        (ReturnSettings, {"gamma": 0.0}, r"returns.gamma must be in \(0, 1\], got 0.0"),
        (ReturnSettings, {"eps": 0.0}, r"returns.eps must be above 0"),
        (AggregationSettings, {"length": 5}, r"aggregation.length \(5\) .* goes with over"),
        (AggregationSettings, {"over": "fixed_length", "length": 0}, r"length \(0\) must be at"),
        (AggregationSettings, {"over": "token_sum", "scope": "micro_batch"}, r'use scope: "upd'),
        (CorrectionSettings, {"low": 3.0}, r"0 <= low < high, got 3.0 and 2.0"),
        (CorrectionSettings, {"judged": "token"}, r'goes with outside: "mask"'),
        (CorrectionSettings, {"off_policy": 0.0}, r"correction.off_policy must be above 0, got 0"),
        (AdvantageSettings, {"parts_over": "tokens"}, r'goes with parts: "normalise_each"'),
        (GMPO, {"log_bounds": (0.4, 0.0)}, r"log_bounds must be above 0, got \[0.4, 0.0\]"),
        (VESPO, {"negative": (3.0, 0.0)}, r"negative must be .* got \[3.0, 0.0\]"),
        (VESPO, {"correction": CorrectionSettings("sequence_mean")}, r'set it to "token"'),
        (OverlongSettings, {"limit": 10, "margin": 11}, r"from 1 to the limit of 10 .* got 11"),
        (OverlongSettings, {"weight": 0.0}, r"overlong.weight must be above 0, got 0.0"),
        (CISPO, {"bounds": (2.0, 1.0)}, r"bounds must satisfy .* got \[2.0, 1.0\]"),
        (SAPO, {"temperatures": (1.0, 0.0)}, r"temperatures must be above 0, got \[1.0, 0.0\]"),
        (ReMax, {"gamma": 1.5}, r"gamma must be in \(0, 1\], got 1.5"),
        (PassAtK, {"advantage": AdvantageSettings(scale="none")}, r"set only eps and bessel"),
    ],
)
def test_bad_settings_are_named(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


EACH = AdvantageSettings(parts="normalise_each")


@pytest.mark.parametrize(
    ("algorithm", "group_size", "weights", "message"),
    [
        (GRPO(), 1, {}, "set group_size to 2 or more"),
        (ReinforcePlusPlusBaseline(), 1, {}, "set group_size to 2 or more"),
        (PassAtK(), 1, {}, "set group_size to 2 or more"),
        (GRPO(advantage=EACH), 4, {}, "use one with part weights"),
        (
            GRPO(advantage=EACH, kl=KLSettings(place="reward")),
            4,
            {"accuracy": 1.0},
            'set kl.place to "loss"',
        ),
        (
            GRPO(advantage=EACH, overlong=OverlongSettings(limit=9)),
            4,
            {"accuracy": 1.0},
            "leave out overlong.limit",
        ),
    ],
)
def test_a_run_that_cannot_work_is_refused(
    algorithm: Algorithm, group_size: int, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm.check(group_size, weights)


def test_runs_that_can_work_are_accepted() -> None:
    ReinforcePlusPlus().check(1, {})
    ReMax().check(1, {})
    GRPO(advantage=EACH).check(2, {"accuracy": 1.0})
    DrGRPO().check(2, {})


def test_levels_against_a_loop() -> None:
    steps = log_ratio(LOGPROBS, OLD, MASK)
    for level in ("sequence_mean", "sequence_mean_token", "sequence_product"):
        found = levelled(steps, MASK, RatioSettings(level))  # type: ignore[arg-type]
        for row in range(4):
            total = float(steps[row].sum())
            expected = total if level == "sequence_product" else total / int(LENGTHS[row])
            assert found[row, 0].item() == pytest.approx(expected)
    limited = levelled(steps, MASK, RatioSettings(log_min=-0.3, log_max=0.5))
    assert torch.equal(limited, steps.clamp(-0.3, 0.5))


def test_the_token_form_has_gradients_of_tokens() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    steps = log_ratio(logprobs, OLD, MASK)
    found = levelled(steps, MASK, RatioSettings("sequence_mean_token"))
    found[0, 2].backward()
    assert logprobs.grad is not None
    assert logprobs.grad.nonzero().tolist() == [[0, 2]]


def test_bounds_are_counted_where_they_cut_the_gradient() -> None:
    log_ratios = torch.tensor([[0.5, -0.5, 0.5, -0.5, 1.5, 0.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, -1.0, 1.0]])
    found = clipped(log_ratios, advantages, ClipSettings(dual=3.0))
    assert found.high.tolist() == [[True, False, False, False, True, False]]
    assert found.low.tolist() == [[False, False, False, True, False, False]]
    found.loss.sum().backward()
    assert log_ratios.grad is not None
    assert torch.equal(log_ratios.grad == 0, found.low | found.high)
