"""Words of the cropped inpainting task: its questions and its worked answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatial_ssrl.tasks.wording import one_of

Offset = tuple[int, int]
"""How far below and to the right of something, in pixels."""

LETTERS = ("A", "B", "C", "D")

_FILLS = {"black": "black", "grey": "grey", "white": "white", "mean": "single-coloured"}
_SHORT = {
    "true": "fits",
    "rotated_left": "is turned left",
    "rotated_right": "is turned right",
    "interior": "is zoomed in",
    "exterior_1.5": "is zoomed out",
    "exterior_2": "is zoomed out",
    "elsewhere": "is from elsewhere",
}
_OPENINGS = (
    "A square was cut out of the first picture, which left a {fill} hole.",
    "The first picture has a {fill} square hole.",
    "In the first picture a square part is missing; a {fill} square stands in its place.",
    "Part of the first picture is covered by a {fill} square.",
)
_OFFERS = (
    "The next four pictures are candidates A, B, C and D, in this order.",
    "The four pictures after it, A, B, C and D, are patches that may belong there.",
    "Then follow four patches in the order A, B, C, D.",
)
_REQUESTS = (
    "Which of them is the missing part, in its right direction and size? Answer with one letter, "
    "such as C.",
    "Choose the one that completes the picture as it was, neither turned nor zoomed. Give its "
    "letter alone, such as C.",
    "Only one fits as it is, without turning or scaling it. Reply with its letter, such as C.",
    "Exactly one continues its surroundings on all sides at the same scale. Name it by its "
    "letter, such as C.",
)
_MATCHED_REQUESTS = (
    "Which of them is the missing part? The others come from other parts of the picture. Answer "
    "with one letter, such as C.",
    "Choose the one that completes the picture as it was. Give its letter alone, such as C.",
    "All were cut from this picture, but only one from the hole. Reply with its letter, such as C.",
    "Exactly one continues its surroundings on all sides. Name it by its letter, such as C.",
)
_STARTS = (
    "I compare each candidate with what surrounds the hole.",
    "The right patch has to go on at all four sides of the hole.",
    "Let me go through the candidates one by one.",
    "What lies around the hole has to continue in the patch.",
)
_VERDICTS = {
    "true": (
        "Candidate {letter} continues the lines and surfaces around the hole.",
        "{letter} goes on at every side of the hole.",
        "The edges of {letter} meet those of the hole, with the same direction and size.",
    ),
    "rotated_left": (
        "Candidate {letter} is turned a quarter to the left: its right side is now on top.",
        "{letter} is turned left by 90 degrees.",
        "What should be on the right of {letter} is on top, so it is turned left.",
    ),
    "rotated_right": (
        "Candidate {letter} is turned a quarter to the right: its left side is now on top.",
        "{letter} is turned right by 90 degrees.",
        "What should be on the left of {letter} is on top, so it is turned right.",
    ),
    "interior": (
        "Candidate {letter} shows only the middle of the missing part, enlarged.",
        "{letter} is zoomed in: everything in it is twice too large.",
        "Things in {letter} are larger than those around the hole.",
    ),
    "exterior_1.5": (
        "Candidate {letter} shows more than the missing part, with everything smaller.",
        "{letter} is zoomed out a little and repeats what is around the hole.",
        "Things in {letter} are somewhat smaller than those around the hole.",
    ),
    "exterior_2": (
        "Candidate {letter} shows twice the width of the hole, with everything at half its size.",
        "{letter} is zoomed out a lot and repeats what is around the hole.",
        "Things in {letter} have half the size of those around the hole.",
    ),
    "elsewhere": (
        "Candidate {letter} shows a part of the picture that lies further {where} than the hole.",
        "{letter} belongs further {where}.",
        "What {letter} shows lies further {where}, so it was not cut out of the hole.",
    ),
}
_ENDS = ("So {letter} fills the hole.", "The missing part is {letter}.", "It is {letter}.")


def short_prompt(fill: str, matched: bool) -> str:
    """Return the question in its one short form; see `CroppedInpainting` for `fill`."""
    untouched = "" if matched else ", neither turned nor zoomed"
    return (
        f"<image><image><image><image><image>The first picture has a {_FILLS[fill]} square hole. "
        f"The others are candidates A, B, C and D. Which one fills the hole{untouched}? "
        "Answer with one letter, such as C."
    )


def varied_prompt(fill: str, matched: bool, rng: np.random.Generator) -> str:
    """Return the question in one of its full phrasings."""
    requests = _MATCHED_REQUESTS if matched else _REQUESTS
    parts = [one_of(form, rng) for form in (_OPENINGS, _OFFERS, requests)]
    return "<image>" * (1 + len(LETTERS)) + " ".join(parts).format(fill=_FILLS[fill])


def explain_shortly(kinds: Sequence[str]) -> str:
    """Say in a few words what each candidate is."""
    return " ".join(
        f"{letter} {_SHORT[kind]}." for letter, kind in zip(LETTERS, kinds, strict=True)
    )


def explain(kinds: Sequence[str], offsets: Sequence[Offset], rng: np.random.Generator) -> str:
    """Say what each candidate shows, and so which one fills the hole.

    Args:
        kinds: What each candidate is, in the order A to D.
        offsets: How far below and to the right of the hole each was cut, in pixels.
        rng: Draws the words.
    """
    sentences = [one_of(_STARTS, rng)]
    for letter, kind, offset in zip(LETTERS, kinds, offsets, strict=True):
        verdict = one_of(_VERDICTS[kind], rng)
        sentences.append(verdict.format(letter=letter, where=_direction(*offset)))
    sentences.append(one_of(_ENDS, rng).format(letter=LETTERS[kinds.index("true")]))
    return " ".join(sentences)


def _direction(down: int, right: int) -> str:
    """Name where a place lies; a shift less than half as long as the other is not mentioned."""
    least = max(abs(down), abs(right)) / 2
    words = []
    if abs(down) >= least:
        words.append("down" if down > 0 else "up")
    if abs(right) >= least:
        words.append("to the right" if right > 0 else "to the left")
    return " and ".join(words)
