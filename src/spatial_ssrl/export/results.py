"""What a run measured, from the logs in its folder."""

from __future__ import annotations

import csv
from pathlib import Path

from spatial_ssrl.evaluation.curves import read_curves

_TRAINING = ("train/reward", "train/accuracy", "train/loss")


def last_values(folder: Path) -> dict[str, tuple[int, float]]:
    """Return the last value of what was measured on held-out questions, and of the signal.

    Args:
        folder: Folder of a run, with logs of TensorBoard or CSV anywhere under it.

    Returns:
        Step and value by name: everything under `val/` and `test/`, and the training signal.
    """
    last: dict[str, tuple[int, float]] = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.tfevents*")}):
        for name, (steps, values) in read_curves(place).items():
            if steps:
                _keep(last, name, steps[-1], values[-1])
    for file in sorted(folder.rglob("metrics*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and row.get("step"):
                        _keep(last, name, int(row["step"]), float(value))
    return dict(sorted(last.items()))


def _keep(last: dict[str, tuple[int, float]], name: str, step: int, value: float) -> None:
    wanted = name.startswith(("val/", "test/")) or name in _TRAINING
    if wanted and step >= last.get(name, (-1, 0.0))[0]:
        last[name] = (step, value)
