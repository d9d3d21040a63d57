"""Reading sets of other projects, and what is said of files that are none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.data.curated import CuratedQuestions
from spatial_ssrl.prompts import instruction

INSTRUCTION = "Think inside <think> </think> first and put the answer in \\boxed{}."

REFERENCE = [
    ("shuffle", "<image>Which order?", "[2, 3, 0, 1]", 1, "shuffled_patches", "order", 1 / 24),
    ("flip", "<image>Which patch?", "2,horizontal", 1, "flipped_patch", "text", 1 / 8),
    ("crop", "<image>Which? " + "<image>" * 4, "B", 5, "cropped_inpainting", "choice", 1 / 4),
    ("depth", "<image>Near to far?", "3,1,2", 1, "depth_order", "order", 1 / 6),
    ("position", "<image>Where?", "C", 1, "relative_position", "choice", 1 / 4),
]


def picture(folder: Path, name: str, value: int) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (value, 0, 0)).save(path)
    return name


def reference_rows(folder: Path) -> list[dict[str, object]]:
    rows = []
    for value, (task, text, answer, count, *_) in enumerate(REFERENCE):
        names = [picture(folder, f"{task}/{value}_{i}.png", 10 * value + i) for i in range(count)]
        rows.append({"problem": f"{text}\n{INSTRUCTION}", "answer": answer, "images": names})
    return rows


@pytest.mark.parametrize("stored_as", ["paths", "bytes", "structs"])
def test_the_reference_s_parquet_is_read(tmp_path: Path, stored_as: str) -> None:
    rows = reference_rows(tmp_path)
    for row in rows:
        files = [(name, (tmp_path / name).read_bytes()) for name in row["images"]]
        if stored_as == "bytes":
            row["images"] = [content for _, content in files]
        elif stored_as == "structs":
            row["images"] = [{"bytes": content, "path": name} for name, content in files]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=2)
    questions = CuratedQuestions(tmp_path / "train.parquet")
    assert len(questions) == 5
    for value, (question, expected) in enumerate(zip(questions, REFERENCE, strict=True)):
        _, text, answer, count, task, kind, chance = expected
        assert question.prompt == text
        assert question.answer == answer
        assert [int(image[0, 0, 0]) for image in question.images] == [
            10 * value + i for i in range(count)
        ]
        assert question.images[0].shape == (10, 12, 3)
        assert question.answer_kind == kind
        if stored_as != "bytes":
            assert question.task == task
            assert question.chance == pytest.approx(chance)
            assert question.source_id.startswith(f"{expected[0]}/")
    assert len({question.uid for question in questions}) == 5
    if stored_as == "bytes":
        assert {question.task for question in questions} == {"unknown"}
    else:
        assert [task for task, _ in questions.facts()] == [row[4] for row in REFERENCE]


def test_pictures_may_lie_in_a_folder_that_is_named(tmp_path: Path) -> None:
    rows = reference_rows(tmp_path / "pictures")
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tables" / "train.parquet")
    with pytest.raises(SceneUnreadable, match=r"'shuffle/0_0.png' is not in .*; lay it there"):
        CuratedQuestions(tmp_path / "tables")[0]
    found = CuratedQuestions(tmp_path / "tables", image_folder=tmp_path / "pictures")
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again[4].images[0], found[4].images[0])


def test_trl_s_conversations_are_read(tmp_path: Path) -> None:
    name = picture(tmp_path, "flip/0.png", 7)
    image = {"bytes": (tmp_path / name).read_bytes(), "path": None}
    text = {"type": "text", "text": f"Which patch?\n{instruction()}"}
    rows = [
        {
            "prompt": [
                {"role": "user", "content": [{"type": "image", "text": None}, text]},
            ],
            "answer": "1,vertical",
            "images": [image],
            "task": "flipped_patch",
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "trl.parquet")
    (question,) = CuratedQuestions(tmp_path / "trl.parquet")
    assert question.prompt == "<image>Which patch?"
    assert question.answer == "1,vertical"
    assert question.task == "flipped_patch"
    assert question.images[0][0, 0, 0] == 7


@pytest.mark.parametrize("keys", ["messages", "conversations"])
def test_sharegpt_is_read(tmp_path: Path, keys: str) -> None:
    names = {"messages": ("role", "content", "user", "assistant")}
    role, content, user, assistant = names.get(keys, ("from", "value", "human", "gpt"))
    answer = "<think>Patch 2 first.</think>\\boxed{2,3,0,1}"
    turns = [{role: user, content: "<image>Which order?"}, {role: assistant, content: answer}]
    row = {keys: turns, "images": [picture(tmp_path, "shuffle/0.png", 3)]}
    (tmp_path / "cold.json").write_text(json.dumps([row]))
    (question,) = CuratedQuestions(tmp_path / "cold.json")
    assert question.prompt == "<image>Which order?"
    assert question.answer == "2,3,0,1"
    assert question.explanation == "Patch 2 first."
    assert question.task == "shuffled_patches"


def test_rows_that_make_no_question_say_why(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "<image><image>Which?"}]
    said = [*turns, {"role": "assistant", "content": "\\boxed{A}"}]
    name = picture(tmp_path, "a.png", 1)
    (tmp_path / "broken.png").write_text("<html>")
    rows = [
        {"messages": said, "images": [name]},
        {"messages": turns, "images": [name, name]},
        {"messages": said, "images": [name, "broken.png"]},
    ]
    (tmp_path / "cold.json").write_text(json.dumps(rows))
    questions = CuratedQuestions(tmp_path / "cold.json")
    with pytest.raises(SceneUnreadable, match="has 2 placeholders <image> for 1 pictures"):
        questions[0]
    with pytest.raises(SceneUnreadable, match="has no boxed answer"):
        questions[1]
    with pytest.raises(SceneUnreadable, match=r"broken\.png cannot be read as a picture"):
        questions[2]
    with pytest.raises(IndexError, match="question 3 is out of range: there are 3"):
        questions[3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.parquet", b"PAR1 no more", "cannot be read as parquet"),
        ("set.json", b"{", "cannot be read as JSON"),
        ("set.json", b'{"a": 1}', "must hold a list of conversations"),
        ("set.json", b'[{"question": "?"}]', "has the columns question; a set has problem"),
        ("set.txt", b"", "is neither a folder nor a .parquet, .json or .jsonl file"),
    ],
)
def test_files_that_are_no_set_are_told(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        CuratedQuestions(tmp_path / name)


def test_folders_that_are_no_set_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \.parquet file"):
        CuratedQuestions(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99, "complete": true}')
    with pytest.raises(ConfigError, match="layout 99, newer than this library reads"):
        CuratedQuestions(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not the manifest of a curated set"):
        CuratedQuestions(tmp_path)
