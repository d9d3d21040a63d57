"""Advantages against values of other libraries, and against naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spatial_ssrl.algorithms import (
    DAPO,
    GPG,
    GRPO,
    RLOO,
    AdvantageSettings,
    OverlongSettings,
    PassAtK,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    ReMax,
    ReturnSettings,
)
from spatial_ssrl.algorithms.advantages import (
    batch_normalised,
    best_of_group,
    group_advantages,
    leave_one_out,
    normalised_parts,
    overlong_penalty,
    returns_to_go,
    whiten,
)
from spatial_ssrl.algorithms.policy_gradient import PolicyGradient
from support.golden import LOGPROBS, MASK, OLD, REFERENCE, REWARDS, feedback

NAN = math.nan
GOLDEN: dict[str, tuple[PolicyGradient, list[float]]] = {
    "trl group": (GRPO(), [0.956182177748, -0.764945742198, 0.764945742198, -0.956182177748]),
    "verl grpo": (
        GRPO(advantage=AdvantageSettings(eps=1e-6)),
        [0.95636324, -0.76509059, 0.76509059, -0.95636324],
    ),
    "no std": (GRPO(advantage=AdvantageSettings(scale="none")), [0.5, -0.4, 0.4, -0.5]),
    "verl rloo": (
        RLOO(kl_coefficient=0.0),
        [0.66666667, -0.53333333, 0.53333333, -0.66666667],
    ),
    "verl rf++": (
        ReinforcePlusPlus(kl_coefficient=0.0),
        [0.81267209, -1.19510601, 0.58958563, -1.41819247],
    ),
    "verl rf++-baseline": (
        ReinforcePlusPlusBaseline(),
        [0.81267209, -1.19510601, 0.58958563, -1.41819247],
    ),
    "verl opo": (
        GRPO(advantage=AdvantageSettings(scale="none", baseline="length_weighted")),
        [0.36428571, -0.53571429, 0.26428571, -0.63571429],
    ),
    "verl gpg": (
        GPG(made_up="reward"),
        [0.66666667, -0.53333333, 0.53333333, -0.66666667],  # theirs, in float32, are 2e-8 off
    ),
    "verl pass@k": (PassAtK(), [0.19127265, 0, 0, 0]),
    "verl remax": (ReMax(kl_coefficient=0.0), [0.75, -0.15, 0.65, -0.25]),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_advantages(case: str) -> None:
    algorithm, expected = GOLDEN[case]
    given = feedback(greedy_rewards=torch.tensor([0.25], dtype=torch.float64))
    found = algorithm.advantages(given)
    tokens = torch.tensor(expected, dtype=torch.float64)[:, None] * MASK
    assert torch.allclose(found, tokens, atol=1e-8)


def test_several_rewards_summed_or_normalised_each_as_in_trl() -> None:
    parts = {
        "accuracy": REWARDS,
        "format": torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64),
    }
    weights = {"accuracy": 0.9, "format": 0.1}
    total = 0.9 * parts["accuracy"] + 0.1 * parts["format"]
    given = feedback(total, parts=parts, weights=weights)
    each = GRPO(advantage=AdvantageSettings(parts="normalise_each"))
    assert GRPO().advantages(given)[:, 0].tolist() == pytest.approx(
        [1.06216036, -0.74910257, 0.63729621, -0.950354], abs=1e-8
    )
    assert each.advantages(given)[:, 0].tolist() == pytest.approx(
        [1.0671258, -0.74824602, 0.63107423, -0.949954], abs=1e-8
    )


def test_several_rewards_normalised_each_over_tokens_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 6, (12,), generator=generator)
    mask, weights = torch.arange(5) < lengths[:, None], (0.7, 0.3)
    sums = []
    for group in range(3):
        for row in range(4):
            total = 0.0
            for part, weight in zip(parts[:, group].tolist(), weights, strict=True):
                mean = sum(part) / 4
                deviation = math.sqrt(sum((value - mean) ** 2 for value in part) / 3)
                total += weight * (part[row] - mean) / (deviation + 1e-6)
            sums.append(total)
    tokens = [total for total, n in zip(sums, lengths.tolist(), strict=True) for _ in range(n)]
    mean = sum(tokens) / len(tokens)
    variance = sum((value - mean) ** 2 for value in tokens) / (len(tokens) - 1)
    algorithm = GRPO(
        advantage=AdvantageSettings(eps=1e-6, parts="normalise_each", parts_over="tokens")
    )
    found = algorithm.advantages(
        feedback(
            torch.zeros(3, 4, dtype=torch.float64),
            parts={"first": parts[0], "second": parts[1]},
            weights={"first": weights[0], "second": weights[1]},
            mask=mask,
        )
    )
    for row, total in enumerate(sums):
        expected = (total - mean) / math.sqrt(variance + 1e-8)
        assert found[row, 0].item() == pytest.approx(expected, abs=1e-12)
        assert torch.equal(found[row], found[row, :1] * mask[row])


def test_groups_without_signal_are_made_up_for_as_in_the_papers_gpg() -> None:
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    given = feedback(rewards, mask=torch.ones(6, 1, dtype=torch.bool))
    learned = 0.5 * 3  # of three groups, one has rewards that differ
    assert GPG().advantages(given).flatten().tolist() == [learned, -learned, 0, 0, 0, 0]
    nowhere = feedback(torch.ones(1, 2), mask=torch.ones(2, 1, dtype=torch.bool))
    assert not GPG().advantages(nowhere).any()


def test_divergence_in_the_reward_as_in_trl_rloo() -> None:
    given = feedback(old_logprobs=OLD, ref_logprobs=REFERENCE)
    expected = [0.6625, -0.52083333, 0.5125, -0.65416667]
    assert RLOO().advantages(given)[:, 0].tolist() == pytest.approx(expected, abs=1e-8)
    with pytest.raises(ValueError, match="needs old_logprobs and ref_logprobs"):
        RLOO().advantages(feedback())


def test_divergence_in_the_reward_of_tokens_counts_from_there_on() -> None:
    algorithm = ReinforcePlusPlus(
        kl_coefficient=0.5, returns=ReturnSettings(gamma=0.9, whiten=False)
    )
    found = algorithm.advantages(feedback(old_logprobs=OLD, ref_logprobs=REFERENCE))
    for row in range(4):
        length, running = int(MASK[row].sum()), 0.0
        for t in reversed(range(length)):
            reward = float(REWARDS[0, row]) if t == length - 1 else 0.0
            running = reward - 0.5 * float(OLD[row, t] - REFERENCE[row, t]) + 0.9 * running
            assert found[row, t].item() == pytest.approx(running)
        assert not found[row, length:].any()


def random_rewards(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(5, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bessel", [True, False])
def test_scales_against_a_loop(bessel: bool) -> None:
    rewards = random_rewards()

    def spread(values: Tensor) -> float:
        mean = float(values.mean())
        squares = sum((float(value) - mean) ** 2 for value in values)
        return math.sqrt(squares / (len(values) - bessel))

    for scale in ("group", "batch", "none"):
        found = group_advantages(rewards, 0.01, scale, bessel)  # type: ignore[arg-type]
        for row, group in enumerate(rewards):
            divisor = {
                "group": spread(group) + 0.01,
                "batch": spread(rewards.flatten()) + 0.01,
                "none": 1.0,
            }[scale]
            expected = [(float(value) - float(group.mean())) / divisor for value in group]
            assert found[row].tolist() == pytest.approx(expected)


def test_unknown_rewards_leave_the_others_as_if_alone() -> None:
    rewards = torch.tensor([[1.0, NAN, 0.0, 0.4], [0.2, 0.9, 0.1, 0.3]], dtype=torch.float64)
    for scale in ("group", "none"):
        found = group_advantages(rewards, scale=scale)  # type: ignore[arg-type]
        alone = group_advantages(rewards[:1, [0, 2, 3]], scale=scale)  # type: ignore[arg-type]
        assert torch.allclose(found[0, [0, 2, 3]], alone[0])
        assert found[0, 1] == 0
        assert torch.allclose(
            found[1:],
            group_advantages(rewards[1:], scale=scale),  # type: ignore[arg-type]
        )
    loo = leave_one_out(rewards)
    assert loo[0].tolist() == pytest.approx([1.0 - 0.2, 0.0, 0.0 - 0.7, 0.4 - 0.5])


def test_a_completion_alone_in_its_group() -> None:
    rewards = torch.tensor([[0.7], [0.2]], dtype=torch.float64)
    assert not group_advantages(rewards).any()
    kept = group_advantages(rewards, eps=1e-6, singleton="reward")
    assert torch.allclose(kept, rewards, atol=1e-6)
    both = group_advantages(torch.tensor([[0.7, NAN], [0.3, 0.5]]), singleton="reward")
    assert both[0].tolist() == pytest.approx([0.7, 0.0], abs=1e-3)
    assert both[1, 0] < 0 < both[1, 1]


def test_the_best_of_a_group_stands_alone() -> None:
    rewards = torch.tensor([[0.0, 0.5, 0.9, 0.2], [0.5, 0.5, 0.1, 0.0]], dtype=torch.float64)
    found = best_of_group(rewards)
    assert found[0].nonzero().flatten().tolist() == [2]
    assert found[0, 2].item() == pytest.approx(0.4 / float(rewards[0].std()), rel=1e-5)
    assert not found[1].any()


def test_a_part_that_does_not_apply_is_left_out() -> None:
    parts = torch.tensor(
        [
            [[1.0, 0.0, 0.5, NAN], [0.3, 0.3, 0.3, 0.3]],
            [[NAN, 0.0, 1.0, NAN], [0.5, 0.5, 0.5, 0.5]],
        ],
        dtype=torch.float64,
    )
    found = normalised_parts(parts, torch.tensor([0.7, 0.3], dtype=torch.float64))
    assert found.isfinite().all()
    assert found[0, 3] == 0
    assert not found[1].any()
    assert found[0, 0] > found[0, 2] > 0 > found[0, 1]


def test_groups_flat_in_every_part_stay_at_exactly_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.rand(2, 7, 4, generator=generator)
    parts[:, 3] = 0.1
    found = normalised_parts(parts, torch.tensor([0.9, 0.1]))
    assert not found[3].any()
    assert found[[0, 1, 2, 4, 5, 6]].all()


def test_weighted_parts_that_nothing_has_are_left_out() -> None:
    each = GRPO(advantage=AdvantageSettings(parts="normalise_each"))
    weights = {"accuracy": 0.9, "format": 0.1}
    partly = feedback(parts={"accuracy": REWARDS}, weights=weights)
    alone = feedback(parts={"accuracy": REWARDS}, weights={"accuracy": 0.9})
    assert torch.equal(each.advantages(partly), each.advantages(alone))
    assert not each.advantages(feedback(weights=weights)).any()


def test_the_baseline_form_centres_groups_first() -> None:
    rewards = random_rewards()[:2] + torch.tensor([[0.0], [5.0]], dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [2], [1], [4], [3], [5], [2], [2]])
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).flatten()
    of_tokens = [float(c) for c, row in zip(centred, mask, strict=True) for _ in range(row.sum())]
    mean = sum(of_tokens) / len(of_tokens)
    variance = sum((v - mean) ** 2 for v in of_tokens) / (len(of_tokens) - 1)
    found = ReinforcePlusPlusBaseline().advantages(feedback(rewards, mask=mask))
    expected = [(v - mean) / math.sqrt(variance + 1e-8) for v in of_tokens]
    assert found[mask].tolist() == pytest.approx(expected)


def test_returns_against_a_loop() -> None:
    rewards = torch.where(MASK, LOGPROBS, torch.full_like(LOGPROBS, NAN))
    for gamma in (1.0, 0.8):
        found = returns_to_go(rewards, MASK, gamma)
        for row in range(4):
            length = int(MASK[row].sum())
            for t in range(length):
                expected = sum(gamma ** (k - t) * float(LOGPROBS[row, k]) for k in range(t, length))
                assert found[row, t].item() == pytest.approx(expected)
        assert not found[~MASK].any()


def test_whitening_by_both_conventions() -> None:
    kept = LOGPROBS[MASK].numpy()
    centred = kept - kept.mean()
    verl = whiten(LOGPROBS, MASK, ReturnSettings())[MASK].numpy()
    assert verl == pytest.approx(centred / math.sqrt(kept.var(ddof=1) + 1e-8))
    how = ReturnSettings(eps=0.9, eps_as="floor", bessel=False)
    openrlhf = whiten(LOGPROBS, MASK, how)[MASK].numpy()
    assert kept.var() < 0.9
    assert openrlhf == pytest.approx(centred / math.sqrt(0.9))
    how = ReturnSettings(eps_as="floor", bessel=False)
    openrlhf = whiten(LOGPROBS, MASK, how)[MASK].numpy()
    assert openrlhf == pytest.approx(centred / kept.std())


def test_equal_values_whiten_to_exactly_zero() -> None:
    assert not whiten(torch.full((3, 5), 0.1), torch.ones(3, 5).bool(), ReturnSettings()).any()
    assert not whiten(torch.ones(1, 1), torch.ones(1, 1).bool(), ReturnSettings()).any()


def test_normalising_over_the_batch_keeps_flat_groups_at_zero() -> None:
    rewards = random_rewards()
    rewards[2] = 0.1
    found = batch_normalised(leave_one_out(rewards))
    assert not found[2].any()
    given = leave_one_out(rewards)
    assert torch.allclose(found, (given - given.mean()) / (given.std() + 1e-4), atol=1e-12)
    assert not batch_normalised(torch.zeros(2, 3)).any()


def test_overlong_penalty_as_in_the_paper() -> None:
    lengths = torch.tensor([100, 16384, 18432, 20480, 30000])
    assert overlong_penalty(lengths, 20480, 4096).tolist() == [0, 0, -0.5, -1, -1]


def test_the_penalty_and_truncation_reach_the_advantages() -> None:
    flat = torch.full((1, 4), 0.5, dtype=torch.float64)
    given = feedback(flat, truncated=torch.tensor([True, False, False, False]))
    assert not DAPO().has_signal(given).any()
    shaped = DAPO(overlong=OverlongSettings(limit=5, margin=2))
    assert shaped.has_signal(given).all()
    rewards = flat - torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    assert torch.allclose(shaped.advantages(given), DAPO().advantages(feedback(rewards)))
    masked = DAPO(overlong=OverlongSettings(ignore_truncated=True))
    graded = feedback(truncated=given.truncated)
    assert not masked.advantages(graded)[0].any()
    assert torch.equal(masked.advantages(graded)[1:], DAPO().advantages(graded)[1:])


def test_who_has_something_to_learn() -> None:
    rewards = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[3, 2] = False
    given = feedback(rewards, mask=mask, greedy_rewards=torch.tensor([0.0, 1.0, 0.0]))

    def signal(algorithm: PolicyGradient) -> list[bool]:
        found: list[bool] = algorithm.has_signal(given).tolist()
        return found

    assert signal(GRPO()) == signal(PassAtK()) == [False, True, False]
    assert signal(RLOO(kl_coefficient=0.0)) == [False, True, False]
    assert signal(ReMax(kl_coefficient=0.0)) == [True, True, False]
    assert signal(ReinforcePlusPlus(kl_coefficient=0.0)) == [True, True, True]
    assert signal(ReinforcePlusPlusBaseline()) == [True, True, True]
    # A divergence in the reward would tell even equal completions apart: it does not count.
    assert signal(RLOO()) == [False, True, False]
    assert signal(ReMax()) == [True, True, False]
    flat = feedback(torch.full((2, 2), 0.1), mask=mask[:4])
    assert not ReinforcePlusPlus(kl_coefficient=0.0).has_signal(flat).any()
