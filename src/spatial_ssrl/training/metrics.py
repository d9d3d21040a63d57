"""Names and reductions of what training logs.

Everything under `train/` describes one training step:

| name | meaning |
| --- | --- |
| `reward` | mean reward over completions |
| `reward/<part>` | mean of one part of the reward |
| `accuracy/<task>` | share of right completions of one task |
| `flat_groups` | share of groups whose rewards are equal, which carry no signal |
| `length` | mean length of a completion, in tokens |
| `truncated` | share of completions cut by the length limit |
| `kl` | mean k3 divergence from the reference a token |
| `old_kl` | mean k3 divergence from the weights that sampled a token |
| `clipped` | share of tokens whose gradient is clipped |
| `entropy` | mean surprisal of sampled tokens, an estimate of the entropy, in nats |
| `loss`, `grad_norm`, `lr` | as named; the norm before clipping |
| `seconds/<stage>` | wall time of sampling, verifying, scoring, updating |
| `rollouts_per_s` | completions divided by the wall time of the step |
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from spatial_ssrl.core.batches import ScoredRollouts
from spatial_ssrl.core.questions import Question
from spatial_ssrl.training.held_out import is_correct


class StageTimer:
    """Wall time of the stages of one step, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[stage] += time.perf_counter() - start


class StatSums:
    """Loss statistics added up over the micro-batches of an update."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, stats: Mapping[str, Tensor]) -> None:
        """Add the sums of one micro-batch."""
        for name, value in stats.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def per_token(self) -> dict[str, float]:
        """Return every sum divided by `tokens`, `surprisal` renamed to `entropy`."""
        if "tokens" not in self._sums:
            return {}
        tokens = max(float(self._sums["tokens"]), 1.0)
        names = {"surprisal": "entropy"}
        return {
            names.get(name, name): float(value) / tokens
            for name, value in self._sums.items()
            if name != "tokens"
        }


def rollout_metrics(questions: Sequence[Question], scored: ScoredRollouts) -> dict[str, float]:
    """Return what a batch of judged completions shows, by the names above."""
    rollouts, verdicts = scored.rollouts, scored.verdicts
    rewards = scored.rewards
    parts: dict[str, list[float]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for row, verdict in enumerate(verdicts):
        right[questions[row // rollouts.group_size].task].append(is_correct(verdict))
        for name, value in verdict.parts.items():
            parts[name].append(value)
    return {
        "reward": float(rewards.mean()),
        "flat_groups": float((rewards.amax(dim=1) == rewards.amin(dim=1)).float().mean()),
        "length": float(rollouts.mask.sum(dim=1).float().mean()),
        "truncated": float(rollouts.truncated.float().mean()),
        **{f"reward/{name}": sum(values) / len(values) for name, values in sorted(parts.items())},
        **{f"accuracy/{task}": sum(hits) / len(hits) for task, hits in sorted(right.items())},
    }
