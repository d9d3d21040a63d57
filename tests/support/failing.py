"""Parts that fail on purpose, named by tests in YAML."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import SamplingSettings, TinyVLM
from spatial_ssrl.rollout import InProcess
from support.tiny_training import DigitShare

FAR_TOO_MUCH = 10**15


def run_out(of: str) -> None:
    """Ask for more memory than any machine has, or raise what a GPU raises then."""
    if of == "host":
        np.empty(FAR_TOO_MUCH)
    elif of == "torch":
        torch.empty(FAR_TOO_MUCH)
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"
    )


class HungryRollout(InProcess):
    """Runs out of memory while it samples.

    Args:
        batch: Which batch it happens at, counted from 0.
        of: "device", "torch" or "host".
    """

    def __init__(self, batch: int, of: str = "torch") -> None:
        super().__init__()
        self.batch, self.of, self._seen = batch, of, 0

    def sample(self, *args: Any, **kwargs: Any) -> Rollouts:
        """Sample, or run out."""
        self._seen += 1
        if self._seen - 1 == self.batch:
            run_out(self.of)
        return super().sample(*args, **kwargs)


class HungryPolicy(TinyVLM):
    """Runs out of memory while it scores with gradients.

    Args:
        call: Which such call it happens at, counted from 0.
        of: "device", "torch" or "host".
        settings: As of `TinyVLM`.
    """

    def __init__(self, call: int, of: str = "torch", **settings: Any) -> None:
        super().__init__(**settings)
        self.call, self.of, self._seen = call, of, 0

    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> torch.Tensor:
        """Score, or run out."""
        self._seen += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self._seen - 1 == self.call:
            run_out(self.of)
        return super().logprobs(prompts, rollouts, sampling)


class NotANumberAt(DigitShare):
    """Judges like `DigitShare`, but says NaN once.

    Args:
        completion: Which completion gets it, counted from 0 in the order they are judged.
    """

    def __init__(self, completion: int) -> None:
        self.completion = completion
        self._seen = 0

    def score(self, text: str, question: Question) -> Verdict:
        """Return the share of digits, or NaN."""
        self._seen += 1
        if self._seen - 1 == self.completion:
            return Verdict(math.nan, {"accuracy": 0.0})
        return super().score(text, question)
