from __future__ import annotations

import inspect
import math
import re
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spatial_ssrl.algorithms import GRPO, GSPO, RLOO, Algorithm, ReMax
from spatial_ssrl.algorithms.settings import OverlongSettings
from spatial_ssrl.core.batches import Feedback, PromptBatch, Rollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import PolicyBackbone, SamplingSettings
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.training import RLModule, UpdateSettings, metrics
from spatial_ssrl.verifiers import Verifier
from support.tiny_training import (
    FlatForFlips,
    StepLog,
    tiny_data,
    tiny_policy,
    tiny_rl,
    tiny_trainer,
)

NO_KL = GRPO(kl_coefficient=0.0)


class Constant(Verifier):
    def score(self, text: str, question: Question) -> Verdict:
        return Verdict(reward=0.1, parts={"accuracy": 0.0})


class Forgetful(InProcess):
    """An engine that does not keep the log-probabilities of what it sampled."""

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        return replace(super().sample(policy, prompts, group_size, sampling, seed), logprobs=None)


class Rounding(InProcess):
    """An engine that notes log-probabilities as if it computed with few bits."""

    off = 0.03

    def sample(self, *args: Any) -> Rollouts:
        rollouts = super().sample(*args)
        assert rollouts.logprobs is not None
        noise = torch.randn(rollouts.mask.shape, generator=torch.Generator().manual_seed(0))
        return replace(rollouts, logprobs=(rollouts.logprobs + self.off * noise) * rollouts.mask)


class Unsure(InProcess):
    """An engine that does not know one log-probability."""

    def sample(self, *args: Any) -> Rollouts:
        rollouts = super().sample(*args)
        assert rollouts.logprobs is not None
        rollouts.logprobs[0, 0] = math.nan
        return rollouts


def sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    # Adam would blow rounding errors of tiny gradients up to the size of the step.
    return torch.optim.SGD(params, lr=0.1)


def trained(
    folder: Path, steps: int = 2, log: StepLog | None = None, **settings: object
) -> dict[str, Tensor]:
    module = tiny_rl(**{"optimizer": sgd, **settings})
    tiny_trainer(folder, steps, [log or StepLog()]).fit(module, tiny_data())
    return {name: value.clone() for name, value in module.policy.state_dict().items()}


def free(**settings: Any) -> UpdateSettings:
    # Clipping would hide a gradient that is only scaled wrongly.
    return UpdateSettings(clip_norm=math.inf, **settings)


def furthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_reward_rises(tmp_path: Path) -> None:
    log = StepLog()
    trained(
        tmp_path,
        30,
        log,
        algorithm=NO_KL,
        group_size=8,
        optimizer=lambda p: torch.optim.Adam(p, 3e-3),
    )
    rewards = [step["train/reward"] for step in log.metrics]
    assert sum(rewards[-5:]) / 5 > 2 * sum(rewards[:5]) / 5


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    start = trained(tmp_path, 0)
    whole = trained(tmp_path, update=free(micro_batch_size=4))
    parts = trained(tmp_path, update=free(micro_batch_size=3))
    assert furthest(whole, parts) < 1e-5
    # Less than a group: prompts here have about 60 tokens.
    split = trained(tmp_path, update=free(micro_batch_tokens=90))
    assert furthest(whole, split) < 1e-5
    assert furthest(whole, start) > 1e-3


def test_dropping_flat_groups_leaves_the_policy_gradient(tmp_path: Path) -> None:
    settings = {"algorithm": NO_KL, "verifier": FlatForFlips()}
    log = StepLog()
    dropped = trained(tmp_path, log=log, update=free(), **settings)
    kept = trained(tmp_path, update=free(flat_groups="keep"), **settings)
    assert log.metrics[0]["train/flat_groups"] >= 0.5
    assert furthest(dropped, kept) < 1e-5
    assert furthest(dropped, trained(tmp_path, 0)) > 1e-3


def test_a_step_without_signal_is_counted_and_changes_no_weight(tmp_path: Path) -> None:
    log = StepLog()

    def optimizer(params: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=0.1, weight_decay=0.5)

    end = trained(tmp_path, 3, log, verifier=Constant(), optimizer=optimizer)
    assert [step for step, _ in log.steps] == [1, 2, 3]
    assert furthest(end, trained(tmp_path, 0)) == 0
    assert log.metrics[-1]["train/flat_groups"] == 1.0


def test_completions_depend_on_the_module_seed_not_on_the_machine_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = trained(tmp_path)
    torch.manual_seed(2)
    assert furthest(first, trained(tmp_path)) == 0
    assert furthest(first, trained(tmp_path, seed=1)) > 1e-4


class Seeds(InProcess):
    """An engine that remembers the seeds it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        self.seen.append(seed)
        return super().sample(policy, prompts, group_size, sampling, seed)


def test_every_step_draws_other_completions(tmp_path: Path) -> None:
    engine = Seeds()
    trained(tmp_path, 3, rollout=engine, update=UpdateSettings(self_check=False))
    assert len(set(engine.seen)) == 3


def test_old_logprobs_are_scored_where_the_engine_keeps_none(tmp_path: Path) -> None:
    settings = {"update": UpdateSettings(inner_epochs=2)}
    kept = trained(tmp_path, 4, **settings)
    assert furthest(kept, trained(tmp_path, 4, rollout=Forgetful(), **settings)) < 1e-4


@pytest.mark.parametrize(
    "algorithm",
    [RLOO(kl_coefficient=0.0), GSPO(), GRPO(kl_coefficient=0.0)],
    ids=["rloo", "gspo", "grpo"],
)
def test_a_sampler_that_rounds_changes_no_single_step(algorithm: Algorithm, tmp_path: Path) -> None:
    log, noisy = StepLog(), StepLog()
    update = UpdateSettings(self_check=False)
    exact = trained(tmp_path, 2, log, algorithm=algorithm, update=update)
    rounded = trained(tmp_path, 2, noisy, algorithm=algorithm, update=update, rollout=Rounding())
    assert furthest(exact, rounded) == 0
    assert furthest(exact, trained(tmp_path, 0)) > 1e-4
    for step in noisy.metrics:
        assert step["train/clipped"] == step["train/old_kl"] == 0
        assert step["train/ratio"] == 1
        # Half the variance of what was added, to second order.
        assert step["train/sampler_kl"] == pytest.approx(Rounding.off**2 / 2, rel=0.5)
    assert log.metrics[0]["train/sampler_kl"] < 1e-8


def test_what_a_sampler_does_not_know_is_scored(tmp_path: Path) -> None:
    settings = {"update": UpdateSettings(inner_epochs=2, self_check=False)}
    known, log = trained(tmp_path, 4, **settings), StepLog()
    assert furthest(known, trained(tmp_path, 4, log, rollout=Unsure(), **settings)) < 1e-4
    assert all(math.isfinite(step["train/sampler_kl"]) for step in log.metrics)


def test_groups_of_equal_rewards_are_flat_with_a_divergence_in_the_reward(tmp_path: Path) -> None:
    log = StepLog()
    end = trained(tmp_path, 2, log, algorithm=RLOO(), verifier=Constant())
    assert [step["train/flat_groups"] for step in log.metrics] == [1.0, 1.0]
    assert furthest(end, trained(tmp_path, 0)) == 0


def test_the_greedy_baseline_is_penalised_for_its_length_too(tmp_path: Path) -> None:
    # The whole penalty for every completion, the most likely ones as well: nothing to learn.
    log, long = StepLog(), OverlongSettings(limit=1, margin=1)
    remax = ReMax(kl_coefficient=0.0, overlong=long)
    end = trained(tmp_path, 1, log, algorithm=remax, verifier=Constant())
    assert log.metrics[0]["train/flat_groups"] == 1.0
    assert furthest(end, trained(tmp_path, 0)) == 0


def test_the_policy_is_frozen_but_for_its_weights(tmp_path: Path) -> None:
    module = tiny_rl()
    module.policy.load()
    buffers = {name: value.clone() for name, value in module.policy.named_buffers()}
    tiny_trainer(tmp_path, 2).fit(module, tiny_data())
    assert not any(part.training for part in module.policy.modules())
    assert any("running_mean" in name for name in buffers)
    after = dict(module.policy.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in buffers.items())


def test_inner_epochs_are_optimiser_steps_on_the_same_questions(tmp_path: Path) -> None:
    log = StepLog()
    trained(tmp_path, 6, log, update=UpdateSettings(inner_epochs=2))
    assert [step for step, _ in log.steps] == [2, 4, 6]
    # The second pass starts from weights that already moved away from those that sampled.
    assert log.metrics[0]["train/old_kl"] > 0


def test_the_reference_is_the_policy_as_training_began(tmp_path: Path) -> None:
    log = StepLog()
    trained(tmp_path, 3, log, algorithm=GRPO(kl_coefficient=0.1))
    divergence = [step["train/kl"] for step in log.metrics]
    assert divergence[0] == pytest.approx(0, abs=1e-9)
    assert divergence[2] > 1e-6


def test_everything_promised_is_logged(tmp_path: Path) -> None:
    log = StepLog()
    trained(tmp_path, 1, log)
    names = {name.removeprefix("train/") for name in log.metrics[0]}
    assert names >= {
        "reward",
        "reward/accuracy",
        "accuracy/flipped_patch",
        "accuracy/depth_order",
        "above_chance/depth_order",
        "flat_groups",
        "flat_groups/flipped_patch",
        "groups_used",
        "tokens",
        "length",
        "length_max",
        "truncated",
        "kl",
        "old_kl",
        "sampler_kl",
        "clipped",
        "entropy",
        "loss",
        "grad_norm",
        "lr",
        "seconds/sample",
        "seconds/verify",
        "seconds/score",
        "seconds/update",
        "rollouts_per_s",
        "tokens_per_s",
        "forward_tokens",
        "forward_share",
        "ratio",
        "clipped_low",
        "clipped_high",
        "peak_memory_gib",
    }
    documented = set(re.findall(r"`([a-z_/<>]+)`", metrics.__doc__ or ""))
    kinds = {name.partition("/")[0] for name in documented}
    assert {name.partition("/")[0] for name in names} <= kinds
    # Groups of four share a prompt in sampling, scoring and updating.
    assert 0 < log.metrics[0]["train/forward_share"] < 0.9
    # An untrained policy is near uniform over some hundred tokens.
    assert 3 < log.metrics[0]["train/entropy"] < 10


class Checksum(Verifier):
    """Rewards no two texts and questions alike."""

    def score(self, text: str, question: Question) -> Verdict:
        return Verdict(zlib.crc32(f"{question.uid} {text}".encode()) / 2**32, {})


class GreedyBaseline(GRPO):
    """Asks for the reward of the most likely completion, and remembers it."""

    needs_greedy = True
    seen: Feedback | None = None

    def advantages(self, feedback: Feedback) -> Tensor:
        type(self).seen = feedback
        return super().advantages(feedback)


def test_greedy_rewards_are_those_of_the_most_likely_completions(tmp_path: Path) -> None:
    sgd_at_rest = partial(torch.optim.SGD, lr=0.0)
    module = tiny_rl(algorithm=GreedyBaseline(), verifier=Checksum(), optimizer=sgd_at_rest)
    data = tiny_data()
    tiny_trainer(tmp_path, 1).fit(module, data)
    feedback = GreedyBaseline.seen
    assert feedback is not None
    assert feedback.greedy_rewards is not None
    # Token by token, each question alone, from the model's own scores.
    questions = [data.training_questions()[index] for index in range(4)]
    for question, reward in zip(questions, feedback.greedy_rewards.tolist(), strict=True):
        state = module.policy.read(module.collator()([question]))
        tokens: list[int] = []
        with torch.no_grad():
            for _ in range(module.sampling.max_new_tokens):
                tokens.append(int(module.policy.logits(state.hidden)[0].argmax()))
                if tokens[-1] in module.policy.end_token_ids:
                    break
                new = torch.tensor([tokens[-1:]])
                state, _ = module.policy.read_on(state, new, torch.ones_like(new).bool())
        row = torch.tensor([tokens])
        (text,) = module.policy.decode(row, torch.ones_like(row).bool())
        assert reward == pytest.approx(module.verifier.score(text, question).reward)
    assert len(set(feedback.greedy_rewards.tolist())) == 4


def test_greedy_rewards_cost_nothing_where_they_are_not_read(tmp_path: Path) -> None:
    engine = Seeds()
    trained(tmp_path, 1, rollout=engine, update=UpdateSettings(self_check=False))
    assert len(engine.seen) == 1


def test_the_training_step_reads_in_forty_lines() -> None:
    assert len(inspect.getsource(RLModule.training_step).splitlines()) < 40


def test_a_group_of_one_fails_before_weights_are_loaded() -> None:
    policy = tiny_policy()
    with pytest.raises(ConfigError, match=r"group_size is 1.*set group_size to 2 or more"):
        tiny_rl(policy, group_size=1)
    assert not list(policy.parameters())


def test_greedy_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature is 0.*set it above 0"):
        tiny_rl(sampling=SamplingSettings(temperature=0))
