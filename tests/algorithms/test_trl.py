"""Our losses and advantages against TRL's own code, run on random batches in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="TRL's own code is what losses are compared with")

from spatial_ssrl.algorithms import (
    CISPO,
    GMPO,
    GRPO,
    LUSPO,
    RLOO,
    SAPO,
    VESPO,
    AdvantageSettings,
    AggregationSettings,
    Algorithm,
    ClipSettings,
    CorrectionSettings,
    KLSettings,
    RatioSettings,
    grpo_preset,
)
from spatial_ssrl.core.batches import Feedback, LossInputs
from support.trl_loss import GMPOTrainer, grpo_advantages, grpo_loss, rloo_loss

DRAWS = 200
TOKENS = AggregationSettings(over="token_mean")
LOCAL = AggregationSettings(over="token_mean", scope="micro_batch")
FIXED = AggregationSettings(over="fixed_length", length=8)
SEQUENCE = RatioSettings(level="sequence_mean")
K3, WEIGHTED = KLSettings(), KLSettings(ratio_weighted=True)


def grpo(**settings: Any) -> GRPO:
    return GRPO(**({"kl_coefficient": 0.0} | settings))


def corrected(level: str, outside: str, low: float | None, high: float | None) -> GRPO:
    how = CorrectionSettings(level, outside, low, high)  # type: ignore[arg-type]
    return grpo(aggregation=TOKENS, correction=how)


def by_engine(mode: str, low: float | None = None, high: float | None = 1.3) -> dict[str, Any]:
    return {
        "use_vllm": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": low,
        "vllm_importance_sampling_clip_max": high,
    }


CASES: dict[str, tuple[Algorithm, dict[str, Any]]] = {
    "defaults": (grpo_preset("trl"), {}),
    "grpo": (grpo(), {"loss_type": "grpo"}),
    "bnpo": (grpo(aggregation=LOCAL), {"loss_type": "bnpo"}),
    "dr_grpo": (grpo(aggregation=FIXED), {"loss_type": "dr_grpo"}),
    "dapo": (grpo(clip=ClipSettings(high=0.28), aggregation=TOKENS), {"epsilon_high": 0.28}),
    "delta": (grpo(clip=ClipSettings(dual=1.5), aggregation=TOKENS), {"delta": 1.5}),
    "delta, sequence": (
        grpo(clip=ClipSettings(dual=1.2), ratio=SEQUENCE),
        {"delta": 1.2, "loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "gspo": (
        grpo(clip=ClipSettings(0.05, 0.1), ratio=SEQUENCE),
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.05,
            "epsilon_high": 0.1,
        },
    ),
    "gspo, tokens": (
        grpo(ratio=SEQUENCE, aggregation=TOKENS),
        {"importance_sampling_level": "sequence"},
    ),
    "cispo": (CISPO(bounds=(None, 1.5)), {"loss_type": "cispo", "epsilon_high": 1.5}),
    "cispo, sequence": (
        CISPO(bounds=(None, 1.1), ratio=SEQUENCE),
        {"loss_type": "cispo", "epsilon_high": 1.1, "importance_sampling_level": "sequence"},
    ),
    "sapo": (SAPO(), {"loss_type": "sapo"}),
    "sapo, sequence": (
        SAPO(temperatures=(2.0, 3.0), ratio=SEQUENCE),
        {
            "loss_type": "sapo",
            "sapo_temperature_pos": 2.0,
            "sapo_temperature_neg": 3.0,
            "importance_sampling_level": "sequence",
        },
    ),
    "luspo": (
        LUSPO(clip=ClipSettings(0.05, 0.1)),
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.05,
            "epsilon_high": 0.1,
        },
    ),
    "luspo, k3 weighted": (
        LUSPO(kl_coefficient=0.1, clip=ClipSettings(), kl=WEIGHTED),
        {"loss_type": "luspo", "importance_sampling_level": "sequence", "beta": 0.1},
    ),
    "vespo": (VESPO(), {"loss_type": "vespo"}),
    "vespo, other curves": (
        VESPO(positive=(1.0, 2.0), negative=(0.5, 4.0)),
        {
            "loss_type": "vespo",
            "vespo_k_pos": 1.0,
            "vespo_lambda_pos": 2.0,
            "vespo_k_neg": 0.5,
            "vespo_lambda_neg": 4.0,
        },
    ),
    "vespo, truncated": (
        VESPO(correction=CorrectionSettings("token", high=1.3)),
        {"loss_type": "vespo", **by_engine("token_truncate")},
    ),
    "vespo, masked": (
        VESPO(correction=CorrectionSettings("token", "mask", high=1.3)),
        {"loss_type": "vespo", **by_engine("token_mask")},
    ),
    "gmpo": (
        GMPO(),
        {"trainer_class": GMPOTrainer, "epsilon_low": 0.4, "epsilon_high": 0.4},
    ),
    "gmpo, narrow": (
        GMPO(kl_coefficient=0.1, log_bounds=(0.1, 0.2)),
        {"trainer_class": GMPOTrainer, "epsilon_low": 0.1, "epsilon_high": 0.2, "beta": 0.1},
    ),
    "off-policy": (
        grpo(correction=CorrectionSettings(off_policy=0.1)),
        {"loss_type": "grpo", "off_policy_mask_threshold": 0.1},
    ),
    "off-policy before the divergence": (
        GRPO(
            kl_coefficient=0.1,
            kl=WEIGHTED,
            correction=CorrectionSettings("token", "mask", high=1.3, off_policy=0.1),
        ),
        {
            "loss_type": "grpo",
            "beta": 0.1,
            "off_policy_mask_threshold": 0.1,
            **by_engine("token_mask"),
        },
    ),
    "k3": (
        grpo(kl_coefficient=0.1, kl=K3),
        {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False},
    ),
    "k3 weighted": (
        grpo(kl_coefficient=0.1, kl=WEIGHTED, aggregation=TOKENS),
        {"beta": 0.1},
    ),
    "k3 weighted, sequence": (
        grpo(kl_coefficient=0.1, kl=WEIGHTED, ratio=SEQUENCE),
        {"loss_type": "grpo", "beta": 0.1, "importance_sampling_level": "sequence"},
    ),
    "k3 with cispo": (
        CISPO(kl_coefficient=0.1, bounds=(None, 1.5), kl=WEIGHTED),
        {"loss_type": "cispo", "epsilon_high": 1.5, "beta": 0.1},
    ),
    "token truncate": (corrected("token", "truncate", None, 1.3), by_engine("token_truncate")),
    "token truncate both": (
        corrected("token", "truncate", 0.8, 1.3),
        by_engine("token_truncate", 0.8),
    ),
    "token mask": (corrected("token", "mask", 0.8, None), by_engine("token_mask", 0.8, None)),
    "sequence truncate": (
        corrected("sequence_product", "truncate", None, 1.3),
        by_engine("sequence_truncate"),
    ),
    "sequence mask": (
        corrected("sequence_product", "mask", 0.5, 3.0),
        by_engine("sequence_mask", 0.5, 3.0),
    ),
    "correction before the divergence": (
        GRPO(
            kl_coefficient=0.1,
            kl=WEIGHTED,
            correction=CorrectionSettings("token", "mask", high=1.3),
        ),
        {"loss_type": "grpo", "beta": 0.1, **by_engine("token_mask")},
    ),
}


def draw(seed: int) -> dict[str, Tensor]:
    """Return six completions of one to seven tokens, and what a loss reads of them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs = -normal(6, 7).abs()
    old = logprobs - 0.4 * normal(6, 7)
    sampling = old - 0.3 * normal(6, 7)
    sampling[torch.rand(6, 7, generator=generator) < 0.1] = torch.nan
    lengths = torch.randint(1, 8, (6, 1), generator=generator)
    return {
        "logprobs": logprobs,
        "old": old,
        "reference": old - 0.3 * normal(6, 7),
        "sampling": sampling,
        "mask": torch.arange(7) < lengths,
        "advantages": normal(6),
    }


def ours(algorithm: Algorithm, logprobs: Tensor, given: dict[str, Tensor], total: Tensor) -> Tensor:
    mask = given["mask"]
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=given["old"],
        ref_logprobs=given["reference"],
        sampling_logprobs=given["sampling"],
        advantages=given["advantages"][:, None] * mask,
        mask=mask,
    )
    return algorithm.loss(inputs, algorithm.normaliser(total.sum(1))).loss


def compare(loss: Tensor, theirs: Tensor, logprobs: Tensor) -> bool:
    """Check that loss and gradient agree; return whether there is a gradient."""
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
    gradients = [torch.autograd.grad(value, logprobs)[0] for value in (loss, theirs)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-6)
    return bool(gradients[0].any())


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_those_of_trl(case: str) -> None:
    algorithm, settings = CASES[case]
    moving = 0
    for seed in range(DRAWS):
        given = draw(seed)
        logprobs = given["logprobs"].requires_grad_()
        loss = ours(algorithm, logprobs, given, given["mask"])
        moving += compare(loss, grpo_loss(logprobs, given, **settings), logprobs)
    assert moving > DRAWS / 2


def test_rloo_equals_that_of_trl() -> None:
    algorithm = RLOO(kl_coefficient=0.0)
    moving = 0
    for seed in range(DRAWS):
        given = draw(seed)
        logprobs = given["logprobs"].requires_grad_()
        loss = ours(algorithm, logprobs, given, given["mask"])
        moving += compare(loss, rloo_loss(logprobs, given), logprobs)
    assert moving > DRAWS / 2


@pytest.mark.parametrize(
    "case", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo", "gmpo"]
)
def test_accumulated_micro_batches_equal_those_of_trl(case: str) -> None:
    algorithm, settings = CASES[case]
    moving = 0
    for seed in range(20):
        given = draw(seed)
        logprobs, mask = given["logprobs"].requires_grad_(), given["mask"]
        loss, theirs = logprobs.sum() * 0, logprobs.sum() * 0
        for rows in (slice(0, 3), slice(3, 6)):
            part = {name: value[rows] for name, value in given.items()}
            loss = loss + ours(algorithm, logprobs[rows], part, mask)
            part["tokens"] = mask.sum()
            steps = {"current_gradient_accumulation_steps": 2, "steps_per_generation": 2}
            theirs = theirs + grpo_loss(logprobs[rows], part, **settings, **steps)
        moving += compare(loss, theirs, logprobs)
    assert moving > 10


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_those_of_trl(scale: Any) -> None:
    algorithm = GRPO(advantage=AdvantageSettings(scale=scale))
    for seed in range(DRAWS):
        parts, weights = random_parts(seed)
        total = (parts.nan_to_num(nan=0.0) * weights[:, None, None]).sum(0)
        total[parts.isnan().all(0)] = torch.nan
        found = algorithm.advantages(feedback(total, parts, weights))
        theirs = grpo_advantages(rows(parts), weights, 4, scale, "sum_then_normalize")
        assert torch.allclose(
            found[:, 0], theirs, rtol=0, atol=1e-6
        )  # Their n / (n - 1) is float32.


def test_rewards_normalised_each_equal_those_of_trl() -> None:
    algorithm = GRPO(advantage=AdvantageSettings(parts="normalise_each"))
    for seed in range(DRAWS):
        parts, weights = random_parts(seed)
        total = torch.zeros(parts.shape[1:], dtype=torch.float64)
        found = algorithm.advantages(feedback(total, parts, weights))
        theirs = grpo_advantages(rows(parts), weights, 4, "group", "normalize_then_sum")
        assert torch.allclose(
            found[:, 0], theirs, rtol=0, atol=1e-6
        )  # Their n / (n - 1) is float32.


def random_parts(seed: int) -> tuple[Tensor, Tensor]:
    """Return two parts of the reward, shape (2, 3, 4), some unknown, and their weights."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randint(0, 4, (2, 3, 4), generator=generator).double() / 3
    parts[torch.rand(2, 3, 4, generator=generator) < 0.15] = torch.nan
    parts[:, :, :2] = parts[:, :, :2].nan_to_num(nan=0.5)  # TRL's spread of one value is NaN.
    return parts, torch.tensor([0.9, 0.1], dtype=torch.float64)


def rows(parts: Tensor) -> Tensor:
    return parts.flatten(1).T.contiguous()


def feedback(total: Tensor, parts: Tensor, weights: Tensor) -> Feedback:
    return Feedback(
        rewards=total,
        parts={"first": parts[0], "second": parts[1]},
        weights={"first": float(weights[0]), "second": float(weights[1])},
        mask=torch.ones(total.numel(), 1, dtype=torch.bool),
    )
