"""What every policy gradient here shares: from log-probabilities to a loss, piece by piece."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from spatial_ssrl.algorithms import aggregation as sums
from spatial_ssrl.algorithms.advantages import overlong_penalty
from spatial_ssrl.algorithms.base import Algorithm
from spatial_ssrl.algorithms.correction import correction_weights, off_policy
from spatial_ssrl.algorithms.kl import divergence, k3_divergence
from spatial_ssrl.algorithms.losses import Surrogate, clipped, levelled, log_ratio
from spatial_ssrl.algorithms.settings import (
    AggregationSettings,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    OverlongSettings,
    RatioSettings,
)
from spatial_ssrl.core.batches import Feedback, LossInputs, LossOutput
from spatial_ssrl.core.errors import ConfigError

_NARROW = 0.01  # bounds below which rounding alone may clip


class PolicyGradient(Algorithm):
    """A surrogate loss of tokens, corrected, with a divergence term, made one number.

    Subclasses say what the advantages and the surrogate are. The loss of a token is its
    surrogate, times the correction for the sampler, plus the divergence; `aggregation` adds
    them up.

    Args:
        kl_coefficient: Weight of the divergence from the policy as RL began, 0 or more; at 0
            the reference is never scored.
        ratio: How the ratio of new to old probabilities is formed.
        kl: Estimator of the divergence and where it acts.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        if kl_coefficient < 0:
            raise ConfigError(
                f"kl_coefficient must be 0 (no reference) or more, got {kl_coefficient}."
            )
        self.kl_coefficient = kl_coefficient
        self.ratio = ratio
        self.kl = kl
        self.aggregation = aggregation
        self.correction = correction
        self.overlong = overlong

    @property
    def needs_reference(self) -> bool:
        """Whether the loss or the reward has a divergence term."""
        return self.kl_coefficient > 0

    @property
    def needs_old_scores(self) -> bool:
        """Whether a correction compares policy and sampler, or a ratio adds up what they differ by.

        At 0.02 a token, as in bfloat16, 500 tokens differ by 0.4 together.
        """
        return self.correction.active or self.ratio.level == "sequence_product"

    @property
    def correction_in_ratio(self) -> bool:
        """Whether `surrogate` itself heeds the weights of the correction."""
        return False

    @property
    def kl_in_reward(self) -> bool:
        """Whether the divergence is taken from the reward."""
        return self.needs_reference and self.kl.place == "reward"

    @abstractmethod
    def estimate(self, feedback: Feedback) -> Tensor:
        """Return the advantage of each token, shape (N, C), anything on padding.

        Args:
            feedback: Its rewards already hold the penalty of long completions.
        """

    @abstractmethod
    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the surrogate loss of each token.

        Args:
            log_ratios: log(new / old) at the level of `ratio`, shape (n, C).
            inputs: What `loss` was given; log-probabilities and advantages are 0 on padding.
        """

    def check(self, group_size: int, weights: Mapping[str, float]) -> None:
        """Accept every run; subclasses that compare completions refuse groups of one."""

    def has_signal(self, feedback: Feedback) -> Tensor:
        """Return the questions with an advantage other than 0, shape (B,), bool.

        The divergence is left out: with it no two rewards would be the same.
        """
        plain = copy(self)
        plain.kl_coefficient = 0.0
        return (plain._advantages(feedback) != 0).view(len(feedback.rewards), -1).any(dim=1)

    def shaped(self, rewards: Tensor, lengths: Tensor) -> Tensor:
        """Return rewards less the penalty of long completions, of the same shape."""
        if self.overlong.limit is None:
            return rewards
        penalty = overlong_penalty(lengths, self.overlong.limit, self.overlong.tokens)
        return rewards + self.overlong.weight * penalty

    def advantages(self, feedback: Feedback) -> Tensor:
        """Return the advantage of each token, shape (N, C), 0 on padding."""
        return self._advantages(feedback)

    def _advantages(self, feedback: Feedback) -> Tensor:
        mask = feedback.mask
        lengths = mask.sum(dim=1).view_as(feedback.rewards)
        shaped = replace(feedback, rewards=self.shaped(feedback.rewards, lengths))
        values = self.estimate(shaped)
        if self.overlong.ignore_truncated and feedback.truncated is not None:
            mask = mask & ~feedback.truncated.unsqueeze(1)
        return torch.where(mask, values, torch.zeros_like(values))

    def completion_rewards(self, feedback: Feedback) -> Tensor:
        """Return rewards less what the divergence takes from them, shape (B, G)."""
        if not self.kl_in_reward:
            return feedback.rewards
        return feedback.rewards - self.kl_penalty(feedback).sum(dim=1).view_as(feedback.rewards)

    def kl_penalty(self, feedback: Feedback) -> Tensor:
        """Return what the divergence takes from the reward of each token, shape (N, C)."""
        if not self.kl_in_reward:
            return torch.zeros(
                feedback.mask.shape, dtype=feedback.rewards.dtype, device=feedback.mask.device
            )
        if feedback.old_logprobs is None or feedback.ref_logprobs is None:
            raise ValueError("The divergence in the reward needs old_logprobs and ref_logprobs.")
        found = divergence(feedback.old_logprobs, feedback.ref_logprobs, feedback.mask, self.kl)
        return self.kl_coefficient * found

    def loss(self, inputs: LossInputs, normaliser: float) -> LossOutput:
        """Return the loss of some completions of an update; arguments as in the base class.

        `stats` holds sums over tokens: `tokens`; `clipped` with its parts `clipped_low` and
        `clipped_high`, tokens whose ratio met a bound; `ratio`; `old_kl` (k3 against the
        weights that sampled); `surprisal` (minus the log-probability of what was sampled, whose
        mean estimates the entropy); where the sampler noted log-probabilities, `sampler_kl` (k3
        against them); with a reference, `kl`; with a correction, `correction` (its weights) and
        `corrected` (tokens truncated or masked).
        """
        inputs = _without_padding(inputs)
        mask = inputs.mask
        steps = log_ratio(inputs.logprobs, inputs.old_logprobs, mask)
        log_ratios = levelled(steps, mask, self.ratio)
        surrogate = self.surrogate(log_ratios, inputs)
        per_token = surrogate.loss
        stats = _statistics(inputs, log_ratios, surrogate)
        if self.correction.active:
            weights, corrected = self.correction_of(inputs)
            per_token = per_token if self.correction_in_ratio else per_token * weights
            stats |= {"correction": (weights * mask).sum(), "corrected": corrected.sum()}
        if self.correction.off_policy is not None:
            far = self._far_from_the_sampler(inputs, self.correction.off_policy)
            per_token = per_token.masked_fill(far, 0)
            stats["off_policy"] = far.sum()
        if self.needs_reference:
            if inputs.ref_logprobs is None:
                raise ValueError("kl_coefficient is above 0, so the loss needs ref_logprobs.")
            found = divergence(inputs.logprobs, inputs.ref_logprobs, mask, self.kl)
            stats["kl"] = found.sum().detach()
            if self.kl.place == "loss":
                weighted = found * log_ratios.exp() if self.kl.ratio_weighted else found
                per_token = per_token + self.kl_coefficient * weighted
        return LossOutput(sums.aggregate(per_token, mask, normaliser, self.aggregation), stats)

    def correction_of(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Return the weights of the correction, and where its bounds acted, both (n, C).

        Raises:
            ValueError: If the sampler noted no log-probabilities.
        """
        if inputs.sampling_logprobs is None:
            raise ValueError(
                "correction compares the policy with the sampler, but the rollout engine keeps no "
                'log-probabilities; set correction.level to "none".'
            )
        return correction_weights(
            inputs.old_logprobs, inputs.sampling_logprobs, inputs.mask, self.correction
        )

    def _far_from_the_sampler(self, inputs: LossInputs, limit: float) -> Tensor:
        noted = inputs.sampling_logprobs
        sampled = inputs.old_logprobs if noted is None else noted
        return off_policy(inputs.logprobs, sampled, inputs.advantages, inputs.mask, limit)

    def normaliser(self, lengths: Tensor) -> float:
        """Return what the loss of the whole update divides by, as `aggregation` says."""
        return sums.normaliser(lengths, self.aggregation)


class ClippedPolicyGradient(PolicyGradient):
    """A policy gradient with the clipped surrogate of PPO.

    Args:
        kl_coefficient: As in `PolicyGradient`, like all others but `clip`.
        clip: Bounds of the ratio.
        ratio: How the ratio is formed.
        kl: Estimator of the divergence and where it acts.
        aggregation: How the losses of tokens become one number.
        correction: What is done where the sampler computes otherwise than the policy.
        overlong: What becomes of completions that are too long.
    """

    def __init__(
        self,
        kl_coefficient: float = 0.0,
        clip: ClipSettings = ClipSettings(),  # noqa: B008
        ratio: RatioSettings = RatioSettings(),  # noqa: B008
        kl: KLSettings = KLSettings(),  # noqa: B008
        aggregation: AggregationSettings = AggregationSettings(),  # noqa: B008
        correction: CorrectionSettings = CorrectionSettings(),  # noqa: B008
        overlong: OverlongSettings = OverlongSettings(),  # noqa: B008
    ) -> None:
        super().__init__(kl_coefficient, ratio, kl, aggregation, correction, overlong)
        self.clip = clip

    @property
    def needs_old_scores(self) -> bool:
        """Also where bounds are narrower than what sampler and policy differ by in bfloat16."""
        return super().needs_old_scores or min(self.clip.low, self.clip.above) < _NARROW

    def surrogate(self, log_ratios: Tensor, inputs: LossInputs) -> Surrogate:
        """Return the clipped surrogate; arguments as in the base class."""
        return clipped(log_ratios, inputs.advantages, self.clip)


def per_token(values: Tensor, mask: Tensor) -> Tensor:
    """Give each token the value of its completion: shape (B, G) to (N, C)."""
    return values.flatten().unsqueeze(1).expand(mask.shape)


def at_last_token(values: Tensor, mask: Tensor) -> Tensor:
    """Put the value of each completion on its last token: shape (B, G) to (N, C)."""
    lengths = mask.sum(dim=1, keepdim=True)
    last = torch.arange(mask.shape[1], device=mask.device) == lengths - 1
    return torch.where(last, values.flatten().unsqueeze(1), torch.zeros_like(values[:1, :1]))


def refuse_groups_of_one(group_size: int) -> None:
    """Raise `ConfigError` unless completions of one question can be compared."""
    if group_size < 2:
        raise ConfigError(
            f"group_size is {group_size}, but advantages compare the completions of one "
            "question with each other; set group_size to 2 or more."
        )


def _without_padding(inputs: LossInputs) -> LossInputs:
    """Return the inputs with 0 on padding where a loss reads them without their mask."""

    def clean(values: Tensor) -> Tensor:
        return torch.where(inputs.mask, values, torch.zeros_like(values))

    return replace(inputs, logprobs=clean(inputs.logprobs), advantages=clean(inputs.advantages))


def _statistics(inputs: LossInputs, log_ratios: Tensor, surrogate: Surrogate) -> dict[str, Tensor]:
    mask, logprobs = inputs.mask, inputs.logprobs.detach()
    low, high = (surrogate.low & mask).sum(), (surrogate.high & mask).sum()
    noted = {}
    if inputs.sampling_logprobs is not None:
        known = mask & ~inputs.sampling_logprobs.isnan()
        noted = {"sampler_kl": k3_divergence(logprobs, inputs.sampling_logprobs, known).sum()}
    return noted | {
        "tokens": mask.sum(),
        "clipped": low + high,
        "clipped_low": low,
        "clipped_high": high,
        "ratio": (log_ratios.detach().exp() * mask).sum(),
        "old_kl": k3_divergence(logprobs, inputs.old_logprobs, mask).sum(),
        "surprisal": -(logprobs * mask).sum(),
    }
