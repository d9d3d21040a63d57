"""Every algorithm trains: what the RL module supplies is what the algorithm reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from spatial_ssrl.algorithms import (
    ALGORITHMS,
    GRPO,
    AdvantageSettings,
    Algorithm,
    CorrectionSettings,
    OverlongSettings,
)
from support.tiny_training import DigitShare, StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer

CASES: dict[str, Algorithm] = {entry.key: entry.cls() for entry in ALGORITHMS.entries()}
CASES["corrected"] = GRPO(correction=CorrectionSettings("token", "mask", high=1.5))
CASES["overlong"] = GRPO(overlong=OverlongSettings(limit=6, margin=3))
CASES["normalised each"] = GRPO(advantage=AdvantageSettings(parts="normalise_each"))


class WeightedDigits(DigitShare):
    """As `DigitShare`, which says how its one part is weighted."""

    @property
    def part_weights(self) -> dict[str, float]:
        return {"accuracy": 1.0}


@pytest.mark.parametrize("case", CASES)
def test_one_step(case: str, tmp_path: Path) -> None:
    log, policy = StepLog(), tiny_policy()
    policy.load()
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    module = tiny_rl(policy, algorithm=CASES[case], verifier=WeightedDigits())
    tiny_trainer(tmp_path, 1, [log]).fit(module, tiny_data())
    assert any(not torch.equal(before[name], w) for name, w in policy.named_parameters())
    (metrics,) = log.metrics
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["train/ratio"] == pytest.approx(1, abs=1e-4)
    if case == "corrected":
        # The sampler computes as the policy does, so there is nothing to correct.
        assert metrics["train/correction"] == pytest.approx(1, abs=1e-4)
        assert metrics["train/corrected"] == 0
