"""A progress bar with reward, accuracy and time left."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SHOWN = {"train/reward": "reward", "train/loss": "loss", "val/accuracy/mean": "held-out"}
_ACCURACY = ("val/accuracy/", "train/accuracy/")


class TrainingProgress(ProgressBar):
    """Shows optimiser steps, reward, accuracy of each task, and time left.

    On a terminal a bar; elsewhere, such as in a log file, one line now and then.

    Args:
        title: What is running, such as "cold start"; None names the Trainer's stage.
        line_every_s: Seconds between two lines where there is no terminal.
    """

    def __init__(self, title: str | None = None, line_every_s: float = 30.0) -> None:
        super().__init__()
        self.title = title
        self.line_every_s = line_every_s
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._enabled = True
        self._title = ""
        self._started = self._last_line = 0.0
        self._first_step = 0

    def disable(self) -> None:
        """Show nothing."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    # Training.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step the run is at."""
        total = trainer.max_steps if trainer.max_steps >= 0 else self._epoch_steps(trainer)
        self._open(self.title or "training", total, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        self._advance(trainer.global_step, summary(trainer))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why the bar stands still."""
        self._describe(" (validating)")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to training."""
        self._describe("")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    # Test and prediction.

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over the batches."""
        self._open(self.title or "test", _batches(trainer.num_test_batches), 0)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar."""
        self._advance(batch_idx + 1, "")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        self._console.print(*args)

    def _open(self, title: str, total: int | None, completed: int) -> None:
        self._close()
        self._title = title
        self._started = self._last_line = time.monotonic()
        self._first_step = completed
        if self.is_disabled:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[summary]}", style="dim"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, completed=completed, summary="")
        self._progress.start()

    def _advance(self, completed: int, text: str) -> None:
        if self._progress is None or self._task is None:
            return
        self._progress.update(self._task, completed=completed, summary=text)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= self.line_every_s:
            self._last_line = now
            task = self._progress.tasks[0]
            self._console.print(
                f"{task.description} {completed}/{_count(task.total)} "
                f"{left(completed - self._first_step, task.total, completed, now - self._started)}"
                f" {text}",
                highlight=False,
                soft_wrap=True,
            )

    def _describe(self, addition: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self._title}{addition}")

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @property
    def is_disabled(self) -> bool:
        """Whether nothing is shown."""
        return not self._enabled

    @staticmethod
    def _epoch_steps(trainer: Trainer) -> int | None:
        steps = trainer.estimated_stepping_batches
        return None if steps == float("inf") else int(steps)


def summary(trainer: Trainer) -> str:
    """Return the newest reward, loss and accuracies as one short text."""
    metrics = trainer.callback_metrics
    parts = [
        f"{word} {float(metrics[name]):.3f}" for name, word in _SHOWN.items() if name in metrics
    ]
    for prefix in _ACCURACY:
        found = {
            name.removeprefix(prefix): float(value)
            for name, value in metrics.items()
            if name.startswith(prefix) and not name.endswith("/mean")
        }
        if found:
            parts += [f"{task} {value:.2f}" for task, value in sorted(found.items())]
            break
    return " · ".join(parts)


def left(done: int, total: float | None, completed: int, elapsed_s: float) -> str:
    """Return the time left, such as "2:05 left", or "" while it cannot be known.

    Args:
        done: Steps taken since the clock started.
        total: Steps of the whole run; None when it has no end.
        completed: Steps taken in the whole run.
        elapsed_s: Seconds since the clock started.
    """
    if total is None or done <= 0:
        return ""
    seconds = round(elapsed_s / done * (total - completed))
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left"


def _count(total: float | None) -> str:
    return "?" if total is None else str(int(total))


def _batches(counts: Any) -> int | None:
    total = sum(counts) if isinstance(counts, list) else counts
    return None if total == float("inf") else int(total)
