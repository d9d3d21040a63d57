"""Short ways to write a command line, spelled out for the parser."""

from __future__ import annotations

import json
from collections.abc import Sequence

_ALONE = ("-h", "--help", "--print_config")
_YES_OR_NO = ("true", "false", "yes", "no")


def spelled_out(
    words: Sequence[str], bare: str = "", many: bool = False, flags: Sequence[str] = ()
) -> list[str]:
    """Return the words of one command with a value for every option.

    Args:
        words: What follows the command.
        bare: Option that a first word without dashes stands for; "" for none.
        many: Whether `bare` takes all words that belong to no option, as a list.
        flags: Options that stand for true when they have no value.
    """
    if bare and not many and words and not words[0].startswith("-"):
        words = [bare, *words]
    out: list[str] = []
    listed: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            name = name.replace("-", "_").replace("__", "--", 1)
            word = f"{name}{equals}{value}"
        if name in flags and not equals:
            given = left.pop(0) if left and left[0].lower() in _YES_OR_NO else "true"
            out.append(f"{name}={given}")
        elif many and not word.startswith("-"):
            listed.append(word)
        elif many and not equals and name not in _ALONE:
            out += [word, *left[:1]]
            left = left[1:]
        else:
            out.append(word)
    return [f"{bare}={json.dumps(listed)}", *out] if listed else out
