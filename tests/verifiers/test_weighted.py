import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.verifiers import BoxedAnswer, ThinkThenBoxed, WeightedSum

QUESTION = Question(uid="", task="x", images=(), prompt="", answer="B", answer_kind="choice")


@pytest.mark.parametrize(
    ("text", "reward", "parts"),
    [
        ("<think>a</think>\\boxed{B}", 1.0, {"accuracy": 1, "format": 1}),
        ("\\boxed{B}", 0.9, {"accuracy": 1, "format": 0}),
        ("<think>a</think>\\boxed{C}", 0.1, {"accuracy": 0, "format": 1}),
        ("B", 0.0, {"accuracy": 0, "format": 0}),
    ],
)
def test_by_default_accuracy_counts_nine_tenths_and_format_one(text, reward, parts):
    verdict = WeightedSum().score(text, QUESTION)
    assert verdict.reward == pytest.approx(reward)
    assert verdict.parts == parts


def test_parsed_answer_comes_from_the_verifier_that_has_one():
    both = WeightedSum([ThinkThenBoxed(), BoxedAnswer(exact=True)], [0.5, 0.5])
    verdict = both.score("\\boxed{b}", QUESTION)
    assert (verdict.reward, verdict.parsed) == (0, "b")


@pytest.mark.parametrize(
    ("verifiers", "weights", "message"),
    [
        ([BoxedAnswer()], None, "both or neither"),
        (None, [1.0], "both or neither"),
        ([BoxedAnswer()], [0.5, 0.5], "got 2 for 1"),
        ([BoxedAnswer()], [0.5], r"add up to 1, got \[0.5\]"),
        ([BoxedAnswer(), ThinkThenBoxed()], [1.5, -0.5], "0 or more"),
    ],
)
def test_weights_that_cannot_work_are_refused(verifiers, weights, message):
    with pytest.raises(ConfigError, match=message):
        WeightedSum(verifiers, weights)
