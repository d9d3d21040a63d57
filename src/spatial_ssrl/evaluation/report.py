"""What a cold start and the RL after it came to: one record, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from spatial_ssrl.evaluation.statistics import Accuracy, Gain, accuracies, gains, mean_accuracy
from spatial_ssrl.evaluation.statistics import mean_gain as mean_of_gains
from spatial_ssrl.training.held_out import AnswerRecord


def compare(
    cold_start: Sequence[AnswerRecord], grpo: Sequence[AnswerRecord]
) -> dict[str, dict[str, Any]]:
    """Compare two policies on the same held-out questions.

    Args:
        cold_start: Answers before RL.
        grpo: Answers of the policy after RL, to the same questions.

    Returns:
        `tasks`, by registry key, and `mean` over them. Each holds `chance`, `n`, `cold_start`
        and `grpo` (`accuracy` and `ci95`, in [0, 1]) and `gain` (`points` and `ci95`, in
        percentage points, paired by question). Intervals are at 95 %.

    Raises:
        ConfigError: If the two were not asked the same questions.
    """
    before, after, gained = accuracies(cold_start), accuracies(grpo), gains(cold_start, grpo)
    chances = {task: _chance(cold_start, task) for task in before}
    tasks = {task: _row(chances[task], before[task], after[task], gained[task]) for task in before}
    mean_chance = sum(chances.values()) / len(chances)
    mean = _row(mean_chance, mean_accuracy(before), mean_accuracy(after), mean_of_gains(gained))
    return {"tasks": tasks, "mean": mean}


def comparison_table(results: Mapping[str, Any]) -> Table:
    """Return what `compare` found as a table for the terminal."""
    table = Table(title="Held-out accuracy in per cent, with 95 % intervals")
    for heading in ("task", "chance", "after cold start", "after GRPO", "gain (points)"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, row in results["tasks"].items():
        table.add_row(*_cells(task.replace("_", " "), row))
    table.add_section()
    table.add_row(*_cells("mean", results["mean"]), style="bold")
    return table


def _row(chance: float, before: Accuracy, after: Accuracy, gain: Gain) -> dict[str, Any]:
    return {
        "chance": chance,
        "n": before.n,
        "cold_start": _without_n(before),
        "grpo": _without_n(after),
        "gain": _without_n(gain),
    }


def _without_n(measure: Accuracy | Gain) -> dict[str, Any]:
    return {name: value for name, value in asdict(measure).items() if name != "n"}


def _chance(records: Sequence[AnswerRecord], task: str) -> float:
    values = [record.chance for record in records if record.task == task]
    return sum(values) / len(values)


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    def accuracy(part: Mapping[str, Any]) -> str:
        low, high = (100 * end for end in part["ci95"])
        return f"{100 * part['accuracy']:.1f}  [{low:.1f}, {high:.1f}]"

    low, high = row["gain"]["ci95"]
    return [
        name,
        f"{100 * row['chance']:.1f}",
        accuracy(row["cold_start"]),
        accuracy(row["grpo"]),
        f"{row['gain']['points']:+.1f}  [{low:+.1f}, {high:+.1f}]",
    ]
