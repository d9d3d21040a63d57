from __future__ import annotations

import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.evaluation import accuracies, gains, mean_accuracy, mean_gain
from spatial_ssrl.evaluation.statistics import Z95, paired_gain, wilson_accuracy
from spatial_ssrl.training import AnswerRecord


def records(task: str, right: list[bool]) -> list[AnswerRecord]:
    return [
        AnswerRecord(f"{task}{i:04d}", task, "", "A", "A", hit, float(hit), 0.25, False)
        for i, hit in enumerate(right)
    ]


def test_wilson_interval_solves_its_defining_equation() -> None:
    # Its ends are the shares from which the observed one lies exactly z standard errors away.
    found = wilson_accuracy(37, 120)
    for end in found.ci95:
        error = (end * (1 - end) / 120) ** 0.5
        assert abs(found.accuracy - end) == pytest.approx(Z95 * error, rel=1e-9)
    assert found.accuracy == 37 / 120


@pytest.mark.parametrize("right", [0, 25])
def test_wilson_interval_stays_inside_at_the_ends(right: int) -> None:
    found = wilson_accuracy(right, 25)
    assert 0 <= found.ci95[0] <= found.accuracy <= found.ci95[1] <= 1
    assert found.ci95[1] - found.ci95[0] > 0.1


def test_paired_gain_by_hand() -> None:
    # Differences 1, 0, 0, 1, -1, 1, 0, 0: mean 1/4, variance (4 - 8/16) / 7 = 1/2.
    first = [False, True, False, False, True, False, True, False]
    second = [True, True, False, True, False, True, True, False]
    gain = paired_gain(first, second)
    half = 100 * 1.959963985 * (0.5 / 8) ** 0.5
    assert gain.points == pytest.approx(25)
    assert gain.ci95 == pytest.approx((25 - half, 25 + half))


def test_paired_gain_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(600) < 0.5
    second = np.where(rng.random(600) < 0.8, first, rng.random(600) < 0.7)
    gain = paired_gain(first.tolist(), second.tolist())
    draws = rng.integers(600, size=(4000, 600))
    boot = 100 * (second.astype(int) - first.astype(int))[draws].mean(axis=1)
    assert gain.ci95 == pytest.approx(tuple(np.quantile(boot, [0.025, 0.975])), abs=0.5)
    # Unpaired, the same accuracies would be far less certain.
    assert gain.ci95[1] - gain.ci95[0] < 2 * 100 * Z95 * (2 * 0.25 / 600) ** 0.5 * 0.75


def test_means_weigh_tasks_alike_and_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    right = {"a": rng.random(200) < 0.3, "b": rng.random(800) < 0.9}
    rows = [r for task, hits in right.items() for r in records(task, hits.tolist())]
    mean = mean_accuracy(accuracies(rows))
    assert mean.accuracy == pytest.approx((right["a"].mean() + right["b"].mean()) / 2)
    boot = [
        np.mean([hits[rng.integers(len(hits), size=len(hits))].mean() for hits in right.values()])
        for _ in range(3000)
    ]
    assert mean.ci95 == pytest.approx(tuple(np.quantile(boot, [0.025, 0.975])), abs=0.004)


def test_mean_gain_adds_errors_in_squares() -> None:
    before = records("a", [False, True] * 50) + records("b", [True, False] * 50)
    after = records("a", [True, True] * 50) + records("b", [True, False] * 50)
    by_task = gains(before, after)
    assert by_task["a"].points == pytest.approx(50)
    assert by_task["b"].ci95 == (0, 0)
    mean = mean_gain(by_task)
    half = (by_task["a"].ci95[1] - by_task["a"].ci95[0]) / 2
    assert mean.points == pytest.approx(25)
    assert mean.ci95 == pytest.approx((25 - half / 2, 25 + half / 2))


def test_gains_pair_by_question_not_by_order() -> None:
    before, after = records("a", [True, False, False]), records("a", [True, True, False])
    assert gains(before, after[::-1])["a"].points == pytest.approx(100 / 3)


def test_runs_over_other_questions_cannot_be_paired() -> None:
    with pytest.raises(ConfigError, match="not asked the same questions"):
        gains(records("a", [True, False]), records("a", [True, False, True]))
