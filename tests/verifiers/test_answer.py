import pytest

from spatial_ssrl.core.questions import Question
from spatial_ssrl.verifiers import BoxedAnswer


def asked(answer, kind):
    return Question(uid="", task="x", images=(), prompt="", answer=answer, answer_kind=kind)


ORDER = asked("2,3,0,1", "order")
CHOICE = asked("B", "choice")
TEXT = asked("2,horizontal", "text")


@pytest.mark.parametrize(
    ("question", "given"),
    [
        (ORDER, "2,3,0,1"),
        (ORDER, "[2, 3, 0, 1]"),
        (ORDER, "( 2,3 ,0,1 )"),
        (ORDER, "02,3,0,1"),
        (CHOICE, "B"),
        (CHOICE, "b"),
        (CHOICE, "(B)"),
        (CHOICE, "[B]"),
        (CHOICE, "B."),
        (CHOICE, "B)"),
        (CHOICE, "B:"),
        (TEXT, "2,horizontal"),
        (TEXT, "(2, Horizontal)"),
        (TEXT, " 2 ,horizontal"),
    ],
)
def test_equal_values_are_right_whatever_their_spelling(question, given):
    verdict = BoxedAnswer().score(f"well, \\boxed{{{given}}}", question)
    assert verdict.reward == verdict.parts["accuracy"] == 1
    assert verdict.parsed == given.strip()


@pytest.mark.parametrize(
    ("question", "given"),
    [
        (ORDER, "2,3,1,0"),
        (ORDER, "2,3,0"),
        (ORDER, "2,3,0,1,1"),
        (ORDER, "2301"),
        (ORDER, "2 3 0 1"),
        (ORDER, "2,3,0,-1"),
        (ORDER, "2,3,0,1.0"),
        (ORDER, "2,3,0,1,"),
        (ORDER, "[2,3,0,1)"),
        (ORDER, "²,3,0,1"),
        (ORDER, ""),
        (CHOICE, "C"),
        (CHOICE, "B or C"),
        (CHOICE, "(B"),
        (CHOICE, "BB"),
        (CHOICE, "B. Left"),
        (CHOICE, ""),
        (TEXT, "2,vertical"),
        (TEXT, "horizontal,2"),
        (TEXT, "2 horizontal"),
        (TEXT, ""),
    ],
)
def test_anything_else_is_wrong(question, given):
    assert BoxedAnswer().score(f"\\boxed{{{given}}}", question).reward == 0


def test_only_the_last_box_counts_and_only_a_box():
    assert BoxedAnswer().score("\\boxed{C} no, \\boxed{B}", CHOICE).reward == 1
    assert BoxedAnswer().score("\\boxed{B} no, \\boxed{C}", CHOICE).reward == 0
    bare = BoxedAnswer().score("B", CHOICE)
    assert (bare.reward, bare.parsed) == (0, None)


@pytest.mark.parametrize(
    ("given", "reward"), [("2,3,0,1", 1), (" 2,3,0,1 ", 1), ("[2,3,0,1]", 0), ("2, 3, 0, 1", 0)]
)
def test_exact_compares_strings(given, reward):
    assert BoxedAnswer(exact=True).score(f"\\boxed{{{given}}}", ORDER).reward == reward


def test_a_number_too_long_for_an_integer_is_just_wrong():
    assert BoxedAnswer().score("\\boxed{" + "9" * 10_000 + "}", ORDER).reward == 0
