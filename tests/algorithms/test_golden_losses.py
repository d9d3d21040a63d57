"""Losses and gradients equal those that other libraries' own functions gave on the same data."""

from __future__ import annotations

import pytest

from spatial_ssrl.algorithms import (
    CISPO,
    GMPO,
    GPG,
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
)
from support.golden import loss_and_gradient

TRL, VERL, OPENRLHF = (AdvantageSettings(eps=eps) for eps in (1e-4, 1e-6, 1e-9))
SEQUENCES = AggregationSettings()
TOKENS = AggregationSettings(over="token_mean")
LOCAL_TOKENS = AggregationSettings(over="token_mean", scope="micro_batch")
SEQUENCE_SUM = AggregationSettings(over="sequence_sum", count="non_empty")
CLIP, WIDE, EASYR1 = ClipSettings(), ClipSettings(high=0.28), ClipSettings(high=0.3, dual=3.0)
NARROW, DUAL = ClipSettings(low=3e-4, high=4e-4), ClipSettings(dual=3.0)
LIMITS = RatioSettings(log_min=-20, log_max=20)
SEQUENCE = RatioSettings(level="sequence_mean")
SEQUENCE_TOKEN = RatioSettings(level="sequence_mean_token", log_max=10)


def fixed(length: int) -> AggregationSettings:
    return AggregationSettings(over="fixed_length", length=length)


def grpo(
    advantage: AdvantageSettings,
    clip: ClipSettings,
    aggregation: AggregationSettings,
    ratio: RatioSettings | None = None,
    **settings: object,
) -> GRPO:
    ratio = ratio or (LIMITS if advantage is not TRL else RatioSettings())
    given: dict[str, object] = {"kl_coefficient": 0.0}
    return GRPO(
        advantage=advantage,
        clip=clip,
        aggregation=aggregation,
        ratio=ratio,
        **(given | settings),  # type: ignore[arg-type]
    )


def corrected(
    advantage: AdvantageSettings,
    clip: ClipSettings,
    level: str,
    outside: str,
    low: float | None = None,
    judged: str | None = None,
) -> GRPO:
    correction = CorrectionSettings(level, outside, low, 1.3, judged)  # type: ignore[arg-type]
    return grpo(advantage, clip, TOKENS, correction=correction)


K3 = {"kl_coefficient": 0.04, "kl": KLSettings()}
BIAS_CORRECTED = {"kl_coefficient": 0.04, "kl": KLSettings(ratio_weighted=True)}
CASES: dict[str, tuple[Algorithm, float, float | None]] = {
    "trl grpo": (grpo(TRL, CLIP, SEQUENCES), 0.20423235, 0.32300472),
    "trl bnpo": (grpo(TRL, CLIP, LOCAL_TOKENS), -0.08289878, 0.27939269),
    "trl dr_grpo": (grpo(TRL, CLIP, fixed(8)), -0.03626822, 0.12223430),
    "trl dapo": (grpo(TRL, WIDE, TOKENS), -0.09819770, 0.27939269),
    "trl delta": (grpo(TRL, ClipSettings(high=0.28, dual=2), TOKENS), -0.21049173, 0.17019438),
    "trl k3": (grpo(TRL, CLIP, SEQUENCES, **K3), 0.21621347, 0.32655006),
    "trl k3 weighted": (grpo(TRL, CLIP, SEQUENCES, **BIAS_CORRECTED), 0.21614669, 0.33712001),
    "trl gspo narrow": (grpo(TRL, NARROW, SEQUENCES, SEQUENCE), 0.11197233, 0.19327865),
    "trl gspo": (grpo(TRL, CLIP, SEQUENCES, SEQUENCE), 0.04181861, 0.22591835),
    "trl cispo 5": (CISPO(bounds=(None, 5.0)), 0.23380158, 0.33262751),
    "trl cispo 1.2": (CISPO(bounds=(None, 1.2)), 0.24967573, 0.23095148),
    "trl sapo": (SAPO(), -0.01100105, 0.23701153),
    "trl luspo": (LUSPO(), -0.56748344, 0.62825253),
    "trl vespo": (VESPO(), 0.29593580, 0.14775870),
    "trl off-policy mask": (
        grpo(TRL, CLIP, SEQUENCES, correction=CorrectionSettings(off_policy=0.05)),
        -0.03737131,
        0.28813243,
    ),
    "trl token truncate": (corrected(TRL, WIDE, "token", "truncate"), -0.18685229, None),
    "trl token mask": (corrected(TRL, WIDE, "token", "mask"), -0.09593303, None),
    "trl sequence truncate": (
        corrected(TRL, WIDE, "sequence_product", "truncate"),
        -0.29207183,
        None,
    ),
    "trl sequence mask": (corrected(TRL, WIDE, "sequence_product", "mask"), -0.01803822, None),
    "trl rloo": (RLOO(), 0.30283734, None),
    "verl token-mean": (grpo(VERL, DUAL, TOKENS), -0.14058045, 0.17022661),
    "verl seq-mean-token-mean": (grpo(VERL, DUAL, SEQUENCES), 0.13699406, 0.19371026),
    "verl seq-mean-token-sum": (grpo(VERL, DUAL, SEQUENCE_SUM), -0.49203156, 0.59579313),
    "verl seq-mean-token-sum-norm": (grpo(VERL, DUAL, fixed(5)), -0.09840631, 0.11915863),
    "verl token-sum": (
        grpo(VERL, DUAL, AggregationSettings(over="token_sum")),
        -1.96812626,
        2.38317251,
    ),
    "verl clip-higher": (
        grpo(VERL, ClipSettings(high=0.28, dual=3.0), TOKENS),
        -0.15588226,
        0.17022661,
    ),
    "verl gspo narrow": (grpo(VERL, NARROW, SEQUENCES, SEQUENCE_TOKEN), 0.11199354, 0.19331525),
    "verl gspo": (grpo(VERL, CLIP, SEQUENCES, SEQUENCE_TOKEN), 0.04182653, 0.22596113),
    "verl sapo": (SAPO(advantage=VERL), -0.01100317, 0.23705641),
    "verl cispo": (CISPO(bounds=(0.8, 1.2), advantage=VERL), 0.25904591, 0.23953370),
    "verl cispo wide": (CISPO(bounds=(0.0, 5.0), advantage=VERL), 0.23384585, 0.33269050),
    "verl gpg": (GPG(advantage=VERL, made_up="none"), 0.25548561, 0.23145458),
    "verl geo_mean": (GMPO(log_bounds=(0.2, 0.2), advantage=VERL), 0.12622817, 0.21639783),
    "verl geo_mean wide": (GMPO(advantage=VERL), 0.07714995, 0.24326854),
    "easyr1 token": (grpo(VERL, EASYR1, TOKENS), -0.15970771, 0.17022661),
    "easyr1 seq": (grpo(VERL, EASYR1, SEQUENCES), 0.12264861, 0.19371026),
    "easyr1 gspo token": (grpo(VERL, CLIP, TOKENS, SEQUENCE), -0.22053236, 0.24528898),
    "easyr1 gspo seq": (grpo(VERL, CLIP, SEQUENCES, SEQUENCE), 0.04182653, 0.22596113),
    "easyr1 gspo_token token": (grpo(VERL, CLIP, TOKENS, SEQUENCE_TOKEN), -0.22053236, 0.24528898),
    "easyr1 cispo token": (CISPO(bounds=(0.8, 1.3), advantage=VERL), 0.27946522, 0.24788052),
    "easyr1 cispo seq": (
        CISPO(bounds=(0.8, 1.3), advantage=VERL, aggregation=SEQUENCES),
        -0.03126786,
        0.26228349,
    ),
    "easyr1 sapo token": (SAPO(advantage=VERL, aggregation=TOKENS), -0.53054704, 0.23806701),
    "easyr1 sapo seq": (SAPO(advantage=VERL), -0.01100317, 0.23705641),
    "openrlhf token": (grpo(OPENRLHF, CLIP, TOKENS), -0.08291464, 0.27944613),
    "openrlhf seq": (grpo(OPENRLHF, CLIP, SEQUENCES), 0.20427141, 0.32306650),
    "openrlhf dual": (grpo(OPENRLHF, DUAL, TOKENS), -0.14058072, 0.17022693),
    "openrlhf gspo": (grpo(OPENRLHF, CLIP, SEQUENCES, SEQUENCE), 0.04182661, 0.22596156),
    "openrlhf tis": (corrected(OPENRLHF, CLIP, "token", "truncate", 0.5), -0.15494416, 0.26279684),
    "openrlhf icepop": (corrected(OPENRLHF, CLIP, "token", "mask", 0.5), -0.11140915, 0.25946441),
    "openrlhf seq-mask-tis": (
        corrected(OPENRLHF, CLIP, "token", "mask", 0.5, "sequence_mean"),
        -0.24972729,
        0.25946441,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(case: str) -> None:
    algorithm, loss, norm = CASES[case]
    value, gradient = loss_and_gradient(algorithm)
    assert value == pytest.approx(loss, abs=1e-7)
    if norm is not None:
        assert gradient.norm().item() == pytest.approx(norm, abs=1e-7)
