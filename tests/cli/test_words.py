"""Short command lines, spelled out."""

from __future__ import annotations

import pytest

from spatial_ssrl.cli.words import spelled_out

FLAGS = ("--merge", "--adapter")


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        ("runs/a --merge --out x", "--run runs/a --merge=true --out x"),
        ("--run runs/a --merge true --out x", "--run runs/a --merge=true --out x"),
        ("--merge false --adapter", "--merge=false --adapter=true"),
        ("--merge=no --out x", "--merge=no --out x"),
        ("--out x runs/a", "--out x runs/a"),
        ("", ""),
    ],
)
def test_flags_and_a_bare_first_word(words: str, spelled: str) -> None:
    assert spelled_out(words.split(), "--run", flags=FLAGS) == spelled.split()


@pytest.mark.parametrize(
    ("words", "spelled"),
    [
        (["a.jpg", "b.jpg", "--model", "m"], ['--images=["a.jpg", "b.jpg"]', "--model", "m"]),
        (["--model", "m", "a.jpg"], ['--images=["a.jpg"]', "--model", "m"]),
        (
            ["--max-new-tokens", "8", "my photo, old.jpg", "--top-x=a-b"],
            ['--images=["my photo, old.jpg"]', "--max_new_tokens", "8", "--top_x=a-b"],
        ),
        (["--question", "--help", "a.jpg"], ['--images=["a.jpg"]', "--question", "--help"]),
        (["--help"], ["--help"]),
        (["--model"], ["--model"]),
    ],
)
def test_words_that_belong_to_no_option_are_a_list(words: list[str], spelled: list[str]) -> None:
    assert spelled_out(words, "--images", many=True) == spelled
