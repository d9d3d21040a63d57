"""Accuracies with intervals, and paired differences between two policies.

Intervals are at 95 %. Questions are taken as independent draws; what they cover is the draw
of held-out questions, not that of training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.training.held_out import AnswerRecord

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers.

    Args:
        accuracy: In [0, 1].
        ci95: Lower and upper end of the 95 % interval, in [0, 1].
        n: Questions asked.
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Gain:
    """Difference between two policies on the same questions.

    Args:
        points: Second minus first, in percentage points.
        ci95: Lower and upper end of the 95 % interval, in percentage points.
        n: Questions asked of both.
    """

    points: float
    ci95: tuple[float, float]
    n: int


def wilson_accuracy(right: int, n: int) -> Accuracy:
    """Return an accuracy with Wilson's score interval, which stays inside [0, 1].

    Args:
        right: Right answers, in [0, n].
        n: Questions, at least 1.

    References:
        E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), p. 209.
    """
    share, z2 = right / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The formula contains the share; rounding at 0 and 1 must not exclude it.
    return Accuracy(
        share, (max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)), n
    )


def paired_gain(first: Sequence[bool], second: Sequence[bool]) -> Gain:
    """Return the gain from `first` to `second`, answers to the same questions in one order.

    The interval is the normal one over per-question differences: questions that both answer
    alike cancel, which makes it far narrower than that of two separate accuracies.

    Args:
        first: Whether each answer of the first policy is right, at least 2.
        second: The same of the second policy.

    Raises:
        ValueError: If the lengths differ or there are fewer than two questions.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"need two equally long lists, got {len(first)} and {len(second)}.")
    n = len(first)
    differences = [int(b) - int(a) for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / n
    variance = sum((difference - mean) ** 2 for difference in differences) / (n - 1)
    half = Z95 * math.sqrt(variance / n)
    return Gain(100 * mean, (100 * (mean - half), 100 * (mean + half)), n)


def accuracies(records: Iterable[AnswerRecord]) -> dict[str, Accuracy]:
    """Return the accuracy of each task, tasks in alphabetical order."""
    by_task = _group(records)
    return {
        task: wilson_accuracy(sum(r.correct for r in rows), len(rows))
        for task, rows in by_task.items()
    }


def gains(first: Iterable[AnswerRecord], second: Iterable[AnswerRecord]) -> dict[str, Gain]:
    """Return the paired gain of each task, from the first policy's records to the second's.

    Raises:
        ConfigError: If the two were not asked the same questions.
    """
    before, after = _group(first), _group(second)
    asked = {task: [r.uid for r in rows] for task, rows in before.items()}
    if asked != {task: [r.uid for r in rows] for task, rows in after.items()}:
        raise ConfigError(
            "the two runs were not asked the same questions, so they cannot be paired; "
            "test both with the same data settings."
        )
    return {
        task: paired_gain([r.correct for r in rows], [r.correct for r in after[task]])
        for task, rows in before.items()
    }


def mean_accuracy(by_task: Mapping[str, Accuracy]) -> Accuracy:
    """Return the mean over tasks, each weighing the same; its interval is the normal one."""
    tasks = list(by_task.values())
    mean = sum(a.accuracy for a in tasks) / len(tasks)
    variances = [a.accuracy * (1 - a.accuracy) / a.n for a in tasks]
    half = Z95 * math.sqrt(sum(variances)) / len(tasks)
    return Accuracy(mean, (max(mean - half, 0.0), min(mean + half, 1.0)), sum(a.n for a in tasks))


def mean_gain(by_task: Mapping[str, Gain]) -> Gain:
    """Return the mean over tasks, each weighing the same; independent errors add in squares."""
    tasks = list(by_task.values())
    mean = sum(gain.points for gain in tasks) / len(tasks)
    halves = [(gain.ci95[1] - gain.ci95[0]) / 2 for gain in tasks]
    half = math.sqrt(sum(h * h for h in halves)) / len(tasks)
    return Gain(mean, (mean - half, mean + half), sum(gain.n for gain in tasks))


def _group(records: Iterable[AnswerRecord]) -> dict[str, list[AnswerRecord]]:
    by_task: dict[str, list[AnswerRecord]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    return {task: sorted(rows, key=lambda r: r.uid) for task, rows in sorted(by_task.items())}
