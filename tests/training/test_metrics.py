from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from spatial_ssrl.core.batches import Rollouts
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import TokenCount
from spatial_ssrl.training.groups import Groups
from spatial_ssrl.training.metrics import (
    Metrics,
    StageTimer,
    cost_metrics,
    peak_memory_gib,
    reported,
    rollout_metrics,
)

CPU = torch.device("cpu")


def question(task: str, chance: float) -> Question:
    return Question(
        uid=f"{task}-{chance}",
        task=task,
        images=(np.zeros((2, 2, 3), np.uint8),),
        prompt="<image>?",
        answer="A",
        answer_kind="choice",
        chance=chance,
    )


def rollouts(lengths: list[int], group_size: int, truncated: list[bool]) -> Rollouts:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return Rollouts(
        tokens=mask.long(),
        mask=mask,
        logprobs=None,
        texts=("",) * len(lengths),
        truncated=torch.tensor(truncated),
        group_size=group_size,
    )


def groups(
    questions: tuple[Question, ...],
    completions: Rollouts,
    verdicts: list[Verdict],
    signal: torch.Tensor,
) -> Groups:
    return Groups(questions, completions, tuple(verdicts), None, signal, signal)


QUESTIONS = (question("turn", 0.25), question("order", 0.5), question("turn", 0.75))
LENGTHS = [3, 5, 2, 2, 7, 1]
RIGHT = [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
SIGNAL = torch.tensor([True, False, False])


def whole() -> Metrics:
    verdicts = [Verdict(0.9 * right, {"accuracy": right}) for right in RIGHT]
    verdicts[4] = replace(verdicts[4], parts={"accuracy": 1.0, "format": 0.5})
    cut = [False, True, False, False, False, False]
    return rollout_metrics(groups(QUESTIONS, rollouts(LENGTHS, 2, cut), verdicts, SIGNAL))


def test_what_a_batch_shows_by_hand() -> None:
    values = reported(whole())
    assert values["reward"] == pytest.approx(0.9 * 5 / 6)
    assert values["reward/accuracy"] == pytest.approx(5 / 6)
    assert values["reward/format"] == 0.5  # Of the one completion it applies to.
    assert values["accuracy/turn"] == pytest.approx(3 / 4)
    assert values["chance/turn"] == pytest.approx(0.5)
    assert values["above_chance/turn"] == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert values["above_chance/order"] == pytest.approx(1.0)
    assert values["flat_groups"] == pytest.approx(2 / 3)
    assert values["flat_groups/turn"] == pytest.approx(1 / 2)
    assert values["flat_groups/order"] == 1.0
    assert (values["length"], values["length_max"]) == (pytest.approx(20 / 6), 7.0)
    assert values["truncated"] == pytest.approx(1 / 6)
    assert (values["completions"], values["tokens"]) == (6.0, 20.0)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    verdicts = [Verdict(0.9 * right, {"accuracy": right}) for right in RIGHT]
    verdicts[4] = replace(verdicts[4], parts={"accuracy": 1.0, "format": 0.5})
    cut = [False, True, False, False, False, False]
    first = rollout_metrics(
        groups(QUESTIONS[:1], rollouts(LENGTHS[:2], 2, cut[:2]), verdicts[:2], SIGNAL[:1])
    )
    # As another process would send it.
    second = pickle.loads(
        pickle.dumps(
            rollout_metrics(
                groups(QUESTIONS[1:], rollouts(LENGTHS[2:], 2, cut[2:]), verdicts[2:], SIGNAL[1:])
            ).settled()
        )
    )
    first.merge(second)
    assert reported(first) == pytest.approx(reported(whole()))


def test_a_task_that_is_all_guessing_has_no_share_above_chance() -> None:
    certain = (question("sure", 1.0),)
    metrics = rollout_metrics(
        groups(certain, rollouts([1], 1, [False]), [Verdict(1.0, {})], torch.tensor([True]))
    )
    assert "above_chance/sure" not in reported(metrics)


def test_loss_statistics_are_means_over_tokens_whatever_their_names() -> None:
    metrics = Metrics()
    for tokens, ratio, surprisal in ((3, 3.3, 6.0), (1, 0.7, 2.0)):
        metrics.add_stats(
            {
                "tokens": torch.tensor(tokens),
                "ratio": torch.tensor(ratio),
                "surprisal": torch.tensor(surprisal),
                "something_new": torch.tensor(1.0),
            }
        )
    metrics.add_stats({"tokens": torch.tensor(0), "rare": torch.tensor(0.0)})
    values = reported(metrics)
    assert values["ratio"] == pytest.approx(4.0 / 4)
    assert values["entropy"] == pytest.approx(8.0 / 4)
    assert values["something_new"] == pytest.approx(2.0 / 4)
    assert "tokens" not in values
    assert "rare" not in values  # A mean over nothing.


def test_rates_count_what_was_sampled_by_the_time_it_took() -> None:
    time = StageTimer()
    time.seconds |= {"sample": 2.0, "update": 3.0}
    metrics = whole()
    metrics.merge(cost_metrics(time, TokenCount(computed=30, repeated=120), CPU))
    values = reported(metrics)
    assert (values["forward_tokens"], values["forward_share"]) == (30, 0.25)
    assert 0.01 < values["peak_memory_gib"] < 1000
    assert values["tokens_per_s/sample"] == pytest.approx(20 / 2)
    assert values["tokens_per_s"] == pytest.approx(20 / 5)
    assert values["rollouts_per_s"] == pytest.approx(6 / 5)
    # A second process, as fast: twice the completions in the same time.
    metrics.merge(metrics.settled())
    both = reported(metrics)
    assert both["tokens_per_s"] == pytest.approx(2 * 20 / 5)
    assert (both["forward_tokens"], both["forward_share"]) == (60, 0.25)
    assert "replayed_tokens" not in both
    # A third one, which found that recorded steps are faster there.
    metrics.merge(cost_metrics(time, TokenCount(computed=30, repeated=120, replayed=20), CPU))
    assert reported(metrics)["replayed_tokens"] == 20


def test_the_peak_of_memory_is_that_of_the_device_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def allocated(device: torch.device) -> int:
        asked.append(device)
        return 3 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", allocated)
    # A machine with a GPU, and a run on its CPU.
    resident = peak_memory_gib(CPU)
    assert 0.01 < resident < 1000
    assert not asked
    assert peak_memory_gib(torch.device("cuda", 1)) == 3
    assert asked == [torch.device("cuda", 1)]
