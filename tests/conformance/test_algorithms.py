"""What every registered algorithm must do, built with its defaults."""

from __future__ import annotations

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


def advantages_of(algorithm: Algorithm, rewards: Tensor, update: dict[str, Tensor]) -> Tensor:
    """Return advantages (N, C) of rewards (B, G)."""
    return algorithm.advantages(
        Feedback(
            rewards=rewards,
            parts={"accuracy": rewards},
            weights={"accuracy": 1.0},
            mask=update["mask"],
            old_logprobs=update["old_logprobs"],
            ref_logprobs=update["ref_logprobs"],
            greedy_rewards=rewards.mean(dim=1),
        )
    )


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
    # Where policy and reference agree, the divergence term has no gradient either.
    update["ref_logprobs"] = update["logprobs"].clone()
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


def test_better_completions_become_likelier(algorithm: Algorithm) -> None:
    update = random_update()
    update["old_logprobs"] = update["ref_logprobs"] = update["logprobs"].clone()
    advantages = advantages_of(algorithm, random_rewards(), update)
    _, gradient = gradient_of(algorithm, update, advantages)
    rows = update["mask"].any(dim=1)
    descent = -gradient.sum(dim=1)
    assert torch.equal(descent[rows] > 0, advantages[rows, 0] > 0)
