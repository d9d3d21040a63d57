"""Completions continued by recorded steps, against plain sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from spatial_ssrl.policies.fixed_step import FixedStep
from spatial_ssrl.rollout import InProcess, RolloutEngine, cuda_graphs
from spatial_ssrl.rollout.continuing import Recorder
from support.markov import MarkovChain
from support.recording import Waits, recorded
from support.tiny_models import random_question, write_tiny
from support.tiny_vlm import loud_policy, mixed_questions


class Recording(InProcess):
    """Records steps on a CPU as it would on a card."""

    def __init__(self, record: Recorder = recorded) -> None:
        super().__init__(cuda_graphs="always")
        self.rows: list[int] = []
        self.record = record

    def recorder(self, device: torch.device) -> Recorder:
        def noted(step: FixedStep) -> Callable[[], None]:
            self.rows.append(len(step))
            return self.record(step)

        return noted


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", ["tiny_vlm", "qwen2_5_vl"])
def test_completions_are_those_of_plain_sampling(family: str, seed: int, tmp_path: Path) -> None:
    # Long enough for the room to be doubled twice, most completions ending on the way.
    sampling = SamplingSettings(max_new_tokens=200)
    if family == "tiny_vlm":
        policy, questions = loud_policy(), mixed_questions()
    else:
        policy = HFVisionLanguagePolicy(str(write_tiny(tmp_path)))
        policy.load()
        questions = [random_question(1, "Which?", seed=1), random_question(2, "Order.", seed=2)]
    prompts = policy.collator()(questions)
    engine = Recording()
    found = engine.sample(policy, prompts, 6, sampling, seed)
    wanted = InProcess().sample(policy, prompts, 6, sampling, seed)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.mask, wanted.mask)
    assert torch.equal(found.truncated, wanted.truncated)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-5, rtol=1e-5)
    lengths = wanted.mask.sum(1)
    assert lengths.max() > 128
    # Rows of completions that ended are given up when the room is doubled, and never taken back.
    assert engine.rows[0] <= 6 * len(questions)
    assert sorted(engine.rows, reverse=True) == engine.rows
    assert engine.rows[-1] < engine.rows[0]


def test_rows_are_given_up_when_half_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sampling = loud_policy(), SamplingSettings(max_new_tokens=60)  # The room is enough.
    # About one token in twenty ends a completion.
    ends = tuple(range(5, policy.vocabulary_size, 20))
    monkeypatch.setattr(type(policy), "end_token_ids", property(lambda self: ends))
    prompts = policy.collator()(mixed_questions())
    engine = Recording()
    found = engine.sample(policy, prompts, 8, sampling, 0)
    assert engine.rows[0] > 12
    assert len(engine.rows) > 1
    assert all(2 * after <= rows for rows, after in pairwise(engine.rows))
    wanted = InProcess().sample(policy, prompts, 8, sampling, 0)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.mask, wanted.mask)


def test_short_ends_are_not_recorded() -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions())
    engine = Recording()
    found = engine.sample(policy, prompts, 4, SamplingSettings(max_new_tokens=16), 0)
    assert engine.rows == []
    wanted = InProcess().sample(policy, prompts, 4, SamplingSettings(max_new_tokens=16), 0)
    assert torch.equal(found.tokens, wanted.tokens)


def test_other_policies_and_devices_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, engine = MarkovChain(), Recording()
    sampling = SamplingSettings(max_new_tokens=40)
    monkeypatch.setattr(MarkovChain, "has_fixed_steps", False, raising=False)
    found = engine.sample(chain, chain.prompts(), 4, sampling, 0)  # type: ignore[arg-type]
    wanted = InProcess().sample(chain, chain.prompts(), 4, sampling, 0)  # type: ignore[arg-type]
    assert torch.equal(found.tokens, wanted.tokens)
    assert engine.rows == []
    for graphs in ("always", "measured"):
        assert InProcess(cuda_graphs=graphs).recorder(torch.device("cpu")) is None
        assert InProcess(cuda_graphs=graphs).recorder(torch.device("cuda")) is not None
    assert InProcess().recorder(torch.device("cuda")) is None


@pytest.mark.parametrize("graphs", [True, False, "on", None])
def test_a_bad_choice_is_refused(graphs: Any) -> None:
    with pytest.raises(ConfigError, match=r'cuda_graphs must be "never", .* leave it out'):
        InProcess(cuda_graphs=graphs)


@pytest.mark.parametrize("graphs", ["never", "always", "measured"])
def test_choices_are_plain_words_in_yaml(graphs: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rollout", type=RolloutEngine)
    text = f"{{rollout: {{class_path: InProcess, init_args: {{cuda_graphs: {graphs}}}}}}}"
    built = parser.instantiate(parser.parse_string(text))
    assert built.rollout.cuda_graphs == graphs


# Waiting for the device.


def waits_of_steps(engine: InProcess, tokens: int) -> list[list[str]]:
    """Return what the host waits for, the model aside, in each step of sampling."""
    policy, found = loud_policy(), list[list[str]]()
    logits, read_on = policy.logits, policy.read_on
    prompts = policy.collator()(mixed_questions())

    def begins(hidden: Tensor) -> Tensor:
        found.append(list(waits.names))
        waits.names.clear()
        return logits(hidden)

    def unnoticed(*args: Any) -> Any:
        before = list(waits.names)
        state = read_on(*args)
        waits.names[:] = before
        return state

    with pytest.MonkeyPatch.context() as patch, Waits() as waits:
        patch.setattr(policy, "logits", begins)
        patch.setattr(policy, "read_on", unnoticed)
        rollouts = engine.sample(policy, prompts, 6, SamplingSettings(max_new_tokens=tokens), 0)
    assert rollouts.mask.shape[1] == tokens
    ended = set((rollouts.mask.sum(1) - 1).tolist())
    # What comes before the first step is left out, and steps after which rows leave.
    return [names for step, names in enumerate(found[1:]) if step not in ended]


@pytest.mark.parametrize("engine", [InProcess, Recording])
def test_completions_on_rows_of_their_own_wait_once_a_token(engine: type[InProcess]) -> None:
    waits = waits_of_steps(engine(), 60)
    once = [names for names in waits if names == ["nonzero"]]
    assert len(once) > 20
    # Before that completions part, and rooms are made in which steps can be recorded.
    assert len(waits) - len(once) < 8


# Recordings that fail.


def wrongly(step: FixedStep) -> Callable[[], None]:
    """Return a replay that goes wrong in what it finds."""
    replay = recorded(step)

    def off() -> None:
        replay()
        step.hidden.add_(0.1 * step.hidden.abs().max())

    return off


def refused(step: FixedStep) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE")


@pytest.mark.parametrize(("record", "said"), [(wrongly, "off hidden states"), (refused, "permit")])
def test_sampling_goes_on_without(
    record: Recorder,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = []

    def tried(step: FixedStep) -> Callable[[], None]:
        tries.append(step)
        return record(step)

    monkeypatch.setattr(cuda_graphs, "_recorded", tried)
    policy, sampling = loud_policy(), SamplingSettings(max_new_tokens=150)
    prompts = policy.collator()(mixed_questions())
    engine = Recording(cuda_graphs.CudaGraphs())
    with caplog.at_level(logging.WARNING):
        found = engine.sample(policy, prompts, 6, sampling, 0)
    assert len(engine.rows) > 1
    assert len(tries) == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("Sampling goes on without CUDA graphs: ")
    assert said in message
    assert "\n" not in message
    wanted = InProcess().sample(policy, prompts, 6, sampling, 0)
    assert torch.equal(found.tokens, wanted.tokens)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-5, rtol=1e-5)


def test_a_right_recording_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replays = 0

    def counted(step: FixedStep) -> Callable[[], None]:
        replay = recorded(step)

        def once() -> None:
            nonlocal replays
            replays += 1
            replay()

        return once

    monkeypatch.setattr(cuda_graphs, "_recorded", counted)
    policy, sampling = loud_policy(), SamplingSettings(max_new_tokens=60)
    prompts = policy.collator()(mixed_questions())
    with caplog.at_level(logging.WARNING):
        found = Recording(cuda_graphs.CudaGraphs()).sample(policy, prompts, 6, sampling, 0)
    assert not caplog.records
    assert replays > 20
    wanted = InProcess().sample(policy, prompts, 6, sampling, 0)
    assert torch.equal(found.tokens, wanted.tokens)
