"""What flows through the library before tensors: scenes, questions and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

AnswerKind = Literal["choice", "order", "text"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture, with depth where it is known.

    Args:
        image: RGB values, shape (H, W, 3), uint8. Treat as read-only.
        source_id: Unique and stable name of the picture; drives splits and seeds.
        depth: Distance along the viewing axis, shape (H, W), float32; larger is farther and
            NaN is unknown. None when the source has no depth.
        depth_unit: Whether `depth` is in metres or only comparable within this picture.
        licence: Licence of the picture as its source states it; "" when it states none.
    """

    image: npt.NDArray[np.uint8]
    source_id: str
    depth: npt.NDArray[np.float32] | None = None
    depth_unit: Literal["metre", "relative"] = "relative"
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its images and its only right answer.

    Args:
        uid: Hash of task key, task settings, source id and draw.
        task: Registry key of the task that made it.
        images: Pictures in the order of their placeholders, each (H_i, W_i, 3) uint8.
        prompt: Question text with one "<image>" per picture, without the instruction on how
            to format an answer.
        answer: The right answer, in the form the question asks for.
        answer_kind: "choice" (one letter), "order" (comma-separated numbers) or "text".
        choices: Every answer that may be given, or () when they are not enumerated.
        chance: Expected accuracy of a uniform guess among valid answers, in [0, 1].
        explanation: Worked reasoning from the geometry the task knows; "" when there is none.
        meta: Facts of the draw, documented by each task; enough to redo or undo it. Numbers,
            strings, lists and dicts only, so that they can be stored as JSON.
        source_id: Name of the scene it was made from; set by `QuestionDataset`.
        licence: Licence of that scene's picture, "" when unknown; set by `QuestionDataset`.
    """

    uid: str
    task: str
    images: tuple[npt.NDArray[np.uint8], ...]
    prompt: str
    answer: str
    answer_kind: AnswerKind
    choices: tuple[str, ...] = ()
    chance: float = 0.0
    explanation: str = ""
    meta: Mapping[str, object] = field(default_factory=dict)
    source_id: str = ""
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one completion.

    Args:
        reward: Weighted sum of `parts`.
        parts: Named partial scores, each in [0, 1], such as accuracy and format.
        parsed: What was taken as the answer, or None when there was none.
    """

    reward: float
    parts: Mapping[str, float]
    parsed: str | None = None
