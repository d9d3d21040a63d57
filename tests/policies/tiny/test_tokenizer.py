from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatial_ssrl import tasks
from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies.tiny.policy import default_tokenizer
from spatial_ssrl.policies.tiny.tokenizer import (
    END,
    IMAGE,
    PAD,
    SPECIAL_TOKENS,
    build_tokenizer,
    clauses,
)
from spatial_ssrl.prompts.templates import full_prompt, plain_answer, worked_answer

BUILT_IN = (
    tasks.ShuffledPatches(wording="terse"),
    tasks.FlippedPatch(wording="terse"),
    tasks.CroppedInpainting(wording="terse"),
    tasks.DepthOrder(wording="terse"),
    tasks.RelativePosition(wording="terse"),
)

FRAGMENTS = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "<0x41>", "<|", "Patch 2 ", "A. Left ", "2,3,0,1", "}\n"]
)
TEXTS = st.lists(st.text() | FRAGMENTS).map("".join)


def unseen_questions(task: tasks.PretextTask, count: int) -> list[Question]:
    """Questions on scenes that the tokenizer's corpus does not hold."""
    scenes, found = SyntheticScenes(count=10**6, size=64), []
    for index in range(5000, 6000):
        try:
            found.append(task.make(scenes.scene(index), rng_for(5, index)))
        except SceneRejected:
            continue
        if len(found) == count:
            break
    return found


def pieces(text: str) -> list[str]:
    return default_tokenizer().tokenize(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_no_text_is_lost(text: str) -> None:
    tokenizer = default_tokenizer()
    if any(special in text for special in SPECIAL_TOKENS):
        return
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.batch_decode([ids], skip_special_tokens=True) == [text]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_clauses_join_to_the_text(text: str) -> None:
    assert "".join(clauses(text)) == text
    assert "" not in clauses(text)


@pytest.mark.parametrize("task", BUILT_IN, ids=lambda task: type(task).__name__)
def test_questions_and_answers_take_few_tokens(task: tasks.PretextTask) -> None:
    tokenizer = default_tokenizer()
    for question in unseen_questions(task, 8):
        prompt = full_prompt(question)
        assert len(tokenizer(prompt)["input_ids"]) <= len(prompt.split()) / 2 <= 40
        assert len(tokenizer(worked_answer(question))["input_ids"]) <= 20
        # Brackets of the answer, its end, and each of its numbers or letters.
        assert len(tokenizer(plain_answer(question))["input_ids"]) <= 3 + 4


def test_digits_stand_alone() -> None:
    assert pieces("\\boxed{2,3,0,1}")[-5:] == ["2", ",3", ",0", ",1", "}"]
    for number in range(10):
        assert pieces(f"Patch {number} comes first, then 4.")[1] == str(number)
    # Two digits are two tokens, whatever they are.
    assert pieces("12") == ["1", "2"]


def test_option_letters_stand_alone() -> None:
    tokenizer = default_tokenizer()
    answers = {
        letter: tokenizer(f"<think></think>\\boxed{{{letter}}}")["input_ids"] for letter in "ABCD"
    }
    assert len({len(ids) for ids in answers.values()}) == 1
    differing = {tuple(ids[:-2] + ids[-1:]) for ids in answers.values()}
    assert len(differing) == 1, "only the token before the closing bracket may differ"
    assert [tokenizer.decode(ids[-2:-1]) for ids in answers.values()] == list("ABCD")
    # The same token names an option in the question's own words.
    assert pieces("The others are candidates A, B, C and D. ")[1::2] == ["A", "B", "C", "D. "]


def test_pictures_and_ends_are_single_tokens() -> None:
    tokenizer = default_tokenizer()
    ids = tokenizer(f"{IMAGE}{IMAGE}A{END}{PAD}")["input_ids"]
    assert len(ids) == 5
    assert ids[3:] == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "A"


def test_clauses_that_recur_become_tokens() -> None:
    corpus = ["Which way is up? Answer.", "Which way is up? Guess."]
    tokenizer = build_tokenizer(corpus, min_count=2)
    assert tokenizer.tokenize("Which way is up? Answer.")[0] == "Which way is up? "
    assert len(tokenizer.tokenize("Which way is up? Answer.")) == 1 + len("Answer.")
    assert len(build_tokenizer(corpus, min_count=1).tokenize(corpus[0])) == 2
    assert len(build_tokenizer(corpus, min_count=3).tokenize(corpus[0])) == len(corpus[0])


def test_vocabulary_does_not_depend_on_the_order_of_texts() -> None:
    corpus = [
        f"Number {number}. And so on. Again: {letter}."
        for number, letter in zip(range(5), string.ascii_letters, strict=False)
    ] * 2
    assert build_tokenizer(corpus).get_vocab() == build_tokenizer(corpus[::-1]).get_vocab()


def test_chat_template_places_pictures_and_asks_for_an_answer() -> None:
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " Which?"}]}
    text = default_tokenizer().apply_chat_template(
        [turn], tokenize=False, add_generation_prompt=True
    )
    assert text == "<image> Which?<|answer|>"
    plain = [{"role": "user", "content": "Which?"}]
    assert default_tokenizer().apply_chat_template(plain, tokenize=False) == "Which?"
