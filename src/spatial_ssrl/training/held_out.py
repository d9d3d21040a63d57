"""Greedy answers to held-out questions, judged and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.rollout.base import RolloutEngine
from spatial_ssrl.training.distributed import gather
from spatial_ssrl.verifiers.base import Verifier


@dataclass(frozen=True)
class AnswerRecord:
    """One held-out question and what the policy made of it.

    Args:
        uid: The question's id; runs are paired by it.
        task: Registry key of the task.
        completion: What the policy wrote.
        answer: The right answer.
        parsed: What the verifier took as the policy's answer, or None.
        correct: Whether the answer is right.
        reward: The verifier's reward.
        chance: Accuracy of a uniform guess.
        truncated: Whether the length limit cut the completion.
    """

    uid: str
    task: str
    completion: str
    answer: str
    parsed: str | None
    correct: bool
    reward: float
    chance: float
    truncated: bool

    def as_dict(self) -> dict[str, object]:
        """Return the record as plain values, for JSON."""
        return asdict(self)


def judge(
    verifier: Verifier, questions: Sequence[Question], rollouts: Rollouts
) -> tuple[Verdict, ...]:
    """Return the verdict on each completion; row i answers question i // group size."""
    group = rollouts.group_size
    return tuple(
        verifier.score(text, questions[row // group]) for row, text in enumerate(rollouts.texts)
    )


def is_correct(verdict: Verdict) -> bool:
    """Return whether the answer is right: full accuracy, or full reward without that part."""
    return verdict.parts.get("accuracy", verdict.reward) >= 1.0


def sample_greedily(
    policy: PolicyBackbone, rollout: RolloutEngine, prompts: PromptBatch, sampling: SamplingSettings
) -> Rollouts:
    """Return the most likely completion of each prompt."""
    greedy = replace(sampling, temperature=0.0)
    return rollout.sample(policy, prompts, group_size=1, sampling=greedy, seed=0)


def answer_greedily(
    policy: PolicyBackbone,
    rollout: RolloutEngine,
    verifier: Verifier,
    prompts: PromptBatch,
    sampling: SamplingSettings,
) -> list[AnswerRecord]:
    """Answer each question with the most likely tokens, and judge the answers."""
    rollouts = sample_greedily(policy, rollout, prompts, sampling)
    verdicts = judge(verifier, prompts.questions, rollouts)
    return [
        AnswerRecord(
            uid=question.uid,
            task=question.task,
            completion=text,
            answer=question.answer,
            parsed=verdict.parsed,
            correct=is_correct(verdict),
            reward=verdict.reward,
            chance=question.chance,
            truncated=bool(cut),
        )
        for question, text, verdict, cut in zip(
            prompts.questions, rollouts.texts, verdicts, rollouts.truncated.tolist(), strict=True
        )
    ]


class AccuracyTally:
    """Right answers and questions by task, added up over batches."""

    def __init__(self) -> None:
        self._right: dict[str, int] = {}
        self._asked: dict[str, int] = {}

    def add(self, records: Iterable[AnswerRecord]) -> None:
        """Count some records."""
        for record in records:
            self._right[record.task] = self._right.get(record.task, 0) + record.correct
            self._asked[record.task] = self._asked.get(record.task, 0) + 1

    def over_processes(self) -> AccuracyTally:
        """Return the sum of all processes' tallies; all of them must ask."""
        whole = AccuracyTally()
        for tally in gather(self, "counting right answers"):
            for task, asked in tally._asked.items():
                whole._right[task] = whole._right.get(task, 0) + tally._right[task]
                whole._asked[task] = whole._asked.get(task, 0) + asked
        return whole

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy of each task, and under "mean" the mean over tasks."""
        by_task = {task: self._right[task] / n for task, n in sorted(self._asked.items())}
        return {**by_task, "mean": sum(by_task.values()) / len(by_task)} if by_task else {}
