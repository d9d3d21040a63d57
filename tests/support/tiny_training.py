"""A run small enough to repeat many times in one test: tiny policy, drawn scenes, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.data import HeldOutSettings, PretextDataModule
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import SamplingSettings
from spatial_ssrl.policies.tiny import TinyVLM
from spatial_ssrl.tasks import DepthOrder, FlippedPatch
from spatial_ssrl.training import RLModule
from spatial_ssrl.verifiers import Verifier


class DigitShare(Verifier):
    """Rewards digits: an untrained policy varies in it, and a few steps raise it."""

    def score(self, text: str, question: Question) -> Verdict:
        """Return the share of characters that are digits."""
        share = sum(c.isdigit() for c in text) / max(len(text), 1)
        return Verdict(reward=share, parts={"accuracy": share})


class FlatForFlips(DigitShare):
    """As `DigitShare`, but every answer to a flipped patch earns the same."""

    def score(self, text: str, question: Question) -> Verdict:
        """Return 0.3 for flipped patches, the share of digits for other tasks."""
        if question.task == "flipped_patch":
            return Verdict(reward=0.3, parts={"accuracy": 0.0})
        return super().score(text, question)


class StepLog(Callback):
    """Remembers, or writes to a file, the step and question ids of every batch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.steps: list[tuple[int, tuple[str, ...]]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note one step."""
        assert isinstance(batch, PromptBatch)
        uids = tuple(question.uid for question in batch.questions)
        self.steps.append((trainer.global_step, uids))
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{trainer.global_step} {' '.join(uids)}\n")


def tiny_policy(**settings: Any) -> TinyVLM:
    """Return a TinyVLM of half a million weights that reads 32-pixel pictures."""
    return TinyVLM(image_size=32, hidden_size=32, layers=1, heads=2, **settings)


def tiny_data(**settings: Any) -> PretextDataModule:
    """Return two tasks on twenty scenes, four questions a step."""
    defaults: dict[str, Any] = {
        "batch_size": 4,
        "epoch_questions": 400,
        "evaluation": HeldOutSettings(val_questions=2, test_questions=3, batch_size=4),
    }
    tasks = [FlippedPatch(wording="terse"), DepthOrder(wording="terse")]
    return PretextDataModule([SyntheticScenes(20, 48)], tasks, **(defaults | settings))


def tiny_rl(policy: TinyVLM | None = None, **settings: Any) -> RLModule:
    """Return an RL module that earns rewards from the first step on."""
    defaults: dict[str, Any] = {
        "algorithm": GRPO(),
        "verifier": DigitShare(),
        "group_size": 4,
        "sampling": SamplingSettings(max_new_tokens=6),
    }
    return RLModule(policy or tiny_policy(), **(defaults | settings))


def tiny_trainer(
    folder: Path, steps: int, callbacks: list[Callback] | None = None, **settings: Any
) -> Trainer:
    """Return a quiet Trainer on the CPU that validates and saves nothing unless told to."""
    defaults: dict[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "callbacks": callbacks,
    }
    return Trainer(**(defaults | settings))
