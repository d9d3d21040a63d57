"""A question as a row of a table, and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import SpatialSSRLError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated.encoding import ImageEncoding, decode
from spatial_ssrl.prompts import full_prompt

if TYPE_CHECKING:
    from datasets import Features

TEXT_COLUMNS = (
    "problem", "answer", "uid", "task", "answer_kind", "explanation", "meta", "source_id",
    "licence",
)  # fmt: skip


def features() -> Features:
    """Return the columns of a curated set.

    The first three are those of the reference: the whole prompt with one "<image>" a picture,
    the answer, and the pictures.
    """
    from datasets import Features, Image, List, Value

    return Features(
        {
            "problem": Value("string"),
            "answer": Value("string"),
            "images": List(Image()),
            "uid": Value("string"),
            "task": Value("string"),
            "answer_kind": Value("string"),
            "choices": List(Value("string")),
            "chance": Value("float64"),
            "explanation": Value("string"),
            "meta": Value("string"),
            "source_id": Value("string"),
            "licence": Value("string"),
        }
    )


def to_row(question: Question, encoding: ImageEncoding) -> dict[str, Any]:
    """Return a question as a row with the columns of `features`.

    Raises:
        SpatialSSRLError: If its `meta` holds something that JSON cannot store.
    """
    try:
        meta = json.dumps(dict(question.meta), ensure_ascii=False)
    except TypeError as error:
        raise SpatialSSRLError(
            f"Task {question.task!r} keeps something in meta that JSON cannot store ({error}); "
            "keep numbers, text, lists and dicts there."
        ) from error
    return {
        "problem": full_prompt(question),
        "answer": question.answer,
        "images": [{"bytes": encoding.encode(image), "path": None} for image in question.images],
        "uid": question.uid,
        "task": question.task,
        "answer_kind": question.answer_kind,
        "choices": list(question.choices),
        "chance": question.chance,
        "explanation": question.explanation,
        "meta": meta,
        "source_id": question.source_id,
        "licence": question.licence,
    }


def from_row(row: Mapping[str, Any]) -> Question:
    """Return the question that `to_row` stored; lists stand for tuples in its `meta`.

    Raises:
        OSError: If a picture cannot be decoded.
    """
    return Question(
        uid=row["uid"],
        task=row["task"],
        images=tuple(decode(image["bytes"]) for image in row["images"]),
        prompt=bare_prompt(row["problem"]),
        answer=row["answer"],
        answer_kind=row["answer_kind"],
        choices=tuple(row["choices"]),
        chance=row["chance"],
        explanation=row["explanation"],
        meta=json.loads(row["meta"]),
        source_id=row["source_id"],
        licence=row["licence"],
    )


def bare_prompt(problem: str) -> str:
    r"""Return a whole prompt without its last line, if that asks for `<think>` and `\boxed`."""
    text, _, last = problem.rstrip().rpartition("\n")
    return text.rstrip() if text and "<think>" in last and "\\boxed" in last else problem


def content_digest(row: Mapping[str, Any], images: Iterable[npt.NDArray[np.uint8]]) -> bytes:
    """Return a hash of what a row says and shows, however its pictures are compressed.

    Args:
        row: A row with the columns of `features`.
        images: Its pictures, decoded, each (H, W, 3).
    """
    digest = hashlib.blake2b(digest_size=16)
    said = [*(row[name] for name in TEXT_COLUMNS), list(row["choices"]), row["chance"]]
    digest.update(json.dumps(said).encode())
    for pixels in images:
        digest.update(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    return digest.digest()
