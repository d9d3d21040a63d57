import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatial_ssrl.prompts import last_boxed, split_think

FRAGMENTS = ["\\boxed{", "{", "}", "<think>", "</think>", "a", " ", "2,1", "\n", "\\", "boxed"]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join) | st.text()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{B}", "B"),
        ("so \\boxed{ 2,3,0,1 }.", "2,3,0,1"),
        ("\\boxed{A} or rather \\boxed{C}", "C"),
        ("\\boxed{A} then \\boxed{C", "A"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{a \\boxed{b} c}", "b"),
        ("\\boxed{}", ""),
        ("}}} \\boxed{x}", "x"),
        ("{ \\boxed{x}", "x"),
        ("\\boxed{x", None),
        ("\\boxed {x}", None),
        ("boxed{x}", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


def plain_search(text):
    """Try every box from the last one on, counting braces."""
    start = len(text)
    while (start := text.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for place in range(start + 7, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth < 0:
                return text[start + 7 : place].strip()
    return None


@given(TEXTS)
def test_last_boxed_equals_a_plain_search(text):
    assert last_boxed(text) == plain_search(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>far</think>\\boxed{A}", ("far", "\\boxed{A}")),
        ("<think></think>", ("", "")),
        ("a<think>b</think>c</think>d", ("b", "c</think>d")),
        ("</think>b<think>", (None, "</think>b<think>")),
        ("no tags", (None, "no tags")),
    ],
)
def test_split_think(text, parts):
    assert split_think(text) == parts


@given(TEXTS)
def test_split_think_loses_nothing(text):
    thought, rest = split_think(text)
    assert rest == text if thought is None else text.endswith(f"<think>{thought}</think>{rest}")


@pytest.mark.parametrize(
    "text",
    [
        "{" * 10**6,
        "}" * 10**6,
        "\\boxed{" * 10**5,
        "\\boxed{" * 10**5 + "}" * 10**5,
        "<think>" * 10**5,
    ],
    ids=["open", "close", "boxes", "nested boxes", "thoughts"],
)
def test_hostile_text_takes_linear_time(text):
    start = time.process_time()
    last_boxed(text)
    split_think(text)
    assert time.process_time() - start < 5  # quadratic search would take hours
