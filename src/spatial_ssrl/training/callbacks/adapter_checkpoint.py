"""The policy as other programs read it: a folder with its adapter, or the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.weights import check_replaceable
from spatial_ssrl.training.module import PolicyModule


class AdapterCheckpoint(Callback):
    """Saves the adapter, or the whole model where there is none, as PEFT and transformers do.

    The folder is for whoever uses the policy, its processor included. What training goes on from
    are checkpoints; beside each lies the adapter of its step (`WholeCheckpoints`).

    The folder is complete at every moment: a new one is written beside it and takes its place.
    A folder that holds anything but a saved policy is refused.

    Args:
        directory: Folder to save to; None takes `policy` in the Trainer's root folder.
        every_n_steps: Optimiser steps between two saves; 0 saves at the end only.
    """

    def __init__(self, directory: Path | None = None, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"every_n_steps must be 0 (at the end) or more, got {every_n_steps}.")
        self.directory = directory
        self.every_n_steps = every_n_steps
        self._step = 0  # when the last batch ended

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a folder that holds something else, before any work is done."""
        check_replaceable(self._target(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where the run is."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where `every_n_steps` says so."""
        before, self._step = self._step, trainer.global_step
        # A batch may take several optimiser steps, or none.
        if self.every_n_steps and before // self.every_n_steps < self._step // self.every_n_steps:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the trained policy."""
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the policy and let it take the place of what was there."""
        if not trainer.is_global_zero:
            return
        if not isinstance(pl_module, PolicyModule):
            raise TypeError(f"{type(pl_module).__name__} has no policy to save.")
        pl_module.policy.save(self._target(trainer))

    def _target(self, trainer: Trainer) -> Path:
        return Path(self.directory or Path(trainer.default_root_dir) / "policy")
