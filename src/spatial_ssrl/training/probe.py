"""A few questions and short completions to try a policy on, from a batch of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import SelfCheckFailed
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.collate import PLACEHOLDER
from spatial_ssrl.policies.sampling import SamplingSettings

if TYPE_CHECKING:
    from spatial_ssrl.training.module import PolicyModule

_QUESTIONS = 3
_GROUP = 2  # the smallest that shares its prompt
_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """What a policy is tried on.

    Args:
        prompts: B questions with different numbers of pictures and prompts of different length.
        rollouts: Their short completions, N rows.
        sampling: The distribution they were sampled from, or are scored under.
    """

    prompts: PromptBatch
    rollouts: Rollouts
    sampling: SamplingSettings

    def completions(self, rows: Sequence[int], group_size: int) -> Rollouts:
        """Return some completions, `group_size` a question, as wide as all of them."""
        index = torch.tensor(rows, device=self.rollouts.tokens.device)
        return replace(
            self.rollouts,
            tokens=self.rollouts.tokens[index],
            mask=self.rollouts.mask[index],
            logprobs=None,
            texts=tuple(self.rollouts.texts[row] for row in rows),
            truncated=self.rollouts.truncated[index],
            group_size=group_size,
        )

    def rows_of(self, question: int) -> range:
        """Return the rows of a question's completions."""
        group = self.rollouts.group_size
        return range(question * group, (question + 1) * group)


def make_probe(module: PolicyModule, batch: PromptBatch) -> Probe:
    """Return a few questions of a batch, with two sampled completions each or the given one.

    Args:
        module: The policy with its collator, rollout engine and sampling settings.
        batch: A batch of the run; left as it is.

    Raises:
        SelfCheckFailed: If pictures and media placeholders do not match.
    """
    prompts = module.collator()(varied(batch)).to(batch.input_ids.device)
    check_pictures(module.policy, prompts)
    if prompts.targets is None or prompts.target_mask is None:
        sampling = replace(
            module.sampling, max_new_tokens=min(_TOKENS, module.sampling.max_new_tokens)
        )
        seed = seed_for(module.seed, "self-check")
        rollouts = module.rollout.sample(module.policy, prompts, _GROUP, sampling, seed)
    else:
        sampling = SamplingSettings()  # Given answers are scored under the plain distribution.
        short = replace(
            prompts,
            targets=prompts.targets[:, :_TOKENS],
            target_mask=prompts.target_mask[:, :_TOKENS],
        )
        rollouts = short.given_completions()
    check_completions(module.policy, prompts, rollouts)
    return Probe(prompts, rollouts, sampling)


def varied(batch: PromptBatch) -> tuple[Question, ...]:
    """Return up to three questions of a batch, unlike in the number of pictures.

    When all have as many, one is joined by a copy of itself with fewer or more: padding and
    packing are only put to the test by prompts that differ.
    """
    lengths = batch.attention_mask.sum(dim=1).tolist()
    chosen: dict[int, Question] = {}
    for row in sorted(range(len(batch)), key=lambda row: lengths[row]):
        chosen.setdefault(len(batch.questions[row].images), batch.questions[row])
    questions = tuple(chosen.values())[:_QUESTIONS]
    return questions if len(questions) > 1 else (*questions, _companion(questions[0]))


def _companion(question: Question) -> Question:
    """Return a question with another number of pictures, if there are any, and another length."""
    before, *after = question.prompt.split(PLACEHOLDER)
    if len(question.images) > 1:
        return replace(
            question,
            uid=f"{question.uid} (first picture only)",
            images=question.images[:1],
            prompt=before + PLACEHOLDER + "".join(after),
        )
    return replace(
        question,
        uid=f"{question.uid} (asked twice)",
        images=question.images * 2,
        prompt=f"{question.prompt}\n{question.prompt}",
    )


def check_pictures(policy: PolicyBackbone, prompts: PromptBatch) -> None:
    """Let the policy read each prompt alone, where its placeholders must match its pictures.

    In a batch, one prompt's excess can make up for another's lack.

    Raises:
        SelfCheckFailed: If a prompt has pictures and no placeholder or the other way round, or if
            the model cannot read it.
    """
    for row in range(len(prompts)):
        count = int(_is_media(policy, prompts.input_ids[row]).sum())
        pictures = len(prompts.questions[row].images)
        if policy.media_token_ids and bool(count) != bool(pictures):
            raise SelfCheckFailed(
                f"The prompt of {named(prompts, row)} has {count} media placeholders; the "
                "processor must put some in for every picture, and none without."
            )
        try:
            policy.read(policy.select(prompts, [row]))
        except (ValueError, RuntimeError, LookupError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise SelfCheckFailed(
                f"The model cannot read {named(prompts, row)}, whose prompt has {count} media "
                f"placeholders: {str(error).splitlines()[0]} Processor and model must come from "
                "the same checkpoint, and nothing may cut a prompt short."
            ) from error


def check_completions(policy: PolicyBackbone, prompts: PromptBatch, rollouts: Rollouts) -> None:
    """Make sure that no completion holds a media placeholder.

    Raises:
        SelfCheckFailed: If one does; without its picture it would stop the run later on.
    """
    spoilt = (_is_media(policy, rollouts.tokens) & rollouts.mask).nonzero()
    if len(spoilt):
        row, place = spoilt[0].tolist()
        raise SelfCheckFailed(
            f"Completion {row % rollouts.group_size} of "
            f"{named(prompts, row // rollouts.group_size)} holds media placeholder "
            f"{int(rollouts.tokens[row, place])} as token {place}; the rollout engine must leave "
            "out policy.media_token_ids, and given answers must not spell one."
        )


def named(prompts: PromptBatch, row: int) -> str:
    """Return what a message calls a question: its uid, pictures and prompt length."""
    pictures = len(prompts.questions[row].images)
    tokens = int(prompts.attention_mask[row].sum())
    return (
        f"question {prompts.questions[row].uid} ({pictures} picture{'s' * (pictures != 1)}, "
        f"{tokens} prompt tokens)"
    )


def _is_media(policy: PolicyBackbone, tokens: Tensor) -> Tensor:
    return torch.isin(tokens, torch.tensor(policy.media_token_ids, device=tokens.device))
