"""Names and reductions of what training logs.

Everything under `train/` describes one training step, over all processes. A step that only
samples, because its update waits for more groups with signal, logs nothing of an update.

| name | meaning |
| --- | --- |
| `reward` | mean reward over completions |
| `reward/<part>` | mean of one part of the reward, where it applies |
| `accuracy/<task>` | share of right completions of one task |
| `chance/<task>` | accuracy of a uniform guess at the questions of one task |
| `above_chance/<task>` | (accuracy - chance) / (1 - chance): 0 is guessing, 1 is always right |
| `flat_groups` | share of groups without signal, such as those whose rewards are all equal |
| `flat_groups/<task>` | the same among the groups of one task |
| `groups_used` | groups the update learned from |
| `groups_waiting` | groups with signal that wait for a later update |
| `completions`, `tokens` | completions sampled, and their tokens |
| `length`, `length_max` | mean and largest length of a completion, in tokens |
| `truncated` | share of completions cut by the length limit |
| `loss` | as named |
| `kl` | mean divergence from the reference a token, as the algorithm estimates it |
| `old_kl` | mean k3 divergence from the weights that sampled a token; 0 where an update is one |
|  | optimiser step |
| `sampler_kl` | the same from what the sampler noted: how far it computes otherwise |
| `ratio` | mean probability ratio of a token to the weights that sampled it |
| `clipped` | share of tokens whose gradient is clipped |
| `clipped_low`, `clipped_high` | the same, at the lower and at the upper bound |
| `entropy` | mean surprisal of sampled tokens, an estimate of the entropy, in nats |
| other names | sums over tokens that a loss reports, divided by the number of tokens |
| `grad_norm`, `lr` | norm of the gradient before clipping; learning rate of the weights |
| `loss_scale`, `overflow` | float16 only: factor of the losses; share of steps left out because a |
|  | gradient overflowed |
| `seconds/<stage>` | wall time of sampling, verifying, scoring, updating; mean of processes |
| `rollouts_per_s`, `tokens_per_s` | completions and their tokens by the wall time of the step |
| `tokens_per_s/sample` | tokens by the wall time of sampling |
| `forward_tokens` | tokens the model read in forward passes, to sample and to score |
| `forward_share` | the same, as a share of what would be read if each completion read its |
|  | prompt anew |
| `replayed_tokens` | those of `forward_tokens` that recorded steps of decoding read (CUDA |
|  | graphs); left out where none did |
| `peak_memory_gib` | most memory held since the run began, of the process that held most: that |
|  | of the CUDA device it computes on, or else the resident memory of the process |

An update with inner epochs or mini-batches reports the statistics of its last inner epoch.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.training.distributed import gather
from spatial_ssrl.training.groups import Groups
from spatial_ssrl.training.held_out import is_correct

Number = float | Tensor


class Metrics:
    """Means, counts and peaks by name, which add up over micro-batches and processes.

    Values may be tensors on a device: they are read when `means` is asked for, not before, so
    that noting them never waits for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Number, Number]] = {}
        self._counts: dict[str, Number] = {}
        self._peaks: dict[str, float] = {}

    def add(self, name: str, total: Number, weight: Number = 1.0) -> None:
        """Add to a mean.

        Args:
            name: Name of the metric.
            total: Sum over some things, such as the rewards of some completions.
            weight: How many things those are; the mean is the sum of totals by that of weights.
        """
        before, weights = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before + total, weights + weight)

    def count(self, name: str, number: Number) -> None:
        """Add to a number that is summed over processes, such as a count or shares of a loss."""
        self._counts[name] = self._counts.get(name, 0.0) + number

    def peak(self, name: str, value: float) -> None:
        """Keep the largest of the values of one name."""
        self._peaks[name] = max(self._peaks.get(name, value), value)

    def add_stats(self, stats: Mapping[str, Tensor]) -> None:
        """Add what a loss reports of some micro-batch: sums over tokens, and their number."""
        names = {"surprisal": "entropy"}
        for name, value in stats.items():
            if name != "tokens":
                self.add(names.get(name, name), value, stats["tokens"])

    def merge(self, other: Metrics) -> None:
        """Add everything another one noted."""
        for name, (total, weight) in other._sums.items():
            self.add(name, total, weight)
        for name, number in other._counts.items():
            self.count(name, number)
        for name, value in other._peaks.items():
            self.peak(name, value)

    def settled(self) -> Metrics:
        """Return the same in plain numbers, which can be sent to another process."""
        plain = Metrics()
        plain._sums = {name: (float(t), float(w)) for name, (t, w) in self._sums.items()}
        plain._counts = {name: float(number) for name, number in self._counts.items()}
        plain._peaks = dict(self._peaks)
        return plain

    def means(self) -> dict[str, float]:
        """Return every mean, count and peak by name; a mean over nothing is left out."""
        sums = {name: (float(total), float(weight)) for name, (total, weight) in self._sums.items()}
        means = {name: total / weight for name, (total, weight) in sums.items() if weight}
        counts = {name: float(number) for name, number in self._counts.items()}
        return {**means, **counts, **self._peaks}


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


def reported(metrics: Metrics) -> dict[str, float]:
    """Return one step's metrics over all processes, by the names above."""
    together = Metrics()
    for part in gather(metrics.settled()):
        together.merge(part)
    values = together.means()
    return values | _above_chance(values) | _rates(values)


def rollout_metrics(groups: Groups) -> Metrics:
    """Return what a batch of judged completions shows."""
    rollouts, questions = groups.rollouts, groups.questions
    metrics, group = Metrics(), rollouts.group_size
    lengths = rollouts.mask.sum(dim=1)
    metrics.count("completions", float(len(rollouts)))
    metrics.count("tokens", lengths.sum())
    metrics.add("length", lengths.sum(), len(rollouts))
    metrics.peak("length_max", float(lengths.max()))
    metrics.add("truncated", rollouts.truncated.sum(), len(rollouts))
    for question, signal in zip(questions, groups.has_signal.tolist(), strict=True):
        metrics.add("flat_groups", float(not signal))
        metrics.add(f"flat_groups/{question.task}", float(not signal))
        metrics.add(f"chance/{question.task}", question.chance)
    for row, verdict in enumerate(groups.verdicts):
        metrics.add("reward", verdict.reward)
        metrics.add(f"accuracy/{questions[row // group].task}", float(is_correct(verdict)))
        for name, value in sorted(verdict.parts.items()):
            metrics.add(f"reward/{name}", value)
    return metrics


def cost_metrics(time: StageTimer, tokens: TokenCount, device: torch.device) -> Metrics:
    """Return what a step cost: seconds, tokens read, memory.

    Args:
        time: The stages of the step.
        tokens: What the model read in it.
        device: Where it was computed.
    """
    metrics = Metrics()
    for stage, spent in time.seconds.items():
        metrics.add(f"seconds/{stage}", spent)
    metrics.count("forward_tokens", tokens.computed)
    metrics.add("forward_share", tokens.computed, tokens.repeated)
    if tokens.replayed:
        metrics.count("replayed_tokens", tokens.replayed)
    metrics.peak("peak_memory_gib", peak_memory_gib(device))
    return metrics


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory held since the process began, in GiB.

    Args:
        device: Where the run computes.

    Returns:
        That of the device if it is a CUDA device, else the resident memory of this process; 0
        on systems that do not tell.
    """
    # There may be a CUDA device that the run does not use.
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has none.
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def _above_chance(values: Mapping[str, float]) -> dict[str, float]:
    found = {}
    for name, chance in values.items():
        kind, _, task = name.partition("/")
        if kind == "chance" and chance < 1:
            found[f"above_chance/{task}"] = (values[f"accuracy/{task}"] - chance) / (1 - chance)
    return found


def _rates(values: Mapping[str, float]) -> dict[str, float]:
    sampling = values.get("seconds/sample", 0.0)
    step = sum(spent for name, spent in values.items() if name.startswith("seconds/"))
    if not sampling or "completions" not in values:
        return {}
    return {
        "rollouts_per_s": values["completions"] / step,
        "tokens_per_s": values["tokens"] / step,
        "tokens_per_s/sample": values["tokens"] / sampling,
    }
