"""Checks what a quick-start came to: `python .ci/check_quickstart.py runs/quickstart/results.json`.

Prints one line a task and ends with exit code 1 if a bar is missed. Needs the standard library
only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TASKS = {
    "cropped_inpainting",
    "depth_order",
    "flipped_patch",
    "relative_position",
    "shuffled_patches",
}
LEAST_QUESTIONS = 1000  # Fewer cannot tell 3 points apart.
LEAST_MEAN_GAIN = 3.0  # Percentage points.
LEAST_TASKS_THAT_GAIN = 3
LEAST_ABOVE_CHANCE = 0.05  # Of the lower end of the interval after GRPO.


def missed_bars(results: dict[str, Any]) -> list[str]:
    """Return what a result falls short of, one sentence each; none is a pass.

    Args:
        results: Content of `results.json`.

    Raises:
        KeyError: If something is missing from it.
    """
    tasks, missed = results["tasks"], []
    if set(tasks) != TASKS:
        missed.append(f"the tasks are {', '.join(sorted(tasks))}; there must be five.")
    for name, row in {**tasks, "mean": results["mean"]}.items():
        missed += [f"{name}: {fault}" for fault in _inconsistent(row)]
    for name, row in tasks.items():
        if row["n"] < LEAST_QUESTIONS:
            missed.append(f"{name}: {row['n']} questions, fewer than {LEAST_QUESTIONS}.")
        margin = row["grpo"]["ci95"][0] - row["chance"]
        if margin < LEAST_ABOVE_CHANCE:
            missed.append(f"{name}: after GRPO only {100 * margin:.1f} points above chance.")
        if row["gain"]["ci95"][1] < 0:
            missed.append(f"{name}: lost {-row['gain']['points']:.1f} points.")
    gained = [name for name, row in tasks.items() if row["gain"]["ci95"][0] > 0]
    if len(gained) < LEAST_TASKS_THAT_GAIN:
        missed.append(f"{len(gained)} tasks gained; {LEAST_TASKS_THAT_GAIN} must.")
    points = results["mean"]["gain"]["points"]
    if points < LEAST_MEAN_GAIN:
        missed.append(f"the mean gain is {points:.1f} points; it must be {LEAST_MEAN_GAIN:.0f}.")
    return missed


def _inconsistent(row: dict[str, Any]) -> list[str]:
    """Return how the numbers of one row contradict each other."""
    faults = []
    before, after, gain = row["cold_start"], row["grpo"], row["gain"]
    if not 0 < row["chance"] < 1:
        faults.append(f"chance is {row['chance']}.")
    for part, value in ((before, "accuracy"), (after, "accuracy"), (gain, "points")):
        low, high = part["ci95"]
        if not low < part[value] < high:
            faults.append(f"{value} {part[value]} is outside its interval [{low}, {high}].")
    if abs(100 * (after["accuracy"] - before["accuracy"]) - gain["points"]) > 1e-6:
        faults.append("the gain is not the difference of the accuracies.")
    return faults


def main(path: Path) -> int:
    """Print the results and the bars they miss; return the exit code."""
    results = json.loads(path.read_text(encoding="utf-8"))
    for name, row in {**results["tasks"], "mean": results["mean"]}.items():
        before, after, gain = row["cold_start"], row["grpo"], row["gain"]
        low, high = gain["ci95"]
        print(
            f"{name:<20} chance {row['chance']:6.1%}   cold start {before['accuracy']:6.1%}"
            f"   GRPO {after['accuracy']:6.1%}   gain {gain['points']:+5.1f}"
            f" [{low:+.1f}, {high:+.1f}]"
        )
    print(", ".join(f"{stage} {spent:.0f} s" for stage, spent in results["seconds"].items()))
    missed = missed_bars(results)
    for fault in missed:
        print(f"missed: {fault}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
