"""Sets in the shapes of other trainers hold the same questions, and are read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from spatial_ssrl.cli.main import main
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated import CuratedQuestions, ImageEncoding, make_set
from spatial_ssrl.data.curated.export import conversation, export
from spatial_ssrl.prompts import last_boxed, worked_answer
from support.curation import small_plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "made"
    make_set(small_plan(16, encoding=ImageEncoding("jpeg", 80)), folder)
    return folder


def assert_same(found: Question, stored: Question) -> None:
    assert [image.tobytes() for image in found.images] == [
        image.tobytes() for image in stored.images
    ]
    for name in ("prompt", "answer", "task", "source_id", "uid", "answer_kind", "licence"):
        assert getattr(found, name) == getattr(stored, name)


def test_trl_gets_conversations(made: Path, tmp_path: Path) -> None:
    stored = CuratedQuestions(made)
    export(stored, "trl", tmp_path / "trl")
    table = load_dataset(
        "parquet", data_dir=str(tmp_path / "trl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(table) == 16
    for row, question in zip(table, stored, strict=True):
        (message,) = row["prompt"]
        kinds = [part["type"] for part in message["content"]]
        assert kinds.count("image") == len(row["images"]) == len(question.images)
        assert kinds[0] == "image"
        assert "\\boxed{}" in message["content"][-1]["text"]
        assert np.array_equal(np.array(row["images"][-1].convert("RGB")), question.images[-1])
    for found, question in zip(CuratedQuestions(tmp_path / "trl"), stored, strict=True):
        assert_same(found, question)


def test_verl_gets_rewards_with_its_prompts(made: Path, tmp_path: Path) -> None:
    stored = CuratedQuestions(made)
    export(stored, "verl", tmp_path / "verl", count=6)
    table = load_dataset(
        "parquet", data_dir=str(tmp_path / "verl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(table) == 6
    for number, (row, question) in enumerate(zip(table, stored, strict=False)):
        (message,) = row["prompt"]
        assert message["content"].count("<image>") == len(row["images"]) == len(question.images)
        assert row["reward_model"] == {"style": "rule", "ground_truth": question.answer}
        assert row["extra_info"]["index"] == number
        assert row["data_source"] == f"spatial_ssrl/{question.task}"
    found = CuratedQuestions(tmp_path / "verl")
    assert found.facts() == stored.facts()[:6]
    for question, original in zip(found, stored, strict=False):
        assert_same(question, original)


def test_pictures_keep_their_places_in_a_conversation() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    question = Question("u", "t", (image,) * 3, "<image>A<image><image>B", "A", "choice")
    (message,) = conversation(question)
    kinds = [part["text"] or part["type"] for part in message["content"]]
    assert kinds[:4] == ["image", "A", "image", "image"]
    assert kinds[4].startswith("B\n")


def test_llama_factory_gets_the_cold_start(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "cold"
    options = ["--to", "sharegpt", "--count", "12", "--out", str(out)]
    assert main(["convert", str(made), *options, "--answers", "[depth_order]"]) == 0
    info = json.loads((out / "dataset_info.json").read_text())
    ((name, entry),) = info.items()
    assert entry["formatting"] == "sharegpt"
    rows = json.loads((out / entry["file_name"]).read_text())
    assert len(rows) == 12
    stored = CuratedQuestions(made)
    for row, question in zip(rows, stored, strict=False):
        user, assistant = row["messages"]
        assert user["content"].count("<image>") == len(row["images"]) == len(question.images)
        assert all((out / image).is_file() for image in row["images"])
        assert row["images"][0].endswith(".jpg")
        assert last_boxed(assistant["content"]) == question.answer
        is_worked = assistant["content"] == worked_answer(question)
        assert is_worked == (question.task == "depth_order")
    for found, question in zip(CuratedQuestions(out / f"{name}.json"), stored, strict=False):
        assert_same(found, question)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 17}, r"count must be in \[1, 16\], got 17"),
        ({"count": 0}, r"count must be in \[1, 16\], got 0"),
        ({"shape": "alpaca"}, 'shape must be "trl", "verl" or "sharegpt"'),
        ({"folder": "."}, "is not an empty folder"),
    ],
)
def test_mistakes_are_told(
    made: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    (tmp_path / "mine.txt").write_text("")
    folder = tmp_path / str(options.pop("folder", "new"))
    arguments = {"shape": "trl"} | options
    with pytest.raises(ConfigError, match=message):
        export(CuratedQuestions(made), folder=folder, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
