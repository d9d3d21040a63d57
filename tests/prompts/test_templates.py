import numpy as np
import pytest

from spatial_ssrl.core.questions import Question
from spatial_ssrl.prompts import full_prompt, instruction, plain_answer, worked_answer


@pytest.fixture
def question():
    return Question(
        uid="1",
        task="depth_order",
        images=(np.zeros((8, 8, 3), np.uint8),),
        prompt="<image>Which?",
        answer="3,1,2",
        answer_kind="order",
        explanation="Region 3 is nearest.",
    )


def test_instruction_follows_the_question_and_names_both_parts(question):
    assert full_prompt(question) == f"<image>Which?\n{instruction()}"
    assert "<think> </think>" in instruction()
    assert "\\boxed{}" in instruction()


def test_given_answers(question):
    assert worked_answer(question) == "<think>Region 3 is nearest.</think>\\boxed{3,1,2}"
    assert plain_answer(question) == "<think></think>\\boxed{3,1,2}"
