"""Ctrl-C that takes effect between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.training.distributed import gather


class StopBetweenSteps(Callback):
    """Lets Ctrl-C wait for the end of the step, so that a checkpoint on leaving is exact.

    Stopped in the middle, a run would save half an update, or count a batch as done that taught
    nothing; resumed, it would no longer be the run its seed names. A second Ctrl-C stops at once.
    Several processes stop after the same step.
    Use with `ModelCheckpoint(save_on_exception=True)`.
    """

    def __init__(self) -> None:
        self._waits = False
        self._asked = False
        self._before: Any = None  # Any: a handler is a function or a number.

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to Ctrl-C; only the main thread can."""
        self._waits = self._asked = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is a step to finish."""
        self._waits = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here when asked to."""
        self._stop_if_asked()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here when asked to, or at any time until the next step."""
        self._stop_if_asked()
        self._waits = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the end of a step again, unless this was the check before the first."""
        self._waits = not trainer.sanity_checking

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop here when asked to."""
        self._stop_if_asked()
        self._waits = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._waits and not self._asked:
            self._asked = True
            return
        raise KeyboardInterrupt

    def _stop_if_asked(self) -> None:
        if any(gather(self._asked, "looking for Ctrl-C")):
            raise KeyboardInterrupt
