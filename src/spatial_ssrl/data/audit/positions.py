"""Guessing depth from where markers stand: what is lower in a picture is taken as nearer.

This is a hint, not a failure: photos are taken by people who stand on the ground, and a
reader of pictures may use it. A set on which it is always right teaches nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

from spatial_ssrl.core.questions import Question
from spatial_ssrl.tasks.relative_position import offset_of


def guess_from_positions(question: Question) -> str | None:
    """Return the answer if lower meant nearer, or None where nothing is known of positions.

    Args:
        question: Read from its `meta`: `regions`, as depth order keeps them, or `camera`,
            `target`, `facing` and `options`, as relative position does.
    """
    meta = question.meta
    if "regions" in meta and question.answer_kind == "order":
        rows = [row for row, _ in cast("Sequence[tuple[float, float]]", meta["regions"])]
        lowest_first = sorted(range(len(rows)), key=lambda index: -rows[index])
        return ",".join(str(index + 1) for index in lowest_first)
    if {"camera", "target", "facing", "options"} <= meta.keys():
        return _direction(question, meta)
    return None


def _direction(question: Question, meta: Mapping[str, object]) -> str:
    """Return the letter of the option that agrees best with the markers' places."""
    camera = cast("tuple[float, float]", meta["camera"])
    target = cast("tuple[float, float]", meta["target"])
    aside, away = target[1] - camera[1], camera[0] - target[0]

    def agreement(option: str) -> float:
        right, far = offset_of(option, str(meta["facing"]))
        return (right * aside + far * away) / math.hypot(right, far)

    options = cast("Sequence[str]", meta["options"])
    best = max(range(len(options)), key=lambda index: agreement(options[index]))
    return question.choices[best]
