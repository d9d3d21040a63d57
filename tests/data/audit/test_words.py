"""What guessers are told of a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from spatial_ssrl.data.audit.words import (
    option_features,
    presence,
    without_options,
    word_hashes,
)

ABCD = ("A", "B", "C", "D")


def test_every_n_gram_counts_once_and_case_does_not() -> None:
    # a, b, "a b", "b a", "a b a"
    assert len(word_hashes("a b A")) == 5
    assert word_hashes("A b a").tolist() == word_hashes("a b A").tolist()
    assert set(word_hashes("b a")) < set(word_hashes("a b a"))


def test_only_what_tells_texts_apart_is_kept() -> None:
    texts = [word_hashes("the same" + (" left" if number % 2 else "")) for number in range(10)]
    table = presence(texts)
    # "left", "same left" and "the same left" tell them apart; what all texts say does not.
    assert table.tolist() == [[number % 2] * 3 for number in range(10)]
    assert presence(texts, most=2).shape == (10, 2)
    assert presence(texts[:1] * 5).shape == (5, 0)


@pytest.mark.parametrize(
    "listed",
    [
        "A. Left B. Front C. Right D. Back Answer with a letter.",
        "(A) Left; (B) Front; (C) Right; (D) Back.",
        "A: Left\nB: Front\nC: Right\nD: Back",
    ],
)
def test_options_are_taken_out_wherever_they_are_listed(listed: str) -> None:
    prompt = f"The camera faces the left. {listed}"
    rest = without_options(prompt, ABCD, ("Left", "Front", "Right", "Back"))
    assert rest is not None
    assert "faces the left" in rest
    assert not {"Front", "Right", "Back", "Left"} & set(rest.replace(";", " ").split())


def test_prompts_without_the_options_are_left_alone() -> None:
    assert without_options("Which one fits?", ABCD, ()) is None
    assert without_options("Which one fits?", ABCD, ("Left", "Front", "Right", "Back")) is None
    assert without_options("A. Left", ABCD, ("Left",)) is None


def test_an_option_is_told_by_its_words_not_by_its_letter() -> None:
    contexts = [word_hashes("faces left"), word_hashes("faces right")] * 2
    options = [("Front", "Back"), ("Front", "Back"), ("Back", "Front"), ("Back", "Front")]
    table = option_features(contexts, options)
    assert table.shape[:2] == (4, 2)
    assert np.array_equal(table[0, 0], table[2, 1]), "Front, with the camera to the left"
    assert not np.array_equal(table[0, 0], table[1, 0]), "the camera matters"
    assert not np.array_equal(table[0, 0], table[0, 1]), "the option matters"
