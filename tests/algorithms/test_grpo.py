"""GRPO against values obtained by running other libraries' own functions, and its invariances."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from spatial_ssrl.algorithms import GRPO, AdvantageSettings, ClipSettings
from spatial_ssrl.algorithms.kl import k3_divergence
from spatial_ssrl.core.batches import Feedback, LossInputs
from spatial_ssrl.core.errors import ConfigError

# One group of four completions of lengths 5, 3, 4 and 2, in float64. TRL is 1.16.0.
LOGP = [
    [-0.9, -1.1, -0.4, -2.0, -0.7],
    [-1.2, -0.3, -0.8, 0, 0],
    [-0.5, -0.6, -1.5, -1.0, 0],
    [-2.2, -0.2, 0, 0, 0],
]
OLD_STEP = [
    [0.30, -0.40, 0.05, 0.60, -0.10],
    [-0.25, 0.15, 1.40, 0, 0],
    [0.02, -0.50, 0.35, -0.05, 0],
    [0.20, -0.90, 0, 0, 0],
]
REF_STEP = [
    [0.1, -0.2, 0.3, 0.0, 0.05],
    [0.2, 0.1, -0.3, 0, 0],
    [-0.1, 0.4, 0.0, 0.2, 0],
    [0.5, -0.5, 0, 0, 0],
]
REWARDS = torch.tensor([[1.0, 0.1, 0.9, 0.0]], dtype=torch.float64)


@pytest.fixture
def update() -> dict[str, Tensor]:
    logp = torch.tensor(LOGP, dtype=torch.float64)
    old = logp - torch.tensor(OLD_STEP, dtype=torch.float64)
    ref = old - torch.tensor(REF_STEP, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4], [2]])
    return {"logprobs": logp, "old_logprobs": old, "ref_logprobs": ref, "mask": mask}


def feedback(rewards: Tensor = REWARDS, mask: Tensor | None = None) -> Feedback:
    if mask is None:
        mask = torch.ones(rewards.numel(), 1, dtype=torch.bool)
    return Feedback(rewards=rewards, parts={}, weights={}, mask=mask)


def of_completions(algorithm: GRPO, rewards: Tensor = REWARDS) -> Tensor:
    return algorithm.advantages(feedback(rewards))[:, 0]


def inputs(algorithm: GRPO, update: dict[str, Tensor]) -> LossInputs:
    advantages = algorithm.advantages(feedback(mask=update["mask"]))
    return LossInputs(**update, sampling_logprobs=None, advantages=advantages)


def values(given: LossInputs) -> dict[str, Tensor | None]:
    return {field.name: getattr(given, field.name) for field in fields(given)}


def loss_and_gradient(algorithm: GRPO, update: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logp = update["logprobs"].clone().requires_grad_()
    normaliser = algorithm.normaliser(update["mask"].sum(1))
    output = algorithm.loss(inputs(algorithm, update | {"logprobs": logp}), normaliser)
    output.loss.backward()
    assert logp.grad is not None
    return output.loss.detach(), logp.grad


def test_advantages_equal_those_of_trl() -> None:
    expected = [0.956182177748, -0.764945742198, 0.764945742198, -0.956182177748]
    assert of_completions(GRPO()).tolist() == pytest.approx(expected, abs=1e-11)


def test_advantages_equal_those_of_verl() -> None:
    expected = [0.95636324, -0.76509059, 0.76509059, -0.95636324]
    advantages = of_completions(GRPO(advantage=AdvantageSettings(eps=1e-6))).tolist()
    assert advantages == pytest.approx(expected, abs=1e-8)


def test_advantages_without_scaling_are_differences_from_the_mean() -> None:
    advantages = of_completions(GRPO(advantage=AdvantageSettings(scale="none"))).tolist()
    assert advantages == pytest.approx([0.5, -0.4, 0.4, -0.5])


@pytest.mark.parametrize(
    ("kl_coefficient", "loss", "norm"),
    [(0.0, 0.20423235, 0.32300472), (0.04, 0.21621347, 0.32655006)],
)
def test_loss_and_gradient_equal_those_of_trl(
    update: dict[str, Tensor], kl_coefficient: float, loss: float, norm: float
) -> None:
    value, gradient = loss_and_gradient(GRPO(kl_coefficient=kl_coefficient), update)
    assert value.item() == pytest.approx(loss, abs=1e-8)
    assert gradient.norm().item() == pytest.approx(norm, abs=1e-8)


def test_loss_equals_that_of_openrlhf_with_its_eps(update: dict[str, Tensor]) -> None:
    value, gradient = loss_and_gradient(
        GRPO(kl_coefficient=0.0, advantage=AdvantageSettings(eps=1e-9)), update
    )
    assert value.item() == pytest.approx(0.20427141, abs=1e-8)
    assert gradient.norm().item() == pytest.approx(0.32306650, abs=1e-8)


def test_wider_upper_clip_moves_only_tokens_between_the_two_bounds(
    update: dict[str, Tensor],
) -> None:
    _, narrow = loss_and_gradient(GRPO(kl_coefficient=0.0), update)
    _, wide = loss_and_gradient(GRPO(kl_coefficient=0.0, clip=ClipSettings(high=0.4)), update)
    ratios = torch.tensor(OLD_STEP, dtype=torch.float64).exp()
    positive = torch.tensor([True, False, True, False])[:, None]
    between = (ratios > 1.2) & (ratios < 1.4) & positive
    assert between.any()
    assert torch.equal(narrow != wide, between)


def test_k3_row_equals_reference_values(update: dict[str, Tensor]) -> None:
    # Of verl: ref minus logp of this data is -(delta + refd).
    values = k3_divergence(update["logprobs"], update["ref_logprobs"], update["mask"])
    expected = [0.07032, 0.222119, 0.054688, 0.148812, 0.001271]
    assert values[0].tolist() == pytest.approx(expected, abs=1e-6)
    mean = (values * update["mask"]).sum() / update["mask"].sum()
    assert mean.item() == pytest.approx(0.20612800, abs=1e-8)


@pytest.mark.parametrize("split", [[1, 3], [2, 2], [1, 1, 1, 1]])
def test_micro_batches_add_up_to_the_whole(update: dict[str, Tensor], split: list[int]) -> None:
    algorithm = GRPO(kl_coefficient=0.04)
    whole, gradient = loss_and_gradient(algorithm, update)
    logp = update["logprobs"].clone().requires_grad_()
    given = inputs(algorithm, update | {"logprobs": logp})
    normaliser = algorithm.normaliser(update["mask"].sum(1))
    total, tokens, start = 0.0, 0, 0
    for size in split:
        rows = slice(start, start + size)
        part = LossInputs(
            **{name: None if v is None else v[rows] for name, v in values(given).items()}
        )
        output = algorithm.loss(part, normaliser)
        output.loss.backward()
        total += output.loss.item()
        tokens += int(output.stats["tokens"])
        start += size
    assert total == pytest.approx(whole.item(), abs=1e-12)
    assert torch.allclose(logp.grad, gradient, atol=1e-12)
    assert tokens == 14


def test_statistics_are_sums_over_tokens(update: dict[str, Tensor]) -> None:
    algorithm = GRPO(kl_coefficient=0.04)
    stats = algorithm.loss(inputs(algorithm, update), 4.0).stats
    assert int(stats["tokens"]) == 14
    assert stats["surprisal"].item() == pytest.approx(13.4)
    assert stats["kl"].item() == pytest.approx(14 * 0.20612800, abs=1e-6)
    # Ratio above 1.2 with advantage above 0: rows 1 and 3 have .30, .60 and .35. Ratio below
    # .8 with advantage below 0: rows 2 and 4 have -.25 and -.90.
    assert int(stats["clipped"]) == 5
    assert (int(stats["clipped_high"]), int(stats["clipped_low"])) == (3, 2)
    ratios = torch.tensor(OLD_STEP, dtype=torch.float64).exp()[update["mask"]]
    assert stats["ratio"].item() == pytest.approx(ratios.sum().item())


def test_equal_rewards_give_exactly_zero_advantage() -> None:
    # The float32 mean of eight times 0.1 is not 0.1.
    rewards = torch.full((3, 8), 0.1)
    assert not GRPO().advantages(feedback(rewards)).any()
    assert not GRPO().has_signal(feedback(rewards)).any()


def test_advantages_ignore_a_shift_of_the_rewards() -> None:
    shifted = of_completions(GRPO(), REWARDS + 7.25)
    assert torch.allclose(shifted, of_completions(GRPO()), atol=1e-9)


def test_padding_may_hold_anything(update: dict[str, Tensor]) -> None:
    algorithm = GRPO(kl_coefficient=0.04)
    value, gradient = loss_and_gradient(algorithm, update)
    for name, filler in (
        ("logprobs", float("-inf")),
        ("old_logprobs", float("nan")),
        ("ref_logprobs", float("inf")),
    ):
        update[name] = update[name].masked_fill(~update["mask"], filler)
    dirty_value, dirty_gradient = loss_and_gradient(algorithm, update)
    assert dirty_value == value
    assert torch.equal(dirty_gradient, gradient)


def test_a_completion_without_tokens_adds_nothing(update: dict[str, Tensor]) -> None:
    update["mask"] = update["mask"].clone()
    update["mask"][3] = False
    value, gradient = loss_and_gradient(GRPO(), update)
    assert value.isfinite()
    assert not gradient[3].any()
    assert gradient[:3].any()


def test_a_group_of_one_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"group_size is 1.*set group_size to 2 or more"):
        GRPO().check(1, {})


def test_a_negative_coefficient_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kl_coefficient must be 0 .* got -1.0"):
        GRPO(kl_coefficient=-1.0)


def test_reference_is_needed_only_for_the_divergence(update: dict[str, Tensor]) -> None:
    assert GRPO().needs_reference
    algorithm = GRPO(kl_coefficient=0.0)
    assert not algorithm.needs_reference
    update["ref_logprobs"] = None
    algorithm.loss(inputs(algorithm, update), 4.0)
    with pytest.raises(ValueError, match="needs ref_logprobs"):
        GRPO().loss(inputs(algorithm, update), 4.0)
