import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatial_ssrl.core.questions import Question
from spatial_ssrl.verifiers import ThinkThenBoxed

QUESTION = Question(uid="", task="x", images=(), prompt="", answer="B", answer_kind="choice")
FRAGMENTS = [
    "<think>",
    "</think>",
    "\\boxed{",
    "}",
    "<",
    ">",
    "/",
    " ",
    "\n",
    "think",
    "a",
    "\u2003",
]


def score(text):
    verdict = ThinkThenBoxed().score(text, QUESTION)
    assert verdict.reward == verdict.parts["format"]
    return verdict.reward


@pytest.mark.parametrize(
    "text",
    [
        "<think>far</think>\\boxed{B}",
        "<think></think>\\boxed{}",
        " < think >\nfar < / think >\n\\boxed{B}\nDone.",
        "<think>a</think></think>\\boxed{\\boxed{B}",
    ],
)
def test_thinking_then_boxing_is_right(text):
    assert score(text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\\boxed{B}",
        "<think>a</think> B",
        "<think>a</think> so \\boxed{B",
        "so <think>a</think>\\boxed{B}",
        "<think>a \\boxed{B}</think>",
        "<think>a \\boxed{B}",
        "<thi nk>a</think>\\boxed{B}",
        "<think>a</think>\\boxed {B}",
        "</think><think>\\boxed{B}",
    ],
)
def test_anything_else_is_wrong(text):
    assert score(text) == 0


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join) | st.text(max_size=50))
def test_equals_the_definition_as_a_pattern(text):
    packed = re.sub(r"\s*([<>/])\s*", r"\1", text)
    expected = re.match(r"<think>.*</think>.*\\boxed\{.*\}", packed, re.DOTALL) is not None
    assert score(text) == expected
