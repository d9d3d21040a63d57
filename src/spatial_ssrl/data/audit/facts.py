"""What an audit keeps of a question, so that pictures need not stay in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.audit.candidates import Embedding
from spatial_ssrl.data.audit.distributions import answer_space
from spatial_ssrl.data.audit.duplicates import Look, look
from spatial_ssrl.data.audit.positions import guess_from_positions
from spatial_ssrl.data.audit.words import Hashes, without_options, word_hashes
from spatial_ssrl.tasks.markers import marker_radius

Table = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Facts:
    """One question without its pictures.

    Args:
        task: Registry key of its task.
        uid: Its id.
        scene: Name of its scene; its uid when the scene is unknown.
        answer: The right answer.
        kind: "choice", "order" or "text".
        space: Every possible answer, or the items of an order, or ().
        chance: Expected accuracy of a uniform guess.
        size: Height and width of the first picture, pixels.
        pictures: How many pictures it shows.
        marker: Diameter of its markers in pixels, or None when it has none.
        look: Bits of the first picture, see `duplicates.look`.
        words: Hashed n-grams of the prompt.
        context: The same without the listed options; None when none are listed.
        options: What the options say, in the order of the letters; () when none are listed.
        candidates: Features of each candidate by the name of the feature set, each (A, D);
            empty when the question offers no pictures to choose from.
        lower_is_nearer: Answer guessed from the places of the markers, or None.
    """

    task: str
    uid: str
    scene: str
    answer: str
    kind: str
    space: tuple[str, ...]
    chance: float
    size: tuple[int, int]
    pictures: int
    marker: int | None
    look: Look
    words: Hashes
    context: Hashes | None = None
    options: tuple[str, ...] = ()
    candidates: Mapping[str, Table] = field(default_factory=dict)
    lower_is_nearer: str | None = None


def facts_of(question: Question, embeddings: Mapping[str, Embedding]) -> Facts:
    """Return what an audit keeps of a question.

    Args:
        question: The question; one whose first picture is followed by as many pictures as
            there are choices offers those as candidates.
        embeddings: Feature sets of candidates by name.
    """
    offered = list(question.images[1:])
    if question.answer_kind != "choice" or len(offered) != len(question.choices):
        offered = []
    options = tuple(map(str, cast("Sequence[str]", question.meta.get("options", ()))))
    rest = without_options(question.prompt, question.choices, options)
    height, width = question.images[0].shape[:2]
    return Facts(
        task=question.task,
        uid=question.uid,
        scene=question.source_id or question.uid,
        answer=question.answer,
        kind=question.answer_kind,
        space=answer_space(question.answer, question.answer_kind, question.choices),
        chance=question.chance,
        size=(height, width),
        pictures=len(question.images),
        marker=2 * marker_radius(height, width) + 1 if _has_markers(question) else None,
        look=look(question.images[0]),
        words=word_hashes(question.prompt),
        context=None if rest is None else word_hashes(rest),
        options=() if rest is None else options,
        candidates={name: embed(offered) for name, embed in embeddings.items() if offered},
        lower_is_nearer=guess_from_positions(question),
    )


def _has_markers(question: Question) -> bool:
    return "regions" in question.meta or "camera" in question.meta
