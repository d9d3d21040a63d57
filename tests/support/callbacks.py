"""Callbacks that tests name in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.training import PolicyModule


class InterruptAt(Callback):
    """Does what Ctrl-C does, after a number of optimiser steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


class KeepEveryAdapter(Callback):
    """Saves the policy after every step to a folder of its own, named by the step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PolicyModule)
        pl_module.policy.save(self.directory / str(trainer.global_step))
