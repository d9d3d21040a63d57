"""What surrounds a question: the instruction on the answer's form, and given answers."""

from __future__ import annotations

from spatial_ssrl.core.questions import Question

_INSTRUCTION = "First think inside <think> </think>, then give the final answer in \\boxed{}."


def instruction() -> str:
    """Return the sentence that asks for reasoning, then a boxed answer."""
    return _INSTRUCTION


def full_prompt(question: Question) -> str:
    """Return the question's text, with its "<image>" placeholders, and the instruction."""
    return f"{question.prompt}\n{_INSTRUCTION}"


def worked_answer(question: Question) -> str:
    """Return a right completion with the task's own reasoning, for the cold start."""
    return f"<think>{question.explanation}</think>\\boxed{{{question.answer}}}"


def plain_answer(question: Question) -> str:
    """Return a right completion without reasoning; it earns the full reward too."""
    return f"<think></think>\\boxed{{{question.answer}}}"
