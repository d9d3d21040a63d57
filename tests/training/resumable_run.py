"""A run to be killed: `python resumable_run.py FOLDER STEPS` stands still after step 5."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import AdamW

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.policies import LoraSettings
from spatial_ssrl.training import RLModule, ScheduleSettings, SFTModule
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer


class Pause(Callback):
    """Stands still after a step, so that a kill falls where the test wants it."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Sleep after step 5."""
        if trainer.global_step == 5:
            time.sleep(600)


def run(
    folder: Path,
    checkpoint: Path | None = None,
    kind: str = "rl",
    schedule: str = "linear",
    pause: bool = False,
    data: dict[str, Any] | None = None,
    **trainer: Any,
) -> dict[str, torch.Tensor]:
    """Train, saving every second step and logging every step's questions; return weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)  # As seed_everything does in a real run; fresh adapters are random.
    settings: dict[str, Any] = {
        "optimizer": lambda params: AdamW(params, lr=1e-3),
        "schedule": ScheduleSettings(schedule, warmup_steps=2),
    }
    module: RLModule | SFTModule
    dropout = 0.5 if kind == "sft_with_dropout" else 0.0
    policy = tiny_policy(lora=None if kind == "sft" else LoraSettings(rank=4, dropout=dropout))
    if kind == "rl":
        module = tiny_rl(policy, algorithm=GRPO(kl_coefficient=0.1), **settings)
    else:
        module = SFTModule(policy, **settings)
    saver = ModelCheckpoint(folder, every_n_train_steps=2, save_last=True, save_top_k=0)
    callbacks = [saver, StepLog(folder / "steps.txt"), *([Pause()] if pause else [])]
    steps = trainer.pop("max_steps", -1)
    fitter = tiny_trainer(folder, steps, callbacks, enable_checkpointing=True, **trainer)
    fitter.fit(module, tiny_data(**(data or {})), ckpt_path=checkpoint, weights_only=True)
    return {name: value.clone() for name, value in module.policy.trainable_state().items()}


if __name__ == "__main__":
    run(Path(sys.argv[1]), max_steps=int(sys.argv[2]), pause=True)
