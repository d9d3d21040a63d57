"""The cold start: supervised learning of right answers, so that RL has something to sample."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.data.cold_start import Answers, ColdStartAnswers
from spatial_ssrl.policies.base import Collator, PolicyBackbone, Preparer
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.rollout.base import RolloutEngine
from spatial_ssrl.training import distributed
from spatial_ssrl.training.failures import bad_update, within_memory
from spatial_ssrl.training.module import PolicyModule
from spatial_ssrl.training.optimizers import SFT_RATES
from spatial_ssrl.training.parts import parts_of
from spatial_ssrl.training.settings import ScheduleSettings, UpdateSettings
from spatial_ssrl.verifiers.base import Verifier


class SFTModule(PolicyModule):
    """Teaches a policy to write right answers, by the cross-entropy of their tokens.

    A given answer is scored exactly as a sampled completion is, so that the cold start and
    RL share one path through the model.

    Args:
        policy: The policy to train.
        answers: "worked" answers with each task's reasoning, "plain" ones without, or a list
            of task keys: those get worked answers, the others plain ones.
        rollout: Samples answers to held-out questions; None lets the model do it in process.
        verifier: Judges them; None takes 0.9 accuracy and 0.1 format.
        sampling: Length limit of those answers.
        optimizer: Builds the optimiser from the trainable parameters; None takes AdamW with a
            learning rate of 1e-4 for adapters, 1e-5 for every weight of a pretrained model
            and 1e-3 from scratch (the sources are in `training/optimizers.py`).
        schedule: Course of the learning rate.
        update: Micro-batches and clipping; the rest is for RL.
        seed: Names the draws of dropout.
    """

    rates = SFT_RATES

    def __init__(
        self,
        policy: PolicyBackbone,
        answers: Answers = "worked",
        rollout: RolloutEngine | None = None,
        verifier: Verifier | None = None,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
        optimizer: OptimizerCallable | None = None,
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        update: UpdateSettings = UpdateSettings(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        super().__init__(policy, rollout, verifier, sampling, optimizer, schedule, update, seed)
        self.answer_of = ColdStartAnswers(answers)

    def collator(self) -> Collator:
        """Return a collator that adds each question's answer as the target."""
        return self.policy.collator(self.answer_of)

    def preparer(self) -> Preparer | None:
        """Return what fits each question, and its answer, to the policy."""
        return self.policy.preparer(self.answer_of, self.sampling.max_new_tokens)

    def on_train_start(self) -> None:
        """Let dropout and batch statistics work."""
        self.policy.train()

    @within_memory
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Take one optimiser step on the mean cross-entropy of the batch's answer tokens."""
        given = batch.given_completions()
        tokens = distributed.total(int(given.mask.sum()), "counting tokens")
        total = torch.zeros((), device=self.device)

        def loss_of(rows: list[int]) -> Tensor:
            """Return what some questions add to the mean loss of the batch."""
            part = self.policy.select(batch, rows)
            logprobs: Tensor = self.policy.logprobs(part, part.given_completions())
            return -logprobs.sum() / tokens

        def culprit() -> str | None:
            """Return which question spoils the update by itself, for the message that stops."""
            questions, rows = batch.questions, range(len(batch))
            with self.noise_of_step():
                return bad_update(
                    questions, rows, lambda row: iter([loss_of([row])]), self.trainable_parameters()
                )

        with self.noise_of_step():
            limits = self.update.micro_batch_size, self.update.micro_batch_tokens
            for part in parts_of(self.policy, batch, given, range(len(batch)), *limits):
                loss = loss_of(part.questions)
                self.manual_backward(loss)
                total += loss.detach()
        self.check_loss(total, culprit)
        distributed.average(self._batch_statistics())
        whole = distributed.total(float(total), "adding up losses")
        self.log_training({"loss": whole, **self.step_optimizer(culprit)})

    def _batch_statistics(self) -> list[Tensor]:
        """Return what forward passes in training move: processes see other questions each."""
        return [
            buffer
            for module in self.policy.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]
