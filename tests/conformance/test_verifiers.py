"""What every registered verifier must do."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.prompts import plain_answer, worked_answer
from spatial_ssrl.verifiers import VERIFIERS

QUESTIONS = [
    Question("1", "x", (), "", "2,3,0,1", "order", explanation="Patch 2 comes first."),
    Question("2", "x", (), "", "B", "choice", choices=("A", "B")),
    Question("3", "x", (), "", "2,horizontal", "text"),
]
FRAGMENTS = [
    *("<think>", "</think>", "\\boxed{", "{", "}", "[", "(", ")", "]", ",", " ", "\n", "\\"),
    *("2,3,0,1", "B", "2,horizontal", "\ud800", "\x00", "ß", "٣"),
]
TEXTS = st.text() | st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join)
HOSTILE = {
    "braces": "{" * 10**6,
    "boxes": "\\boxed{" * 10**5,
    "space": "<think>" + " " * 10**6,
    "signs": "<think></think>" + "< /" * 3 * 10**5,
    "long answer": "\\boxed{" + "[2," * 3 * 10**5 + "}",
    "long number": "\\boxed{" + "9" * 10**6 + "}",
    "long letters": "\\boxed{" + "B" * 10**6 + ".}",
}

every_verifier = pytest.mark.parametrize("key", list(VERIFIERS))


@every_verifier
@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.answer_kind)
@pytest.mark.parametrize("complete", [worked_answer, plain_answer])
def test_given_answers_earn_the_full_reward(key, question, complete):
    verdict = VERIFIERS.get(key)().score(complete(question), question)
    assert verdict.reward == pytest.approx(1)
    assert all(part == 1 for part in verdict.parts.values())


@every_verifier
@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_any_text_gives_a_verdict_in_range(key, text):
    verifier = VERIFIERS.get(key)()
    for question in QUESTIONS:
        verdict = verifier.score(text, question)
        assert isinstance(verdict, Verdict)
        assert 0 <= verdict.reward <= 1
        assert verdict.parts
        assert all(0 <= part <= 1 for part in verdict.parts.values())


@every_verifier
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_takes_linear_time(key, text):
    verifier = VERIFIERS.get(key)()
    start = time.process_time()
    for question in QUESTIONS:
        assert verifier.score(text, question).reward < 1
    assert time.process_time() - start < 10  # quadratic time would be hours
