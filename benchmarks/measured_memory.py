"""Peak memory of real training steps, by the records of PyTorch's own CPU allocator.

Every allocation and release reaches the profiler. What was alive before it began is counted
from the tensors Python knows. Nothing here knows how the planner predicts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.rollout import in_process
from spatial_ssrl.training import RLModule
from spatial_ssrl.verifiers import Verifier


class ByLength(Verifier):
    """Rewards that differ within a group, whatever was said."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, text: str, question: Question) -> Verdict:
        """Return one of two rewards in turn."""
        self.asked += 1
        return Verdict(reward=float(self.asked % 2), parts={})


class MemoryOfSecondStep(Callback):
    """Measures the second training step, when the optimiser has its state."""

    def __init__(self) -> None:
        self.alive = 0
        self.sampled = 0
        self.peaks: dict[str, int] = {}
        self._profile: Any = None

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to record."""
        if batch_idx != 1:
            return
        gc.collect()
        self.alive = bytes_alive()
        sample = module._sample

        def noting(*args: Any) -> Any:
            out = sample(*args)
            self.sampled = time.time_ns()
            return out

        module._sample = noting
        self._profile = profile(
            activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )
        self._profile.__enter__()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Read the records."""
        if self._profile is None:
            return
        self._profile.__exit__(None, None, None)
        events = self._profile.profiler.kineto_results.events()
        records = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
        self._profile = None
        total, self.peaks = self.alive, {"sampling": self.alive, "update": self.alive}
        for when, size in sorted(records, key=lambda record: record[0]):
            total += size
            stage = "sampling" if when <= self.sampled else "update"
            self.peaks[stage] = max(self.peaks[stage], total)


def bytes_alive() -> int:
    """Return the bytes of all tensors that Python knows."""
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextmanager
def longest_completions(end: int) -> Iterator[None]:
    """Make completions part at the first token and reach the limit, but for one of each batch.

    That one ends a step before the last.

    Args:
        end: A token that ends a completion.
    """
    choose = in_process._choose
    state = {"step": 0}

    def chosen(scores: Any, row: Any, uniform: Any, sampling: Any, *rest: Any) -> Any:
        drawn, logprobs = choose(scores, row, uniform, sampling, *rest)
        state["step"] += 1
        step = (state["step"] - 1) % sampling.max_new_tokens
        drawn = 20 + torch.arange(len(drawn)) % 200
        if step == sampling.max_new_tokens - 2:
            drawn[-1] = end
        return drawn, logprobs

    in_process._choose = chosen
    try:
        yield
    finally:
        in_process._choose = choose


def measure(
    module: RLModule, questions: Sequence[Question], folder: Path, end: int
) -> dict[str, int]:
    """Return the peak bytes of sampling and of the update, in a training step.

    Args:
        module: The run.
        questions: Of one batch.
        folder: Where the Trainer may write.
        end: A token that ends a completion.
    """
    memory = MemoryOfSecondStep()
    collate: Callable[..., Any] = module.collator()
    loader = DataLoader([list(questions)] * 2, batch_size=None, collate_fn=collate)
    trainer = Trainer(
        max_steps=2 * module.steps_of_update,
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[memory],
    )
    with longest_completions(end):
        trainer.fit(module, loader)
    return memory.peaks
