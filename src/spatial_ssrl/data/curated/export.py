"""Curated sets in the shapes that other trainers read: TRL, verl and LLaMA-Factory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.cold_start import ColdStartAnswers
from spatial_ssrl.data.curated.encoding import ImageEncoding
from spatial_ssrl.data.curated.reading import CuratedQuestions
from spatial_ssrl.data.curated.shapes import FOLDERS, PICTURE
from spatial_ssrl.data.curated.shards import PARTIAL
from spatial_ssrl.prompts import full_prompt

Shape = Literal["trl", "verl", "sharegpt"]

_FACTS = ("uid", "task", "answer_kind", "source_id", "licence")
_PER_FILE = 500
_PER_GROUP = 8
_NAME = "spatial_ssrl_cold_start"
_WORKED = ColdStartAnswers()
_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg"}
_FOLDER_OF = {task: folder for folder, task in FOLDERS.items()}


def export(
    questions: CuratedQuestions,
    shape: Shape,
    folder: Path,
    count: int | None = None,
    answers: ColdStartAnswers = _WORKED,
    progress: Callable[[int], None] = lambda questions: None,
) -> None:
    """Write questions in another project's shape; the pictures keep their bytes.

    "trl": parquet with `prompt` (one user message whose content lists pictures and text),
    `answer`, `images`, and facts of the question as further columns for reward functions.
    "verl": parquet with `prompt` (one user message, text with placeholders), `images`,
    `reward_model` (with the answer), `data_source` and `extra_info`.
    "sharegpt": `messages` and `images` in one JSON file with a right completion each, pictures as
    files, and the `dataset_info.json` that LLaMA-Factory looks for.

    Args:
        questions: The set.
        shape: Which shape.
        folder: Folder to write, new or empty.
        count: How many questions, the first ones, whose tasks are mixed as in all; None for all.
        answers: What the completions of "sharegpt" say.
        progress: Called with the number of questions written.

    Raises:
        ConfigError: If the folder is not empty or `count` is out of range.
        SceneUnreadable: If a picture of the set is missing or broken.
    """
    if shape not in ("trl", "verl", "sharegpt"):
        raise ConfigError(f'shape must be "trl", "verl" or "sharegpt", got {shape!r}.')
    count = len(questions) if count is None else count
    if not 1 <= count <= len(questions):
        raise ConfigError(f"count must be in [1, {len(questions)}], got {count}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out: {str(folder)!r} is not an empty folder; choose a new one.")
    folder.mkdir(parents=True, exist_ok=True)
    if shape == "sharegpt":
        _write_sharegpt(questions, range(count), folder, answers, progress)
        return
    for number, first in enumerate(range(0, count, _PER_FILE)):
        numbers = range(first, min(first + _PER_FILE, count))
        path = folder / f"train-{number:05d}.parquet"
        _write_parquet(questions, shape, numbers, path, progress)


def conversation(question: Question) -> list[dict[str, Any]]:
    """Return the prompt as TRL's one user message, pictures in their places."""
    content: list[dict[str, str | None]] = []
    for place, text in enumerate(full_prompt(question).split(PICTURE)):
        if place:
            content.append({"type": "image", "text": None})
        if text:
            content.append({"type": "text", "text": text})
    return [{"role": "user", "content": content}]


def _write_parquet(
    questions: CuratedQuestions,
    shape: Shape,
    numbers: range,
    path: Path,
    progress: Callable[[int], None],
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_row = _trl_row if shape == "trl" else _verl_row
    schema = _features(shape).arrow_schema
    partial = path.with_name(path.name + PARTIAL)
    with pq.ParquetWriter(partial, schema, use_dictionary=["task"]) as writer:
        for first in range(numbers.start, numbers.stop, _PER_GROUP):
            group = range(first, min(first + _PER_GROUP, numbers.stop))
            rows = []
            for number in group:
                question = questions[number]
                images = _contents(questions, number, question)
                stored = [{"bytes": content, "path": None} for content in images]
                rows.append({**make_row(question, number), "images": stored})
            writer.write_table(pa.Table.from_pylist(rows, schema))
            progress(group.stop)
    partial.replace(path)


def _features(shape: Shape) -> Any:
    from datasets import Features, Image, List, Value

    text = Value("string")
    facts = {name: text for name in _FACTS}
    if shape == "trl":
        content = List({"type": text, "text": text})
        return Features(
            {
                "prompt": List({"role": text, "content": content}),
                "answer": text,
                "images": List(Image()),
                **facts,
            }
        )
    return Features(
        {
            "data_source": text,
            "prompt": List({"role": text, "content": text}),
            "images": List(Image()),
            "ability": text,
            "reward_model": {"style": text, "ground_truth": text},
            "extra_info": {"index": Value("int64"), **facts},
        }
    )


def _trl_row(question: Question, number: int) -> dict[str, Any]:
    return {"prompt": conversation(question), "answer": question.answer, **_facts(question)}


def _verl_row(question: Question, number: int) -> dict[str, Any]:
    return {
        "data_source": f"spatial_ssrl/{question.task}",
        "prompt": [{"role": "user", "content": full_prompt(question)}],
        "ability": "spatial",
        "reward_model": {"style": "rule", "ground_truth": question.answer},
        "extra_info": {"index": number, **_facts(question)},
    }


def _facts(question: Question) -> dict[str, str]:
    return {name: getattr(question, name) for name in _FACTS}


def _write_sharegpt(
    questions: CuratedQuestions,
    numbers: range,
    folder: Path,
    answers: ColdStartAnswers,
    progress: Callable[[int], None],
) -> None:
    file = folder / f"{_NAME}.json"
    partial = file.with_name(file.name + PARTIAL)
    with partial.open("w", encoding="utf-8") as sink:
        sink.write("[\n")
        for number in numbers:
            question = questions[number]
            row = {
                "messages": [
                    {"role": "user", "content": full_prompt(question)},
                    {"role": "assistant", "content": answers(question)},
                ],
                "images": list(_save(folder, number, question, questions)),
                **_facts(question),
            }
            sink.write(json.dumps(row, ensure_ascii=False))
            sink.write("\n]\n" if number == numbers[-1] else ",\n")
            progress(number + 1)
    (folder / "dataset_info.json").write_text(json.dumps(_dataset_info(file.name), indent=2) + "\n")
    partial.replace(file)


def _save(
    folder: Path, number: int, question: Question, questions: CuratedQuestions
) -> Iterator[str]:
    """Write the pictures of a question; yield their paths as LLaMA-Factory looks them up."""
    for place, content in enumerate(_contents(questions, number, question)):
        suffix = next((s for start, s in _SUFFIXES.items() if content.startswith(start)), "png")
        name = f"{_FOLDER_OF.get(question.task, question.task)}/{number:06d}_{place}.{suffix}"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        yield name


def _contents(questions: CuratedQuestions, number: int, question: Question) -> list[bytes]:
    """Return the encoded pictures, as stored or made anew where the set names files only."""
    stored = questions.encoded(number)
    if len(stored) == len(question.images):
        return stored
    return [ImageEncoding().encode(image) for image in question.images]


def _dataset_info(file: str) -> dict[str, Any]:
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
    }
    columns = {"messages": "messages", "images": "images"}
    return {_NAME: {"file_name": file, "formatting": "sharegpt", "columns": columns, "tags": tags}}
