"""Steps that fail, by values that are not finite or for want of memory: what to do about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from spatial_ssrl.core.errors import NotFinite, OutOfMemory, ran_out_of_memory
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.training.distributed import gather

Step = TypeVar("Step", bound=Callable[..., None])

REMEDY = (
    "Resume from the last checkpoint with a lower learning rate or a smaller update.clip_norm; if "
    'it happens at the same question again, or the Trainer computes in float16, try "bf16-mixed" '
    'or "32-true" as trainer.precision.'
)


def bad_reward(
    questions: Sequence[Question], verdicts: Sequence[Verdict], group_size: int, judge: str
) -> str | None:
    """Return what is wrong with the first reward that is not finite, or None.

    Args:
        questions: B questions.
        verdicts: One of each of their B * G completions.
        group_size: Completions of a question, G.
        judge: Name of the verifier.
    """
    for row, verdict in enumerate(verdicts):
        values = {"reward": verdict.reward}
        values |= {f"part {name!r} of the reward": value for name, value in verdict.parts.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                question = questions[row // group_size]
                return (
                    f"the {name} of completion {row % group_size} of {named(question)} is "
                    f"{value}. Let {judge} return finite numbers for any text."
                )
    return None


def bad_update(
    questions: Sequence[Question],
    rows: Sequence[int],
    losses_of: Callable[[int], Iterator[Tensor]],
    parameters: Sequence[nn.Parameter],
) -> str | None:
    """Return which question makes the loss or the gradient of an update not finite, or None.

    Computes the questions one by one, so that None means that only all of them together do.
    Gradients are gone afterwards.

    Args:
        questions: Those of the update.
        rows: Numbers of those that take part.
        losses_of: Yields one question's share of the loss, with gradient, in parts.
        parameters: What learns.
    """
    for row in rows:
        for parameter in parameters:
            parameter.grad = None
        for loss in losses_of(row):
            if not torch.isfinite(loss):
                value = float(loss.detach())
                return f"the loss of {named(questions[row])} is {value}. {REMEDY}"
            loss.backward()
        found = [p.grad for p in parameters if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in found):
            return f"the gradient of {named(questions[row])} is not finite. {REMEDY}"
    return None


def stop_if_any(
    trainer: Trainer, step: int, problem: str | None, otherwise: str | None = None
) -> None:
    """Stop all processes when one of them has a problem, and keep the last good checkpoint.

    Args:
        trainer: Its checkpoints are not to be replaced by one of the failure, which would count
            the batch as done.
        step: Optimiser steps taken so far.
        problem: What is wrong in this process, and what to do; None when nothing is.
        otherwise: What is wrong if no process knows better; None when nothing is.

    Raises:
        NotFinite: If there is a problem.
    """
    found = [text for text in gather(problem, "looking for values that are not finite") if text]
    reason = found[0] if found else otherwise
    if reason is None:
        return
    leave_checkpoints(trainer)
    raise NotFinite(
        f"Stopped at optimiser step {step + 1}: {reason} That step changed no weight, and no "
        "checkpoint was written."
    )


def within_memory(training_step: Step) -> Step:
    """Let a training step that runs out of memory leave the last good checkpoint as it is.

    A checkpoint of the failure would count the batch as done, and may hold the weights of half
    an update.

    Args:
        training_step: Method of a LightningModule; raises `OutOfMemory` in place of what torch
            or Python raises.
    """

    @wraps(training_step)
    def guarded(module: Any, *args: Any, **kwargs: Any) -> None:
        step = module.global_step + 1
        try:
            training_step(module, *args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if not ran_out_of_memory(error):
                raise
            leave_checkpoints(module.trainer)
            when = f"At optimiser step {step}, of which no checkpoint was written"
            raise OutOfMemory(error, when) from error

    return guarded  # type: ignore[return-value]


def named(question: Question) -> str:
    """Return how a question is called in messages."""
    return f"question {question.uid} ({question.task}, {question.source_id or 'unknown source'})"


def leave_checkpoints(trainer: Trainer) -> None:
    """Let no checkpoint be written because the run stops."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.save_on_exception = False
