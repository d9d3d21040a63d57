from __future__ import annotations

import pickle

import pytest

from spatial_ssrl.core.errors import ConfigError, RegistryError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data import ColdStartAnswers, answer_text


def question(task: str) -> Question:
    return Question("0", task, (), "?", "2,0,1", "order", explanation="Left is near.")


WORKED, PLAIN = r"<think>Left is near.</think>\boxed{2,0,1}", r"<think></think>\boxed{2,0,1}"


def test_answers_are_worked_or_plain() -> None:
    assert answer_text(question("depth_order"), "worked") == WORKED
    assert answer_text(question("depth_order"), "plain") == PLAIN


def test_listed_tasks_get_worked_answers_and_the_others_plain_ones() -> None:
    answers = pickle.loads(pickle.dumps(ColdStartAnswers(["depth_order"])))
    assert answers(question("depth_order")) == WORKED
    assert answers(question("flipped_patch")) == PLAIN


def test_unknown_words_and_tasks_are_named() -> None:
    with pytest.raises(ConfigError, match='"worked", "plain" or a list of task keys, got'):
        ColdStartAnswers("long")
    with pytest.raises(RegistryError, match=r"Unknown task 'depth_ordr'.*depth_order"):
        ColdStartAnswers(["depth_ordr"])
