"""What the policy learns to write in the cold start: a question's worked or plain answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.prompts import plain_answer, worked_answer
from spatial_ssrl.tasks import TASKS

Answers = Literal["worked", "plain"] | list[str]
"""Worked answers, plain answers, or the keys of the tasks whose answers are worked."""


def answer_text(question: Question, answers: Answers) -> str:
    r"""Return the completion to learn from: `<think>reasoning</think>\boxed{answer}`.

    Args:
        question: The question; its `explanation` is the reasoning of a worked answer.
        answers: "worked", "plain" (nothing between the think tags), or a list of task keys:
            those get worked answers, every other task plain ones.
    """
    worked = answers == "worked" if isinstance(answers, str) else question.task in answers
    return worked_answer(question) if worked else plain_answer(question)


@dataclass(frozen=True)
class ColdStartAnswers:
    """Picklable form of `answer_text`, for collators in data workers.

    Args:
        answers: As in `answer_text`.

    Raises:
        ConfigError: If `answers` is another word.
        RegistryError: If a listed task key is unknown; the message lists close matches.
    """

    answers: Answers = "worked"

    def __post_init__(self) -> None:
        if not isinstance(self.answers, str):
            for key in self.answers:
                TASKS.get(key)
        elif self.answers not in ("worked", "plain"):
            raise ConfigError(
                f'answers must be "worked", "plain" or a list of task keys, got {self.answers!r}.'
            )

    def __call__(self, question: Question) -> str:
        """Return the completion to learn from."""
        return answer_text(question, self.answers)
