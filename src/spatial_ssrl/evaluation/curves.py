"""Learning curves from TensorBoard logs, drawn to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[str, tuple[list[int], list[float]]]
"""Steps and values of each logged scalar, by name."""

_HELD_OUT = "val/accuracy/"


def read_curves(folder: Path) -> Curves:
    """Read every scalar logged under a folder.

    Args:
        folder: Folder of TensorBoard event files; several files of a resumed run are joined.

    Returns:
        Steps and values by name. Where a resumed run logged a step twice, the later value
        counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves: Curves = {}
    for name in events.Tags()["scalars"]:
        values = {event.step: float(event.value) for event in events.Scalars(name)}
        steps = sorted(values)
        curves[name] = (steps, [values[step] for step in steps])
    return curves


def draw_curves(stages: Mapping[str, Path], chances: Mapping[str, float], out: Path) -> Path:
    """Draw held-out accuracy by task over all stages, and each stage's training signal.

    Args:
        stages: Folder of event files by the stage's name, in the order in which they ran.
        chances: Accuracy of a uniform guess by task, drawn as dashed lines.
        out: PNG file to write, whole or not at all.

    Returns:
        `out`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, len(stages), height_ratios=(3, 2))
    held_out, first = figure.add_subplot(grid[0, :]), 0
    for column, (stage, folder) in enumerate(stages.items()):
        curves = read_curves(folder)
        length = max((steps[-1] for steps, _ in curves.values() if steps), default=0)
        for number, task in enumerate(sorted(chances)):
            steps, values = curves.get(f"{_HELD_OUT}{task}", ([], []))
            held_out.plot(
                [first + step for step in steps],
                values,
                color=f"C{number}",
                marker=".",
                label=task.replace("_", " ") if column == 0 else None,
            )
        held_out.axvspan(first, first + length, color="0.95" if column % 2 else "1.0", zorder=0)
        held_out.text(first + length / 2, 1.01, stage, ha="center", va="bottom")
        _draw_signal(figure.add_subplot(grid[1, column]), stage, curves)
        first += length
    for number, task in enumerate(sorted(chances)):
        held_out.axhline(chances[task], color=f"C{number}", linestyle=":", linewidth=1)
    held_out.set(ylim=(0, 1), xlim=(0, max(first, 1)), ylabel="held-out accuracy", xlabel="step")
    held_out.legend(loc="lower right", ncols=2, title="dotted: chance")
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(out.name + ".new")
    figure.savefig(fresh, dpi=120, format="png")
    fresh.replace(out)
    return out


def _draw_signal(axes: Axes, stage: str, curves: Curves) -> None:
    name = "train/reward" if "train/reward" in curves else "train/loss"
    steps, values = curves.get(name, ([], []))
    if not steps:  # A run shorter than the logging interval.
        return
    axes.plot(steps, values, color="0.8", linewidth=1)
    axes.plot(steps, _smooth(values), color="C0")
    label = "reward of samples" if name == "train/reward" else "loss"
    axes.set(title=f"{stage}: {label}", xlabel="step")


def _smooth(values: Sequence[float], share: float = 0.1) -> npt.NDArray[np.float64]:
    """Return a running mean over `share` of the curve; ends average what there is."""
    width = max(1, round(len(values) * share))
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
