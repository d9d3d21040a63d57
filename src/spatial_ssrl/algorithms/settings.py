"""The conventions an algorithm is put together from, each an option with a stated default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatial_ssrl.core.errors import ConfigError


@dataclass(frozen=True)
class RatioSettings:
    """How the probability ratio of new to old weights is formed.

    Args:
        level: "token": one ratio a token. "sequence_mean": the geometric mean of a completion's
            ratios, for each of its tokens (GSPO). "sequence_mean_token": the same value, but
            each token's gradient is its own (GSPO's token form). "sequence_product": the ratio
            of the whole completion (RLOO).
        log_min: Least log-ratio before it is exponentiated; None for no limit (verl: -20).
        log_max: Greatest log-ratio; None for no limit (verl: 20, or 10 in its GSPO).
    """

    level: Literal["token", "sequence_mean", "sequence_mean_token", "sequence_product"] = "token"
    log_min: float | None = None
    log_max: float | None = None


@dataclass(frozen=True)
class ClipSettings:
    """How far the ratio may move before a token stops being reinforced.

    Args:
        low: How far below 1, in (0, 1].
        high: How far above 1, above 0; None takes `low`. DAPO calls a larger one clip-higher.
        dual: Largest ratio that counts where the advantage is negative, at least 1 + `high`;
            None for no limit. verl's and EasyR1's `clip_ratio_c` (3) and TRL's `delta`.

    References:
        PPO, arXiv:1707.06347; dual clip, arXiv:1912.09729; clip-higher, arXiv:2503.14476.
    """

    low: float = 0.2
    high: float | None = None
    dual: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.low <= 1:
            raise ConfigError(f"clip.low must be in (0, 1], got {self.low}.")
        if self.high is not None and self.high <= 0:
            raise ConfigError(
                f"clip.high must be above 0, got {self.high}; leave it out to clip both ways alike."
            )
        if self.dual is not None and self.dual < 1 + self.above:
            raise ConfigError(
                f"clip.dual must be at least 1 + high = {1 + self.above}, got {self.dual}; "
                "usually 3."
            )

    @property
    def above(self) -> float:
        """How far above 1 the ratio may rise."""
        return self.low if self.high is None else self.high


@dataclass(frozen=True)
class KLSettings:
    """How the divergence from the reference is estimated and where it acts.

    With d = log(reference) - log(policy) of a token: k1 is -d, abs is |d|, k2 is d^2 / 2 and k3
    is exp(d) - d - 1.

    Args:
        estimator: "k1", "abs", "k2" or "k3".
        place: "loss" adds it to the loss of each token; "reward" takes it from the reward,
            measured between the weights that sampled and the reference.
        straight_through: Keep the value, but take the gradient of k2, the right one for the
            true divergence (verl's `k1+` and `k3+`).
        ratio_weighted: Multiply by the probability ratio, which makes the estimate unbiased
            off-policy and changes its gradient even on-policy (TRL's bias correction).
        clamp_input: d is kept in [-clamp_input, clamp_input]; None for no limit (verl: 20).
        clamp_output: The estimate is kept in [-clamp_output, clamp_output]; None for no limit
            (verl, OpenRLHF: 10).

    References:
        J. Schulman, "Approximating KL divergence" (2020); arXiv:2402.03300, equation 4.
    """

    estimator: Literal["k1", "abs", "k2", "k3"] = "k3"
    place: Literal["loss", "reward"] = "loss"
    straight_through: bool = False
    ratio_weighted: bool = False
    clamp_input: float | None = None
    clamp_output: float | None = None

    def __post_init__(self) -> None:
        for name in ("clamp_input", "clamp_output"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"kl.{name} must be above 0, got {value}; null for no limit.")
        if self.place == "reward" and (self.straight_through or self.ratio_weighted):
            raise ConfigError(
                'kl.place is "reward", where nothing has a gradient; leave out '
                "kl.straight_through and kl.ratio_weighted."
            )


@dataclass(frozen=True)
class AdvantageSettings:
    """How the rewards of a group become advantages.

    Args:
        eps: Added to standard deviations, above 0 (TRL 1e-4, verl and EasyR1 1e-6, OpenRLHF
            1e-9).
        bessel: Whether standard deviations divide by n - 1 instead of n.
        scale: What centred rewards are divided by: the standard deviation of the "group", of
            the whole "batch", or "none" (Dr. GRPO).
        baseline: What is taken off: the "mean" reward of the group, or the mean weighted by
            length ("length_weighted", OPO).
        singleton: Advantage of a completion alone in its group: "zero", or its "reward" (verl).
        parts: "sum": the weighted parts of the reward are added, then normalised.
            "normalise_each": each part is centred and divided by its spread in the group, the
            results are added by weight, and that is normalised over the batch (GDPO).
        parts_over: What the last step of "normalise_each" counts: each of the "completions"
            once (TRL, `eps` added to the standard deviation), or each of the "tokens" (verl,
            1e-8 added to the variance).

    References:
        OPO, arXiv:2505.23585; GDPO, arXiv:2601.05242.
    """

    eps: float = 1e-4
    bessel: bool = True
    scale: Literal["group", "batch", "none"] = "group"
    baseline: Literal["mean", "length_weighted"] = "mean"
    singleton: Literal["zero", "reward"] = "zero"
    parts: Literal["sum", "normalise_each"] = "sum"
    parts_over: Literal["completions", "tokens"] = "completions"

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"advantage.eps must be above 0, got {self.eps}; try 1e-4.")
        if self.parts_over == "tokens" and self.parts == "sum":
            raise ConfigError(
                'advantage.parts_over "tokens" goes with parts: "normalise_each"; leave it out.'
            )
        changed = (self.scale, self.baseline, self.singleton) != ("group", "mean", "zero")
        if self.parts == "normalise_each" and changed:
            raise ConfigError(
                'advantage.parts "normalise_each" fixes scale, baseline and singleton; leave them '
                "out."
            )


@dataclass(frozen=True)
class ReturnSettings:
    """How rewards of tokens become advantages of tokens.

    Args:
        gamma: Discount of what follows a token, in (0, 1].
        whiten: Whether to centre and scale returns over all tokens of the update.
        eps: Keeps a variance away from 0, above 0.
        eps_as: Whether `eps` is "added" to the variance (verl) or its "floor" (OpenRLHF).
        bessel: Whether the variance divides by n - 1 (verl) or n (OpenRLHF).
    """

    gamma: float = 1.0
    whiten: bool = True
    eps: float = 1e-8
    eps_as: Literal["added", "floor"] = "added"
    bessel: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ConfigError(f"returns.gamma must be in (0, 1], got {self.gamma}.")
        if self.eps <= 0:
            raise ConfigError(f"returns.eps must be above 0, got {self.eps}; try 1e-8.")


@dataclass(frozen=True)
class AggregationSettings:
    """How the losses of tokens become one number.

    Args:
        over: "token_mean": the mean over all tokens (DAPO). "sequence_mean": the mean of each
            completion, then over completions (GRPO). "sequence_sum": the sum of each, then the
            mean over completions. "fixed_length": as before, divided by `length` (Dr. GRPO).
            "token_sum": the sum over all tokens.
        scope: What the means are over: the whole "update", so that splitting it into
            micro-batches changes nothing, or each "micro_batch" (TRL's bnpo).
        count: Whether "all" completions count in a mean over completions, or only those that
            are "non_empty" (verl).
        length: Tokens that "fixed_length" divides by, such as the length limit of sampling;
            None takes the longest completion of the update.
    """

    over: Literal["token_mean", "sequence_mean", "sequence_sum", "fixed_length", "token_sum"] = (
        "sequence_mean"
    )
    scope: Literal["update", "micro_batch"] = "update"
    count: Literal["all", "non_empty"] = "all"
    length: int | None = None

    def __post_init__(self) -> None:
        if self.length is not None and (self.over != "fixed_length" or self.length < 1):
            raise ConfigError(
                f"aggregation.length ({self.length}) must be at least 1 and goes with over: "
                '"fixed_length".'
            )
        if self.scope == "micro_batch" and self.over == "token_sum":
            raise ConfigError(
                'aggregation.over "token_sum" has no mean to take within a micro-batch; use scope: '
                '"update".'
            )


@dataclass(frozen=True)
class CorrectionSettings:
    """How a loss is corrected where the sampler computes otherwise than the policy.

    Losses are multiplied by the ratio of the policy's probability to the sampler's, before any
    update. A token whose sampling log-probability is unknown (NaN) counts as ratio 1.

    Args:
        level: "none"; or the ratio of each "token", of the whole completion
            ("sequence_product"), or its geometric mean over tokens ("sequence_mean"). Products
            leave any bound quickly: at a gap of 0.005 a token, 500 tokens make 12.
        outside: What is done outside the bounds: "truncate" to them, or "mask" (weight 0).
        low: Lower bound, 0 or more; None for none.
        high: Upper bound; None for none.
        judged: The ratio compared with the bounds when masking; None takes `level`.
            OpenRLHF's `seq-mask-tis` weighs tokens but judges "sequence_mean".
        off_policy: Greatest mean of log(sampler / policy being trained) over a completion, in
            nats, above 0; tokens with a negative advantage of completions beyond it are left
            out, at every level. None for no limit (TRL's `off_policy_mask_threshold`).

    References:
        F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL" (2025);
        IcePop (token, mask), Ring-1T, arXiv:2510.18855; `off_policy`, DeepSeek-V3.2,
        arXiv:2512.02556, equation 9.
    """

    level: Literal["none", "token", "sequence_product", "sequence_mean"] = "none"
    outside: Literal["truncate", "mask"] = "truncate"
    low: float | None = None
    high: float | None = 2.0
    judged: Literal["token", "sequence_product", "sequence_mean"] | None = None
    off_policy: float | None = None

    def __post_init__(self) -> None:
        if self.off_policy is not None and self.off_policy <= 0:
            raise ConfigError(
                f"correction.off_policy must be above 0, got {self.off_policy}; try 0.5, or leave "
                "it out for no limit."
            )
        low, high = 0.0 if self.low is None else self.low, self.high
        if low < 0 or (high is not None and high <= low):
            raise ConfigError(
                f"correction bounds must satisfy 0 <= low < high, got {self.low} and {self.high}."
            )
        if self.judged is not None and self.outside != "mask":
            raise ConfigError('correction.judged goes with outside: "mask".')

    @property
    def active(self) -> bool:
        """Whether losses are weighted at all."""
        return self.level != "none"


@dataclass(frozen=True)
class OverlongSettings:
    """What becomes of completions that are too long.

    Args:
        limit: Length in tokens from which the penalty is whole, usually the length limit of
            sampling; None for no penalty.
        margin: Tokens before `limit` over which the penalty grows; None takes a fifth.
        weight: The whole penalty, taken from the reward, above 0.
        ignore_truncated: Whether completions cut by the length limit get advantage 0. They
            still count in the baseline and the normaliser.

    References:
        DAPO, arXiv:2503.14476, equation 13: limit 20,480, margin 4,096.
    """

    limit: int | None = None
    margin: int | None = None
    weight: float = 1.0
    ignore_truncated: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and not 1 <= self.tokens <= self.limit:
            raise ConfigError(
                f"overlong.margin must be from 1 to the limit of {self.limit} tokens, "
                f"got {self.tokens}."
            )
        if self.weight <= 0:
            raise ConfigError(
                f"overlong.weight must be above 0, got {self.weight}; leave out overlong.limit "
                "for no penalty."
            )

    @property
    def tokens(self) -> int:
        """Tokens over which the penalty grows."""
        limit = self.limit or 0
        return max(1, limit // 5) if self.margin is None else self.margin
