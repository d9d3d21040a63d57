"""Shared scoring against plain scoring, with gradients, and against a loop over rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import SamplingSettings, TinyVLM, scoring
from spatial_ssrl.policies.repeated import repeated_logprobs
from spatial_ssrl.policies.scoring import completion_logprobs
from support.oracles import plain_logprobs, random_completions, rollouts_of
from support.tiny_vlm import loud_policy, mixed_questions

GROUP = 4


@pytest.fixture(scope="module")
def policy() -> TinyVLM:
    return loud_policy()


@pytest.fixture(scope="module")
def prompts(policy: TinyVLM) -> PromptBatch:
    return policy.collator()(mixed_questions())


@pytest.fixture(scope="module")
def rollouts(policy: TinyVLM, prompts: PromptBatch) -> Rollouts:
    """Completions of mixed length, some of which are equal, within a group and across groups."""
    tokens, mask = random_completions(policy, len(prompts) * GROUP)
    tokens = tokens.clamp(min=5)  # No special tokens.
    for copy, original in ((1, 0), (3, 0), (5, 0), (10, 9)):
        tokens[copy], mask[copy] = tokens[original], mask[original]
    # Equal tokens, other length: not the same completion.
    tokens[2], mask[2] = tokens[0], torch.arange(mask.shape[1]) < 2
    return rollouts_of(tokens, mask, GROUP)


def weights_of_tokens(rollouts: Rollouts) -> Tensor:
    """Different weights for different tokens, so that no gradient cancels or moves unseen."""
    return torch.linspace(-1, 2, rollouts.mask.numel()).view(rollouts.mask.shape)


def gradients(policy: TinyVLM, loss: Tensor) -> list[Tensor]:
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(trained, found, strict=True)
    ]


def assert_same_gradients(found: list[Tensor], wanted: list[Tensor]) -> None:
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    assert scale > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * scale, rtol=1e-3)


def read_after_prompts(policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts) -> list[int]:
    """Return the tokens the model reads after those of the prompts when completions are scored."""
    read: list[Tensor] = []
    hook = policy.network.model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].flatten()), with_kwargs=True
    )
    with hook, torch.no_grad():
        completion_logprobs(policy, prompts, rollouts)
    assert len(read) == 1
    after: list[int] = read[0][prompts.input_ids.numel() :].tolist()
    return after


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_are_those_of_one_plain_forward_each(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts, temperature: float
) -> None:
    logits = policy.logits(policy.read(prompts).hidden)
    unsayable = torch.isneginf(logits).all(0).nonzero().flatten().tolist()
    with torch.no_grad():
        scored = completion_logprobs(
            policy, prompts, rollouts, SamplingSettings(temperature=temperature)
        )
        for row in range(len(rollouts)):
            kept = rollouts.mask[row]
            alone = policy.select(prompts, [row // GROUP])
            wanted = plain_logprobs(
                policy.network, alone, rollouts.tokens[row][kept], unsayable, temperature
            )
            torch.testing.assert_close(scored[row][kept], wanted, atol=1e-5, rtol=1e-5)
            assert (scored[row][~kept] == 0).all()


def test_shared_and_repeated_scoring_agree_with_gradients(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    shared = completion_logprobs(policy, prompts, rollouts, SamplingSettings(temperature=0.7))
    repeated = repeated_logprobs(policy, prompts, rollouts, SamplingSettings(temperature=0.7))
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-5)
    weights = weights_of_tokens(rollouts)
    assert_same_gradients(
        gradients(policy, (shared * weights).sum()), gradients(policy, (repeated * weights).sum())
    )


def test_equal_completions_count_as_often_as_they_occur(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    weights = weights_of_tokens(rollouts)
    scored = completion_logprobs(policy, prompts, rollouts)
    found = gradients(policy, (scored * weights).sum())
    summed = [torch.zeros_like(gradient) for gradient in found]
    for row in range(len(rollouts)):
        alone = policy.select(prompts, [row // GROUP])
        one = rollouts_of(rollouts.tokens[row : row + 1], rollouts.mask[row : row + 1], 1)
        single = completion_logprobs(policy, alone, one)
        torch.testing.assert_close(single[0], scored[row], atol=1e-5, rtol=1e-5)
        for total, gradient in zip(
            summed, gradients(policy, (single * weights[row]).sum()), strict=True
        ):
            total += gradient
    assert_same_gradients(found, summed)


def test_equal_completions_are_computed_once(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    read = [token for token in read_after_prompts(policy, prompts, rollouts) if token]
    # Rows 1, 3 repeat row 0 and row 10 repeats row 9; row 5 answers another question.
    wanted = [
        token
        for row in range(len(rollouts))
        if row not in (1, 3, 10)
        for token in rollouts.tokens[row, rollouts.mask[row]][:-1].tolist()
    ]
    assert sorted(read) == sorted(wanted)


@pytest.mark.parametrize("tokens_per_chunk", [1, 7])
def test_vocabulary_in_chunks_changes_nothing(
    policy: TinyVLM,
    prompts: PromptBatch,
    rollouts: Rollouts,
    monkeypatch: pytest.MonkeyPatch,
    tokens_per_chunk: int,
) -> None:
    weights = weights_of_tokens(rollouts)
    whole = completion_logprobs(policy, prompts, rollouts, SamplingSettings(temperature=0.8))
    wanted = gradients(policy, (whole * weights).sum())
    most: list[int] = []
    logits = policy.logits

    def watched(hidden: Tensor) -> Tensor:
        most.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(policy, "logits", watched)
    monkeypatch.setattr(scoring, "_LOGITS_PER_CHUNK", tokens_per_chunk * policy.vocabulary_size)
    chunked = completion_logprobs(policy, prompts, rollouts, SamplingSettings(temperature=0.8))
    torch.testing.assert_close(chunked, whole, atol=1e-6, rtol=1e-6)
    assert max(most) <= tokens_per_chunk
    forward_calls = len(most)
    assert_same_gradients(gradients(policy, (chunked * weights).sum()), wanted)
    assert len(most) == 2 * forward_calls, "logits are computed again in the backward pass"


def test_temperature_of_greedy_rollouts_counts_as_one(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    with torch.no_grad():
        greedy = completion_logprobs(policy, prompts, rollouts, SamplingSettings(temperature=0))
        assert torch.equal(greedy, completion_logprobs(policy, prompts, rollouts))


def test_completions_of_one_token_and_of_none(policy: TinyVLM, prompts: PromptBatch) -> None:
    tokens = torch.tensor([[20], [21], [22]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    with torch.no_grad():
        probabilities = policy.logits(policy.read(prompts).hidden).log_softmax(-1)
        scored = completion_logprobs(policy, prompts, rollouts_of(tokens, mask, 1))
        torch.testing.assert_close(scored, probabilities.gather(1, tokens))
        nothing = completion_logprobs(policy, prompts, rollouts_of(tokens, ~mask, 1))
        assert torch.equal(nothing, torch.zeros(3, 1))


def test_padding_columns_are_not_computed(policy: TinyVLM, prompts: PromptBatch) -> None:
    tokens = torch.full((3, 50), 20)
    mask = torch.arange(50) < torch.tensor([[2], [1], [3]])
    rollouts = rollouts_of(tokens, mask, 1)
    with torch.no_grad():
        scored = completion_logprobs(policy, prompts, rollouts)
    assert scored.shape == (3, 50)
    # One token of the first and two of the third, each in a row of two; the last predict nothing.
    assert read_after_prompts(policy, prompts, rollouts) == [20, 0, 20, 20]


def test_equal_runs_are_equal_to_the_last_bit(
    policy: TinyVLM, prompts: PromptBatch, rollouts: Rollouts
) -> None:
    first, second = (
        gradients(
            policy,
            (completion_logprobs(policy, prompts, rollouts) * weights_of_tokens(rollouts)).sum(),
        )
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
