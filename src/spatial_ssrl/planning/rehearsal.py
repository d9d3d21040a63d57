"""Rehearsing a training step on ghosts: the real code at its most demanding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spatial_ssrl.core.batches import PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.planning import parts
from spatial_ssrl.planning.ghosts import Ghosts
from spatial_ssrl.planning.ledger import Ledger, Peak
from spatial_ssrl.planning.script import STEPS, Scripted, first_passes, parting_tokens
from spatial_ssrl.planning.source import GhostSource, ready_bitsandbytes
from spatial_ssrl.policies.attention_parts import as_on_other_devices
from spatial_ssrl.policies.base import ReadState
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.rollout.parts import parts as divided
from spatial_ssrl.training import PolicyModule, RLModule
from spatial_ssrl.training.parts import Part, parts_of
from spatial_ssrl.training.update_loss import UpdateLoss
from spatial_ssrl.training.updates import score_in_micro_batches

SAMPLING, UPDATE = "sampling", "update"


@dataclass(frozen=True, slots=True)
class Step:
    """How large a training step is, in one process.

    Args:
        questions: Questions of the batch.
        group_size: Completions of each.
        completion: Tokens of the longest completion, at least 1.
        micro_batch: Questions in one forward and backward pass.
        micro_batch_tokens: Most tokens of such a pass; None for no limit.
        batch_tokens: Most tokens kept at once while sampling; None for no limit.
    """

    questions: int
    group_size: int
    completion: int
    micro_batch: int
    micro_batch_tokens: int | None = None
    batch_tokens: int | None = None


class Rehearsal:
    """A training run whose model and optimiser take no memory.

    Args:
        module: The run, its policy not loaded; it is left as it is.
        source: The model's configuration and processor; None for a policy that is built from
            its own settings.
        granularity: See `Ledger`.
        cuda: Whether to do as on CUDA, where optimisers update all tensors at once and attention
            reads prompts and rows as one.
        known: See `Ghosts`.
    """

    def __init__(
        self,
        module: PolicyModule,
        source: GhostSource | None,
        granularity: int = 1,
        cuda: bool = False,
        known: dict[Any, Any] | None = None,
    ) -> None:
        self._device = as_on_other_devices if cuda else nullcontext
        self.ledger = Ledger(granularity)
        self.ghosts = Ghosts(self.ledger, known)
        self.module = unloaded_twin(module)
        self._states: list[Tensor] = []
        policy = self.module.policy
        if not isinstance(policy, HFVisionLanguagePolicy):
            raise TypeError(f"{type(policy).__name__} is not a transformers model.")
        self.policy = policy
        if policy.quantization is not None:
            ready_bitsandbytes()
        if source is not None:
            policy._source = lambda: source  # type: ignore[method-assign]
        with self.ghosts:
            policy.load()
            policy.train(not isinstance(self.module, RLModule))
            self.stage = parts.Stage(policy, self.ledger)
            if isinstance(self.module, RLModule) and self.module.algorithm.needs_reference:
                self.stage.enter("reference", parts.REFERENCE)
                with policy.reference():  # Fixed as training starts.
                    pass
                for tensor in policy._reference.kept.values() if policy.reference_on_host else ():
                    self.ledger.leave_out(tensor)
            self.stage.enter("optimiser", parts.OPTIMISER)
            self.optimizer = self._optimizer(cuda)
            self._take_step()

    @property
    def samples(self) -> bool:
        """Whether the run samples in its own process."""
        rollout = getattr(self.module, "rollout", None)
        return isinstance(self.module, RLModule) and isinstance(rollout, InProcess)

    def sample(self, prompt: PromptBatch, step: Step) -> dict[str, Peak]:
        """Return the peak of each moment of sampling; arguments as in `update`."""
        with self.ghosts, self._device():
            self._sample(self._batch(prompt, step), step)
            return self._moments()

    def update(self, prompt: PromptBatch, step: Step) -> dict[str, Peak]:
        """Return the peak of each moment of an update, the scores of the reference included.

        Args:
            prompt: The largest question, alone.
            step: How many of them, and what becomes of them.
        """
        if self.samples:  # There since they were sampled from, whether that was rehearsed or not.
            with self.ledger.during(parts.LANGUAGE):
                self.ledger.watch(prompt.input_ids)
        with self.ghosts, self._device():
            prompts = self._batch(prompt, step)
            if isinstance(self.module, RLModule):
                self._update(prompts, step)
            else:
                self._learn(prompts, step)
            del prompts
            return self._moments()

    def sampled_together(self, prompt: PromptBatch, step: Step) -> tuple[int, int]:
        """Return how many questions are sampled at once, and how many completions of each."""
        once = self.policy.keeps_prompts_once
        few = _without_pictures(prompt, step.questions)
        part = next(divided(few, step.group_size, step.completion, step.batch_tokens, once))
        return len(part.questions), part.stop - part.first

    def tokens_kept(self, prompt: PromptBatch, step: Step, completions: int) -> int:
        """Return the tokens that sampling so many completions of one question keeps."""
        copies = 1 if self.policy.keeps_prompts_once else completions
        length = int(prompt.attention_mask.sum())
        return copies * length + completions * step.completion

    def tokens_read(self, prompt: PromptBatch, step: Step, completions: int) -> int:
        """Return the tokens that a pass over so many completions of one question reads."""
        length = int(prompt.attention_mask.sum())
        return self.policy.tokens_read([length], [[step.completion] * completions])

    def passes(self, prompt: PromptBatch, step: Step) -> tuple[tuple[int, int], ...]:
        """Return how many questions and completions each pass of an update holds.

        Steps that differ only in what leads to the same passes need the same memory.
        """
        few = _without_pictures(prompt, step.questions)
        learns = isinstance(self.module, RLModule)
        shape = (step.questions * step.group_size, step.completion)
        rollouts = self._rollouts(shape, step.group_size if learns else 1, logprobs=None)
        limits = step.micro_batch, step.micro_batch_tokens
        found = parts_of(self.policy, few, rollouts, range(step.questions), *limits)
        return tuple((len(part.questions), len(part.completions)) for part in found)

    def _batch(self, prompt: PromptBatch, step: Step) -> PromptBatch:
        # A run collates its questions at once: the one that is multiplied is not there besides.
        with self.ledger.unnoticed(), self.ledger.during(parts.PICTURES):
            vision = {name: self.ghosts.ghost(value) for name, value in prompt.vision.items()}
            prompts = replace(prompt, vision=vision)
            if step.questions > 1:
                prompts = self.policy.select(prompts, [0] * step.questions)
            del vision
        self.stage.enter("batch", parts.PICTURES)
        self.ledger.moments.clear()
        return prompts

    def _moments(self) -> dict[str, Peak]:
        self.ledger.enter("", parts.LANGUAGE)
        moments = dict(self.ledger.moments)
        moments.pop("", None)
        return moments

    # Sampling.

    def _sample(self, prompts: PromptBatch, step: Step) -> None:
        self.stage.enter(SAMPLING, parts.LANGUAGE)
        sampling = replace(self.module.sampling, max_new_tokens=min(step.completion, STEPS))
        engine = Scripted(self, step.batch_tokens, step.completion)
        with engine.skipping():
            engine.sample(self.policy, prompts, step.group_size, sampling, 0)

    def skip(self, state: ReadState, tokens: int) -> ReadState:
        """Return a state whose rows have said so many tokens more."""
        rows = len(state.position)
        with self.ledger.unnoticed(), self.ledger.during(parts.COMPLETION_CACHE):
            layers: list[Any] = state.cache.layers  # Any: a union, most of it without keys
            for index, layer in enumerate(layers):
                said = getattr(layer, "said_keys", None)
                keys, values = layer.keys if said is None else said, layer.values
                values = getattr(layer, "said_values", values)
                state.cache.update(
                    keys.new_empty(rows, keys.shape[1], tokens, keys.shape[3]),
                    values.new_empty(rows, values.shape[1], tokens, values.shape[3]),
                    index,
                )
            seen = torch.ones(rows, tokens, dtype=torch.bool)
            mask = torch.cat([state.mask, seen], dim=1)
        return replace(state, mask=mask, position=state.position + tokens)

    # Updating.

    def _update(self, prompts: PromptBatch, step: Step) -> None:
        assert isinstance(self.module, RLModule)
        module, shape = self.module, (step.questions * step.group_size, step.completion)
        self.stage.enter(UPDATE, parts.LANGUAGE)
        rollouts = self._rollouts(shape, step.group_size, logprobs=torch.zeros(shape))
        live = range(step.questions)
        limits = step.micro_batch, step.micro_batch_tokens
        share = list(live)[: -(-step.questions // module.update.mini_batches)]
        passes = list(parts_of(self.policy, prompts, rollouts, share, *limits))
        reference = torch.zeros(shape) if module.algorithm.needs_reference else None
        self._score(prompts, rollouts, passes[0], limits)
        scored = ScoredRollouts(
            rollouts=rollouts,
            verdicts=(),
            rewards=torch.zeros(step.questions, step.group_size),
            advantages=torch.zeros(shape),
            old_logprobs=torch.zeros(shape),
            ref_logprobs=reference,
        )
        settings = replace(
            module.update,
            micro_batch_size=step.micro_batch,
            micro_batch_tokens=step.micro_batch_tokens,
        )
        loss = UpdateLoss(
            self.policy,
            module.algorithm,
            module.sampling,
            settings,
            prompts,
            scored,
            frozenset(live),
        )
        self._accumulate(len(passes) > 1)
        losses = loss.parts(share, loss.normaliser(share))  # Holds its micro-batch meanwhile.
        self._backward(next(losses).loss)

    def _score(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        updated: Part,
        limits: tuple[int, int | None],
    ) -> None:
        """Rehearse scoring without gradient, but where an update surely needs more.

        A pass that learns holds all that one without gradient does, so scores matter only while
        the reference is there besides, or where scored passes are larger: a mini-batch may have
        fewer questions than a micro-batch.
        """
        module = self.module
        assert isinstance(module, RLModule)
        needs_reference = module.algorithm.needs_reference
        if not needs_reference and not module.scores_anew and self.samples:
            return
        questions, (size, tokens) = range(len(prompts.questions)), limits
        part = next(parts_of(self.policy, prompts, rollouts, questions, size, tokens))
        larger = len(part.completions) > len(updated.completions)
        before = self.ledger.total
        self.stage.enter(UPDATE, parts.REFERENCE)
        with (
            self.policy.reference() if needs_reference else nullcontext(),
            first_passes(self.policy),
        ):
            self.stage.enter(UPDATE, parts.LANGUAGE)
            if larger or self.ledger.total > before:
                score_in_micro_batches(
                    self.policy,
                    prompts,
                    rollouts,
                    part.questions,
                    size,
                    module.sampling,
                    tokens,
                )

    def _learn(self, prompts: PromptBatch, step: Step) -> None:
        """Rehearse a step of the cold start."""
        self.stage.enter(UPDATE, parts.LANGUAGE)
        given = self._rollouts((step.questions, step.completion), 1, logprobs=None)
        batch = replace(prompts, targets=given.tokens, target_mask=given.mask)
        limits = step.micro_batch, step.micro_batch_tokens
        passes = list(parts_of(self.policy, batch, given, range(step.questions), *limits))
        self._accumulate(len(passes) > 1)
        self._backward(self._loss_of(batch, passes[0].questions))

    def _loss_of(self, batch: PromptBatch, rows: list[int]) -> Tensor:
        part = self.policy.select(batch, rows)
        return -self.policy.logprobs(part, part.given_completions()).sum()

    def _rollouts(
        self, shape: tuple[int, int], group_size: int, logprobs: Tensor | None
    ) -> Rollouts:
        """Return completions of full length, all of them different if they can be."""
        rows = shape[0]
        tokens = torch.zeros(shape, dtype=torch.int64)
        for column in range(min(shape[1], STEPS)):
            tokens[:, column] = parting_tokens(self.policy, rows, column)
        return Rollouts(
            tokens=tokens,
            mask=torch.ones(shape, dtype=torch.bool),
            logprobs=logprobs,
            texts=("",) * rows,
            truncated=torch.ones(rows, dtype=torch.bool),
            group_size=group_size,
        )

    def _accumulate(self, several: bool) -> None:
        """Let gradients of earlier passes be there, if there are any."""
        self.stage.enter(UPDATE, parts.GRADIENTS)
        if several:
            for parameter in self.module.trainable_parameters():
                parameter.grad = torch.zeros_like(parameter)
        self.stage.enter(UPDATE, parts.LANGUAGE)

    def _backward(self, loss: Tensor) -> None:
        self.ledger.enter(f"{UPDATE}: back to the loss", parts.LOGITS)
        torch.autograd.backward(loss)
        del loss
        self.stage.enter(f"{UPDATE}: optimiser", parts.OPTIMISER)
        self._take_step()

    # The optimiser.

    def _optimizer(self, foreach: bool) -> Optimizer:
        optimizer = self.module._new_optimizer()
        for group in optimizer.param_groups:
            if foreach and group.get("foreach", False) is None and not group.get("fused"):
                group["foreach"] = True
        return optimizer

    def _take_step(self) -> None:
        trained = self.module.trainable_parameters()
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.ledger.assign(parameter.grad, parts.GRADIENTS)
        torch.nn.utils.clip_grad_norm_(trained, self.module.update.clip_norm)
        if type(self.optimizer).__module__.startswith("bitsandbytes"):
            self._states = self._states or _states_of_bitsandbytes(self.optimizer, trained)
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _states_of_bitsandbytes(optimizer: Any, trained: Sequence[Tensor]) -> list[Tensor]:
    """Return what an optimiser of bitsandbytes keeps; its own step would need a card.

    Small tensors keep their states in float32, the others in 8 bits with a scale for each block
    of 256 where the optimiser does so. Paged states are counted too: they are moved to the host
    only when the card is full.
    """
    from bitsandbytes.optim.optimizer import Optimizer2State

    settings, kept = optimizer.args, []
    for parameter in trained:
        for _ in range(2 if isinstance(optimizer, Optimizer2State) else 1):
            small = parameter.numel() < settings.min_8bit_size or settings.optim_bits == 32
            kept.append(torch.zeros_like(parameter, dtype=torch.float32 if small else torch.uint8))
            if not small:
                kept.append(torch.zeros(-(-parameter.numel() // 256)))
    return kept


def unloaded_twin(module: PolicyModule) -> PolicyModule:
    """Return a run of the same settings, whose policy may be loaded in place of the other's."""
    if any(True for _ in module.policy.parameters()):
        raise ValueError("the policy is loaded already; plan before that.")
    module, policy = copy.copy(module), copy.copy(module.policy)
    for twin in (module, policy):
        for name in ("_modules", "_parameters", "_buffers"):
            vars(twin)[name] = dict(vars(twin)[name])
    module.policy = policy
    return module


def _without_pictures(prompt: PromptBatch, questions: int) -> PromptBatch:
    """Return a batch of one question many times, to be divided only."""
    return PromptBatch(
        input_ids=prompt.input_ids.expand(questions, -1),
        attention_mask=prompt.attention_mask.expand(questions, -1),
        vision={},
        questions=prompt.questions * questions,
    )
