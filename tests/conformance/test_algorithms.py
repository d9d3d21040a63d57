"""What every registered algorithm must do, built with its defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from spatial_ssrl.algorithms import ALGORITHMS, Algorithm
from spatial_ssrl.core.batches import Feedback, LossInputs

ENTRIES = ALGORITHMS.entries()
GROUPS, SIZE, WIDTH = 3, 4, 6


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry.key)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return request.param.cls()


def random_update(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return -torch.rand(GROUPS * SIZE, WIDTH, generator=generator, dtype=torch.float64) * 2

    lengths = torch.randint(1, WIDTH + 1, (GROUPS * SIZE, 1), generator=generator)
    lengths[0], lengths[1] = 1, 0
    logprobs = draw()
    return {
        "logprobs": logprobs,
        "old_logprobs": logprobs + 0.2 * (draw() + 1),
        "ref_logprobs": logprobs + 0.2 * (draw() + 1),
        "mask": torch.arange(WIDTH) < lengths,
    }


def random_rewards() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(GROUPS, SIZE, generator=generator, dtype=torch.float64)


def feedback_of(rewards: Tensor, update: dict[str, Tensor]) -> Feedback:
    return Feedback(
        rewards=rewards,
        parts={"accuracy": rewards},
        weights={"accuracy": 1.0},
        mask=update["mask"],
        old_logprobs=update["old_logprobs"],
        ref_logprobs=update["ref_logprobs"],
        greedy_rewards=rewards.mean(dim=1),
    )


def advantages_of(algorithm: Algorithm, rewards: Tensor, update: dict[str, Tensor]) -> Tensor:
    """Return advantages (N, C) of rewards (B, G)."""
    return algorithm.advantages(feedback_of(rewards, update))


def gradient_of(
    algorithm: Algorithm,
    update: dict[str, Tensor],
    advantages: Tensor,
    split: tuple[slice, ...] = (slice(None),),
) -> tuple[float, Tensor]:
    logprobs = update["logprobs"].clone().requires_grad_()
    normaliser = algorithm.normaliser(update["mask"].sum(1))
    given = update | {"logprobs": logprobs, "advantages": advantages}
    total = 0.0
    for rows in split:
        part = {name: value[rows] for name, value in given.items()}
        output = algorithm.loss(LossInputs(**part, sampling_logprobs=None), normaliser)
        output.loss.backward()
        total += output.loss.item()
    assert logprobs.grad is not None
    return total, logprobs.grad


def test_equal_rewards_leave_the_policy_alone(algorithm: Algorithm) -> None:
    update = random_update()
    # Where policy and reference agree, the divergence term has no gradient either; in the reward
    # it is measured from the weights that sampled.
    update["ref_logprobs"] = update["logprobs"].clone()
    if getattr(algorithm, "kl_in_reward", False):
        update["ref_logprobs"] = update["old_logprobs"].clone()
    advantages = advantages_of(algorithm, torch.full((GROUPS, SIZE), 0.7).double(), update)
    _, gradient = gradient_of(algorithm, update, advantages)
    assert not gradient.any()


def test_a_shift_of_all_rewards_changes_nothing(algorithm: Algorithm) -> None:
    rewards, update = random_rewards(), random_update()
    assert torch.allclose(
        advantages_of(algorithm, rewards + 3.5, update),
        advantages_of(algorithm, rewards, update),
        atol=1e-9,
    )


def test_micro_batches_equal_the_whole(algorithm: Algorithm) -> None:
    update = random_update()
    advantages = advantages_of(algorithm, random_rewards(), update)
    split = (slice(0, SIZE), slice(SIZE, 3 * SIZE))
    whole, whole_gradient = gradient_of(algorithm, update, advantages)
    parts, parts_gradient = gradient_of(algorithm, update, advantages, split)
    assert parts == pytest.approx(whole, abs=1e-12)
    assert torch.allclose(parts_gradient, whole_gradient, atol=1e-12)


def test_short_and_empty_completions_stay_finite(algorithm: Algorithm) -> None:
    update = random_update()
    advantages = advantages_of(algorithm, random_rewards(), update)
    update["logprobs"] = update["logprobs"].masked_fill(~update["mask"], float("-inf"))
    loss, gradient = gradient_of(algorithm, update, advantages)
    assert torch.tensor(loss).isfinite()
    assert gradient.isfinite().all()
    assert not gradient[~update["mask"]].any()


def test_padding_may_hold_anything(algorithm: Algorithm) -> None:
    clean = random_update()
    dirty = {name: value.clone() for name, value in clean.items()}
    for name, filler in (
        ("logprobs", float("-inf")),
        ("old_logprobs", float("nan")),
        ("ref_logprobs", float("inf")),
    ):
        dirty[name] = dirty[name].masked_fill(~dirty["mask"], filler)
    advantages = [advantages_of(algorithm, random_rewards(), update) for update in (clean, dirty)]
    assert torch.equal(*advantages)
    assert not advantages[0][~clean["mask"]].any()
    advantages[1] = advantages[1].masked_fill(~clean["mask"], float("nan"))
    results = [
        gradient_of(algorithm, update, values)
        for update, values in zip((clean, dirty), advantages, strict=True)
    ]
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    stats = [
        algorithm.loss(LossInputs(**update, advantages=values, sampling_logprobs=None), 1.0).stats
        for update, values in zip((clean, dirty), advantages, strict=True)
    ]
    assert stats[0] == stats[1]


def test_signal_is_where_advantages_are(algorithm: Algorithm) -> None:
    rewards, update = random_rewards(), random_update()
    rewards[1] = 0.5
    update["ref_logprobs"] = update["old_logprobs"].clone()
    given = feedback_of(rewards, update)
    learning = (algorithm.advantages(given) != 0).view(GROUPS, -1).any(dim=1)
    signal = algorithm.has_signal(replace(given, old_logprobs=None, ref_logprobs=None))
    assert signal.dtype == torch.bool
    assert learning.any()
    # The divergence is 0 here.
    assert torch.equal(signal, learning)
    apart = replace(given, ref_logprobs=update["ref_logprobs"] - 0.3)
    assert torch.equal(algorithm.has_signal(apart), learning)


def test_the_greedy_reward_is_read_only_where_asked_for(algorithm: Algorithm) -> None:
    given = replace(feedback_of(random_rewards(), random_update()), greedy_rewards=None)
    if algorithm.needs_greedy:
        with pytest.raises(ValueError, match="greedy_rewards"):
            algorithm.advantages(given)
    else:
        assert algorithm.advantages(given).isfinite().all()


def test_statistics_add_up_over_micro_batches(algorithm: Algorithm) -> None:
    update = random_update()
    update["advantages"] = advantages_of(algorithm, random_rewards(), update)
    sums = [
        algorithm.loss(
            LossInputs(**{n: v[rows] for n, v in update.items()}, sampling_logprobs=None), 1.0
        ).stats
        for rows in (slice(None), slice(0, SIZE), slice(SIZE, 3 * SIZE))
    ]
    assert {"tokens", "clipped", "clipped_low", "clipped_high"} <= set(sums[0])
    assert {"ratio", "old_kl", "surprisal"} <= set(sums[0])
    assert int(sums[0]["tokens"]) == int(update["mask"].sum())
    for name, whole in sums[0].items():
        assert not whole.requires_grad
        assert whole.item() == pytest.approx((sums[1][name] + sums[2][name]).item())


def test_better_completions_become_likelier(algorithm: Algorithm) -> None:
    update = random_update()
    update["old_logprobs"] = update["ref_logprobs"] = update["logprobs"].clone()
    advantages = advantages_of(algorithm, random_rewards(), update)
    _, gradient = gradient_of(algorithm, update, advantages)
    rows = update["mask"].any(dim=1)
    descent = -gradient.sum(dim=1)
    assert torch.equal(descent[rows] > 0, advantages[rows, 0] > 0)
