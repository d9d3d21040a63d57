"""The self-check at the start of a fit: what would silently go wrong stops the run instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import SelfCheckFailed
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.policies.repeated import repeated_logprobs
from spatial_ssrl.training.agreement import Tolerance, distances, tolerance
from spatial_ssrl.training.distributed import gather
from spatial_ssrl.training.failures import leave_checkpoints
from spatial_ssrl.training.gradient_audit import GradientAudit, trainable_report
from spatial_ssrl.training.probe import Probe, make_probe, named

if TYPE_CHECKING:
    from spatial_ssrl.training.module import PolicyModule

_DOING = "checking themselves"
_SKIP = "update.self_check: false skips this check."


class SelfCheck(Callback):
    """Tries the policy on a few questions before the first step; watches the first gradients.

    On the first batch, in evaluation mode and without gradient: the prompts' placeholders match
    their pictures; a question scored alone and in a batch gets the same log-probabilities; so does
    scoring that reads a prompt once for its group, else the policy scores by repeated forwards from
    now on; so does sampling. After the first steps: all that is trained had a gradient.

    Weights, optimiser, modes, random state and the order of questions stay as they are. A resumed
    run is not checked again: it goes on as the checked one would have.
    """

    def __init__(self) -> None:
        self._due = False
        self._probe: Probe | None = None
        self._audit: GradientAudit | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Get ready, unless the run goes on from a checkpoint."""
        module = _checked(pl_module)
        self._due = trainer.global_step == 0
        self._audit = GradientAudit(module.policy) if self._due else None
        rank_zero_info(trainable_report(module.policy))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check scoring and sampling on the first batch."""
        if self._due:
            self._due = False
            self._probe = check_scoring(_checked(pl_module), batch)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note which tensors have a gradient."""
        if self._audit is not None:
            self._audit.look()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge the gradients once there were enough."""
        if self._audit is None or not self._audit.is_complete or self._probe is None:
            return
        audit, probe, module = self._audit, self._probe, _checked(pl_module)
        self._audit = self._probe = None
        failure, line = None, ""
        with untouched(module):
            try:
                line = audit.verdict(lambda: _scored(module.policy, probe))
            except SelfCheckFailed as error:
                failure = error
        _agree(trainer, failure)
        rank_zero_info(line)


def check_scoring(module: PolicyModule, batch: PromptBatch) -> Probe:
    """Make sure that all ways to the same log-probabilities agree, on some questions of a batch.

    Of several processes each tries its own questions; all of them go on, or none does.

    Args:
        module: A module in training; its policy scores by repeated forwards afterwards if sharing
            a prompt changes log-probabilities.
        batch: The batch; left as it is.

    Returns:
        What it was tried on.

    Raises:
        SelfCheckFailed: If two ways disagree; says which, where, by how much and what to do.
    """
    policy = module.policy
    failure, trial = None, None
    with untouched(module):
        try:
            trial = _Trial(policy, make_probe(module, batch))
            unlike = trial.sharing_fault() if policy.shares_prompts else None
        except SelfCheckFailed as error:
            failure, unlike = error, None
        faults = [text for text in gather(unlike, _DOING) if text is not None]
        if faults:
            policy.shares_prompts = False
            rank_zero_info(
                "Self-check: this model scores otherwise when completions share their prompt: "
                f"{faults[0]} It is scored by repeated forwards from now on, which takes longer."
            )
        try:
            if trial is not None:
                if not policy.shares_prompts:
                    trial.check_scoring()
                trial.check_sampling()
        except SelfCheckFailed as error:
            failure = error
    _agree(module.trainer, failure)
    assert trial is not None
    return trial.probe


def _agree(trainer: Trainer, failure: SelfCheckFailed | None) -> None:
    """Stop all processes if the check failed in one of them."""
    found = [text for text in gather(failure and str(failure), _DOING) if text is not None]
    if found:
        leave_checkpoints(trainer)  # One written now would be resumed from without a check.
        raise SelfCheckFailed(found[0]) from failure


class _Trial:
    """Log-probabilities of a probe, computed in several ways.

    Raises:
        SelfCheckFailed: If what a question gets depends on the questions it is scored with.
    """

    def __init__(self, policy: PolicyBackbone, probe: Probe) -> None:
        self.policy = policy
        self.probe = probe
        questions = range(len(probe.prompts))
        group = probe.rollouts.group_size
        self.alone = torch.cat([self._repeated([row], probe.rows_of(row)) for row in questions])
        singly = torch.cat([self._repeated([0], [row], 1) for row in probe.rows_of(0)])
        mask = probe.rollouts.mask[:group]
        spread = distances(singly, self.alone[:group], mask, group)
        self.tolerance = tolerance(policy, probe.prompts.input_ids.device, spread)
        together = self._repeated(list(questions), range(len(probe.rollouts)))
        fault = self._fault(together)
        if fault is None and not all(self.tolerance.allows(distance) for distance in spread):
            fault = self._fault(torch.cat([singly, self.alone[group:]]))
        if fault is not None:
            raise SelfCheckFailed(
                "Log-probabilities of a question depend on the size of the batch or on its left "
                f"padding: {fault} The model must take attention_mask and position_ids into "
                f"account, with every kind of attention. {_SKIP}"
            )

    def sharing_fault(self) -> str | None:
        """Return by how much scoring with a shared prompt is off, or None if it is not."""
        return self._fault(_scored(self.policy, self.probe))

    def check_scoring(self) -> None:
        """Compare scoring as training will do it with what is right.

        Raises:
            SelfCheckFailed: If it differs.
        """
        if (fault := self.sharing_fault()) is not None:
            raise SelfCheckFailed(
                "Log-probabilities of completions differ from those of a plain forward of prompt "
                f"and completion: {fault} The policy's logprobs() must be mended. {_SKIP}"
            )

    def check_sampling(self) -> None:
        """Compare what sampling kept, if it kept anything, with what is right.

        Raises:
            SelfCheckFailed: If it differs.
        """
        kept = self.probe.rollouts.logprobs
        if kept is not None and (fault := self._fault(kept)) is not None:
            raise SelfCheckFailed(
                f"Log-probabilities kept while sampling differ from those scored: {fault} The "
                "rollout engine samples from other weights, positions or sampling settings than "
                f"training assumes; an engine of its own must hold the current adapter. {_SKIP}"
            )

    def _repeated(
        self, questions: list[int], rows: range | list[int], group_size: int | None = None
    ) -> Tensor:
        """Return log-probabilities of some rows, each read with a prompt of its own."""
        group = group_size or self.probe.rollouts.group_size
        sampling = self.probe.sampling
        prompts = self.policy.select(self.probe.prompts, questions)
        completions = self.probe.completions(list(rows), group)
        if isinstance(self.policy, HFVisionLanguagePolicy):
            return repeated_logprobs(self.policy, prompts, completions, sampling)
        # Another kind of policy: its own scoring, without anything to share.
        copies = [question for question in range(len(questions)) for _ in range(group)]
        prompts = self.policy.select(prompts, copies)
        return self.policy.logprobs(prompts, self.probe.completions(list(rows), 1), sampling)

    def _fault(self, found: Tensor) -> str | None:
        """Return how far log-probabilities are from those of questions alone, if too far."""
        rollouts = self.probe.rollouts
        apart = distances(found, self.alone, rollouts.mask, rollouts.group_size)
        worst = max(range(len(apart)), key=lambda row: apart[row].mean)
        for row in (worst, *range(len(apart))):
            if not self.tolerance.allows(apart[row]):
                return self._described(row, apart[row].largest, apart[row].mean, self.tolerance)
        return None

    def _described(self, row: int, largest: float, mean: float, allowed: Tolerance) -> str:
        return (
            f"by up to {largest:.2g} nats (mean {mean:.2g}) on {named(self.probe.prompts, row)}, "
            f"where {allowed.largest:.2g} (mean {allowed.mean:.2g}) are allowed in "
            f"{allowed.precision}."
        )


def _scored(policy: PolicyBackbone, probe: Probe) -> Tensor:
    return policy.logprobs(probe.prompts, probe.rollouts, probe.sampling)


@contextmanager
def untouched(module: PolicyModule) -> Iterator[None]:
    """Try the policy inside and leave no trace: in evaluation mode, without gradient."""
    policy = module.policy
    modes, tokens = [(part, part.training) for part in policy.modules()], policy.tokens
    policy.eval()
    precision = module.trainer.precision_plugin
    try:
        with isolate_rng(), torch.no_grad(), precision.forward_context():
            yield
    finally:
        policy.tokens = tokens
        for part, training in modes:
            part.training = training


def _checked(module: LightningModule) -> PolicyModule:
    from spatial_ssrl.training.module import PolicyModule

    if not isinstance(module, PolicyModule):
        raise TypeError(f"SelfCheck serves RLModule and SFTModule, not {type(module).__name__}.")
    return module
