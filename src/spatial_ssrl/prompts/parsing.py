"""Reading completions: the reasoning, the rest, and the boxed answer; always in linear time."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\boxed\{|[{}]")
_BOXED = "\\boxed{"
_OPEN, _CLOSE = "<think>", "</think>"


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}` whose braces balance.

    Of nested boxes the innermost counts, as it opens last. A box that is never closed is
    passed over.

    Args:
        text: Any string.

    Returns:
        The content without surrounding white space, or None when there is no such box.
    """
    if _BOXED not in text:
        return None
    best: tuple[int, int] | None = None
    open_at: list[int] = []  # where the content of each open box starts, -1 for plain braces
    for match in _BRACES.finditer(text):
        token = match.group()
        if token != "}":
            open_at.append(match.end() if token == _BOXED else -1)
        elif open_at:
            start = open_at.pop()
            if start >= 0 and (best is None or start > best[0]):
                best = (start, match.start())
    return None if best is None else text[best[0] : best[1]].strip()


def split_think(text: str) -> tuple[str | None, str]:
    """Split a completion into its reasoning and what follows.

    Args:
        text: Any string.

    Returns:
        The text between the first `<think>` and the next `</think>`, or None when there is no
        such pair; and the text after it, or all of `text`.
    """
    start = text.find(_OPEN)
    end = text.find(_CLOSE, start + len(_OPEN)) if start >= 0 else -1
    if end < 0:
        return None, text
    return text[start + len(_OPEN) : end], text[end + len(_CLOSE) :]
