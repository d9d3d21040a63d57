"""One training step predicted by the planner and measured: for planner.py and a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measured_memory import ByLength, measure
from transformers import AutoConfig

from spatial_ssrl.algorithms import GRPO, Algorithm
from spatial_ssrl.core.questions import Question
from spatial_ssrl.planning import GhostSource, Prediction, Predictor, Step
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings
from spatial_ssrl.policies.quantization import QuantSettings
from spatial_ssrl.training import RLModule, UpdateSettings

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "lora": {"lora": LoraSettings(rank=16, target_modules="all-linear")},
    "qlora": {
        "lora": LoraSettings(rank=16, target_modules="all-linear"),
        "quantization": QuantSettings(),
    },
    "full": {},
}


def predicted_and_measured(
    model: Path,
    policy: dict[str, Any],
    step: Step,
    questions: Sequence[Question],
    scratch: Path,
    algorithm: Algorithm | None = None,
    mini_batches: int = 1,
) -> tuple[Prediction, dict[str, int]]:
    """Return the predicted peaks of a step, and the measured ones in bytes by stage.

    Args:
        model: Folder of the model and its processor.
        policy: Further settings of the policy, such as one of `ADAPTATIONS`.
        step: What is predicted; a run is made to take such a step.
        questions: As many as in the step, all of one length.
        scratch: Where the Trainer may write.
        algorithm: GRPO with a reference when None.
        mini_batches: Optimiser steps of an update.
    """

    def run() -> RLModule:
        torch.manual_seed(0)
        return RLModule(
            HFVisionLanguagePolicy(str(model), **policy),
            algorithm or GRPO(kl_coefficient=0.01),
            verifier=ByLength(),
            group_size=step.group_size,
            sampling=SamplingSettings(max_new_tokens=step.completion),
            update=UpdateSettings(
                micro_batch_size=step.micro_batch, mini_batches=mini_batches, self_check=False
            ),
        )

    module = run()
    source = GhostSource(
        str(model), config=AutoConfig.from_pretrained(model), processor=module.policy.processor
    )
    prompt = module.policy.collator()(questions[:1])
    predicted = Predictor(module, source).predict(prompt, step)
    end = module.policy.tokenizer.eos_token_id
    del prompt, module, source  # Or they would be measured too.
    return predicted, measure(run(), questions, scratch, end)
