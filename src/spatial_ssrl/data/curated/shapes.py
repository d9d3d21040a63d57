"""Rows of other projects as questions: the reference's, TRL's, verl's and LLaMA-Factory's."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import SceneUnreadable
from spatial_ssrl.core.questions import AnswerKind, Question
from spatial_ssrl.data.curated.encoding import decode
from spatial_ssrl.data.curated.rows import bare_prompt, from_row
from spatial_ssrl.images.pictures import open_picture
from spatial_ssrl.prompts import last_boxed, split_think

FOLDERS = {
    "shuffle": "shuffled_patches",
    "flip": "flipped_patch",
    "crop": "cropped_inpainting",
    "depth": "depth_order",
    "position": "relative_position",
}
"""Task of a question of the reference's set, by the folder its pictures lie in."""

UNKNOWN = "unknown"
PICTURE = "<image>"

_CHOICES = ("A", "B", "C", "D")
_ORDER = re.compile(r"[\[(]?\s*\d+(\s*,\s*\d+)+\s*[\])]?")
_NAMES = {"human": "user", "gpt": "assistant"}


def question_from(row: Mapping[str, Any], roots: Sequence[Path]) -> Question:
    """Return the question of a row, whichever of the known shapes it has.

    What a shape does not say is inferred: the task from the folder of the pictures, the kind of
    answer and the chance level from the answer.

    Args:
        row: A row of a curated set; of the reference's (`problem`, `answer`, `images`); of TRL's
            conversations (`prompt`, `answer`, `images`); of verl's (`prompt`, `reward_model`,
            `images`); or of ShareGPT's (`messages` or
            `conversations`, `images`), whose answer is the last boxed one.
        roots: Folders in which to look for pictures that are named by a path.

    Raises:
        SceneUnreadable: If a picture is missing or broken, the placeholders do not fit the
            pictures, or there is no answer; the message says which row by what it holds.
    """
    if "answer_kind" in row and "problem" in row:
        return from_row(row)
    row = {**row, **(row.get("extra_info") or {})}
    text, answer, explanation = _said(row)
    images = list(row.get("images") or [])
    if text.count(PICTURE) != len(images):
        raise SceneUnreadable(
            f"The question {_short(text)} has {text.count(PICTURE)} placeholders {PICTURE} for "
            f"{len(images)} pictures."
        )
    task, source_id = facts_of(row)
    kind, choices, chance = _form(answer, task)
    uid = str(row.get("uid") or _uid(text, answer, images))
    return Question(
        uid=uid,
        task=task,
        images=tuple(_pixels(image, roots) for image in images),
        prompt=bare_prompt(text),
        answer=answer,
        answer_kind=kind,
        choices=choices,
        chance=chance,
        explanation=explanation,
        source_id=source_id,
        licence=str(row.get("licence") or ""),
    )


def facts_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return task and source id of a row without decoding its pictures.

    Where the row names no source, its first picture stands for it.
    """
    row = {**row, **(row.get("extra_info") or {})}
    images = list(row.get("images") or [])
    names = [_path(image) for image in images]
    source = row.get("source_id") or next(filter(None, names), "")
    if not source and images:
        source = hashlib.blake2b(_content(images[0]) or b"", digest_size=8).hexdigest()
    return str(row.get("task") or _task(names)), str(source)


def _said(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the prompt with its placeholders, the answer, and the reasoning if there is any."""
    if "problem" in row:
        return str(row["problem"]), str(row["answer"]), ""
    turns = row.get("messages") or row.get("conversations") or row["prompt"]
    if isinstance(turns, str):
        return turns, str(row["answer"]), ""
    said: dict[str, str] = {}
    for turn in turns:
        role = str(turn.get("role") or turn.get("from"))
        content = turn.get("content") if "content" in turn else turn.get("value")
        said.setdefault(_NAMES.get(role, role), _joined(content))
    prompt = said.get("user", "")
    if prompt.count(PICTURE) == 0:  # TRL puts pictures that have no place before the text.
        prompt = PICTURE * len(row.get("images") or []) + prompt
    answer = row.get("answer") or (row.get("reward_model") or {}).get("ground_truth")
    if answer:
        return prompt, str(answer), ""
    completion = said.get("assistant", "")
    answer = last_boxed(completion)
    if answer is None:
        raise SceneUnreadable(f"The question {_short(prompt)} has no boxed answer to learn from.")
    return prompt, answer, split_think(completion)[0] or ""


def _joined(content: object) -> str:
    """Return the content of a message as text, its pictures as placeholders."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return str(content or "")
    parts = (PICTURE if part["type"] == "image" else str(part["text"] or "") for part in content)
    return "".join(parts)


def _path(image: object) -> str:
    """Return the path that a stored picture is known by, or ""."""
    if isinstance(image, Mapping):
        return str(image.get("path") or "")
    return image if isinstance(image, str) else ""


def _task(names: Sequence[str]) -> str:
    for name in names:
        for part in PurePosixPath(name.replace("\\", "/")).parts[-2::-1]:
            if part.lower() in FOLDERS:
                return FOLDERS[part.lower()]
    return UNKNOWN


def _form(answer: str, task: str) -> tuple[AnswerKind, tuple[str, ...], float]:
    """Return kind, choices and chance level, as far as an answer tells them."""
    if answer.strip() in _CHOICES:
        return "choice", _CHOICES, 1 / len(_CHOICES)
    if _ORDER.fullmatch(answer.strip()):
        return "order", (), 1 / math.factorial(answer.count(",") + 1)
    # The reference flips one of four patches in one of two ways.
    return "text", (), 1 / 8 if task == "flipped_patch" else 0.0


def _uid(text: str, answer: str, images: Sequence[object]) -> str:
    digest = hashlib.blake2b(repr((text, answer)).encode(), digest_size=8)
    for image in images:
        digest.update(_path(image).encode() or _content(image) or b"")
    return digest.hexdigest()


def _content(image: object) -> bytes | None:
    content = image.get("bytes") if isinstance(image, Mapping) else image
    return content if isinstance(content, bytes) else None


def _pixels(image: object, roots: Sequence[Path]) -> npt.NDArray[np.uint8]:
    content, name = _content(image), _path(image)
    if content is not None:
        try:
            return decode(content)
        except Exception as error:  # Decoders raise many kinds of error on broken content.
            raise SceneUnreadable(
                f"A stored picture {name!r} cannot be decoded: {error}"
            ) from error
    for root in roots:
        if name and (root / name).is_file():
            return np.array(open_picture(root / name)[0])
    places = " or ".join(str(root) for root in roots)
    raise SceneUnreadable(
        f"Picture {name!r} is not in {places}; lay it there, or name the folder it is in."
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
