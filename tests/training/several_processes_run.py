"""Runs by several processes: `python several_processes_run.py FOLDER` starts two by itself.

Every run writes what each process ended with to FOLDER/<name>-<rank>.pt.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.data import HeldOutSettings, PretextDataModule
from spatial_ssrl.data.dataset import QuestionDataset
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import LoraSettings, SamplingSettings
from spatial_ssrl.tasks import CroppedInpainting, FlippedPatch, PretextTask
from spatial_ssrl.training import RLModule, SFTModule, UpdateSettings, distributed
from spatial_ssrl.training.callbacks import QuestionRecords
from support.tiny_training import (
    DigitShare,
    FlatForFlips,
    StepLog,
    tiny_policy,
    tiny_rl,
    tiny_trainer,
)

STEPS = 2


class InTwoHalves(QuestionDataset):
    """In each batch of four, two questions of the first task come before two of the second."""

    def task_at(self, index: int) -> PretextTask:
        """Return the task of question `index`."""
        return self.tasks[index % 4 // 2]


class Data(PretextDataModule):
    """One picture a question for the first process, five for the second."""

    def training_questions(self) -> QuestionDataset:
        """Return the stream of training questions."""
        whole = super().training_questions()
        assert isinstance(whole, QuestionDataset)
        return InTwoHalves(
            whole.sources, whole.tasks, whole.seed, block=whole.block, admits=whole.admits
        )


def data() -> PretextDataModule:
    """Return two unlike tasks on twenty scenes; an odd number of held-out questions."""
    tasks = [FlippedPatch(wording="terse"), CroppedInpainting(wording="terse")]
    held_out = HeldOutSettings(val_questions=2, test_questions=3, batch_size=2)
    return Data([SyntheticScenes(20, 48)], tasks, batch_size=4, evaluation=held_out)


def sgd(params: Any) -> torch.optim.Optimizer:
    """Return an optimiser that does not blow rounding errors up to the size of the step."""
    return torch.optim.SGD(params, lr=0.1)


def reinforce(**settings: Any) -> RLModule:
    """Return RL with every part that several processes could get wrong."""
    defaults: dict[str, Any] = {
        "algorithm": GRPO(kl_coefficient=0.1),
        "optimizer": sgd,
        "update": UpdateSettings(micro_batch_size=1, mini_batches=2),
    }
    return tiny_rl(tiny_policy(lora=LoraSettings(rank=4)), **(defaults | settings))


def teach() -> SFTModule:
    """Return the cold start of an adapter."""
    # Held-out answers as short as those of `tiny_rl`; 512 tokens would take most of the time.
    sampling = SamplingSettings(max_new_tokens=6)
    return SFTModule(tiny_policy(lora=LoraSettings(rank=4)), optimizer=sgd, sampling=sampling)


def decaying(params: Any) -> torch.optim.Optimizer:
    """Return an optimiser that moves every weight that has a gradient, be it zero."""
    return torch.optim.AdamW(params, lr=0.1, weight_decay=0.5)


def _flat() -> RLModule:
    tasks_alike = FlatForFlips()
    tasks_alike.score = lambda text, question: FlatForFlips().score(  # type: ignore[method-assign]
        text, FLIP
    )
    return reinforce(verifier=tasks_alike, optimizer=decaying, algorithm=GRPO(kl_coefficient=0.0))


FLIP = type("Flip", (), {"task": "flipped_patch"})()


class FlatForMost(DigitShare):
    """Only some flipped patches, which the first process asks, have a signal."""

    def score(self, text: str, question: Question) -> Verdict:
        """Return a number for each text to few questions, the same for any to the others."""
        if question.task == "flipped_patch" and zlib.crc32(question.uid.encode()) % 4 == 0:
            return Verdict(zlib.crc32(text.encode()) / 2**32, {"accuracy": 0.0})
        return Verdict(0.3, {"accuracy": 0.0})


RUNS: dict[str, Callable[[], RLModule | SFTModule]] = {
    "rl": reinforce,
    "one_without_signal": lambda: reinforce(verifier=FlatForFlips()),
    "all_without_signal": _flat,
    "sft": teach,
    "resampled": lambda: reinforce(
        verifier=FlatForFlips(), update=UpdateSettings(flat_groups="resample")
    ),
    "resampled_scarce": lambda: reinforce(
        verifier=FlatForMost(),
        update=UpdateSettings(flat_groups="resample", resample_batches=1, micro_batch_tokens=500),
    ),
}


def run(name: str, folder: Path, processes: int) -> dict[str, Any]:
    """Train and test one of `RUNS`; return what this process ended with."""
    torch.manual_seed(0)  # As seed_everything does in a real run; fresh adapters are random.
    module, log = RUNS[name](), StepLog()
    settings: dict[str, Any] = {"devices": processes, "limit_val_batches": 1.0}
    settings |= {"strategy": "ddp" if processes > 1 else "auto"}
    settings |= {"val_check_interval": STEPS, "check_val_every_n_epoch": None}
    steps = STEPS * (1 if name == "sft" or name.startswith("resampled") else 2)
    records = QuestionRecords(folder / f"{name}.jsonl")
    trainer = tiny_trainer(folder, steps, [log, records], **settings)
    trainer.fit(module, data())
    weights = {key: value.clone() for key, value in module.policy.trainable_state().items()}
    validated = {key: float(value) for key, value in trainer.callback_metrics.items()}
    tested = trainer.test(module, data(), verbose=False)[0]
    return {
        "weights": weights,
        "steps": log.steps,
        "metrics": log.metrics,
        "validated": validated,
        "tested": tested,
    }


def interrupted(folder: Path) -> dict[str, Any]:
    """Return what a run with groups that wait ends with, whole and resumed from its middle."""
    settings: dict[str, Any] = {"devices": 2, "strategy": "ddp", "enable_checkpointing": True}

    def trained(steps: int, resume: bool) -> tuple[RLModule, StepLog]:
        torch.manual_seed(0)
        module, log = RUNS["resampled"](), StepLog()
        assert isinstance(module, RLModule)
        saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
        trainer = tiny_trainer(folder, steps, [log, saver], **settings)
        trainer.fit(module, data(), ckpt_path=folder / "last.ckpt" if resume else None)
        return module, log

    waiting = len(trained(1, resume=False)[0].buffer)
    resumed, later = trained(3, resume=True)
    whole, log = trained(3, resume=False)
    return {
        "resumed": dict(resumed.policy.trainable_state()),
        "whole": dict(whole.policy.trainable_state()),
        "waiting": waiting,
        "steps": (later.steps, log.steps),
    }


def collectives() -> dict[str, Any]:
    """Return what the exchanges themselves give, from inputs that name the process."""
    number = distributed.rank() + 1
    shapes = ((3, 2), (5,), (4,), (2,))
    weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    weights[0].grad = torch.full((3, 2), float(number))
    if number == 1:
        weights[1].grad = torch.arange(5.0)
    weights[3] = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    # 1 + 1/256 + 2/256 in bfloat16, one rounding after another, would stay 1.
    weights[3].grad = torch.tensor([1.0, number / 256], dtype=torch.bfloat16)
    distributed._BUCKET = 7  # Several messages, one parameter cut off from the next.
    distributed.sum_gradients(weights)
    statistics = [torch.full((2,), float(number)), torch.tensor(4.0 * number)]
    distributed.average(statistics)
    gradients: list[Tensor | None] = [weight.grad for weight in weights]
    return {
        "gradients": gradients,
        "means": statistics,
        "gathered": distributed.gather({"rank": distributed.rank()}),
        "total": distributed.total(number, "testing"),
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for run_name in RUNS:
        found = run(run_name, target, processes=2)
        torch.save(found, target / f"{run_name}-{distributed.rank()}.pt")
    torch.save(interrupted(target), target / f"interrupted-{distributed.rank()}.pt")
    torch.save(collectives(), target / f"collectives-{distributed.rank()}.pt")
