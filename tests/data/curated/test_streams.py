"""Training and held-out questions of a curated set, by the data module."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneRejected, SpatialSSRLError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data import CuratedQuestions, HeldOutSettings, PretextDataModule
from spatial_ssrl.data.curated import SetPart, SetPlan, make_set
from spatial_ssrl.data.curated.streams import CuratedSplit, ShuffledQuestions
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import FlippedPatch
from support.curation import small_plan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "made"
    make_set(small_plan(120, shard_questions=50), folder)
    return folder


def module(folder: Path, **settings: object) -> PretextDataModule:
    evaluation = HeldOutSettings(share=0.3, val_questions=3, test_questions=3, batch_size=5)
    arguments = {"batch_size": 4, "epoch_questions": 40, "evaluation": evaluation} | settings
    return PretextDataModule(curated=folder, **arguments)


def questions_of(loader: object) -> list[Question]:
    return [question for batch in loader for question in batch]


def test_every_question_is_shown_once_in_a_pass(made: Path) -> None:
    stream = module(made).training_questions()
    count = len(stream.rows)
    assert 40 < count < 119
    first = [stream[index] for index in range(count)]
    second = [stream[index] for index in range(count, 2 * count)]
    stored = {row: question.uid for row, question in enumerate(CuratedQuestions(made))}
    assert Counter(q.uid for q in first) == Counter(stored[row] for row in stream.rows)
    assert Counter(q.uid for q in first) == Counter(q.uid for q in second)
    assert [q.uid for q in first] != [q.uid for q in second]
    again = pickle.loads(pickle.dumps(stream))
    assert [again[index].uid for index in (count + 3, 5, count + 4)] == [
        second[3].uid,
        first[5].uid,
        second[4].uid,
    ]


def no_depth(question: Question) -> Question:
    """Refuse what one task asks, as a policy refuses prompts that are too long."""
    if question.task == "depth_order":
        raise SceneRejected("the prompt is too long")
    return question


def test_questions_that_do_not_fit_are_replaced_and_counted(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = CuratedSplit(made, 0.3)
    plain, fitted = split.stream(0), split.stream(0, no_depth)
    shown = [(plain[index], fitted[index]) for index in range(len(plain.rows))]
    refused = [before for before, _ in shown if before.task == "depth_order"]
    assert len(refused) > 5
    for before, after in shown:
        assert after.task != "depth_order"
        assert before.task == "depth_order" or after.uid == before.uid
    assert fitted.rejections["depth_order", "the prompt is too long"] >= len(refused)
    (record,) = caplog.records
    assert "is left out: the prompt is too long. Another question" in record.getMessage()
    held = split.chosen("val", 3, no_depth)
    assert "depth_order" not in {held[index].task for index in range(len(held))}


def test_a_set_of_which_nothing_fits_stops_with_the_reason(made: Path) -> None:
    def refuse(question: Question) -> Question:
        raise SceneRejected("the prompt is too long")

    with pytest.raises(SpatialSSRLError, match=r"None of 20 .* can be used: the prompt is too"):
        CuratedSplit(made, 0.3).stream(0, refuse)[0]


def test_training_and_held_out_scenes_never_meet(made: Path) -> None:
    data = module(made)
    trained = {q.source_id for q in map(data.training_questions().__getitem__, range(119))}
    held = {q.source_id for q in questions_of(data.val_dataloader())}
    held |= {q.source_id for q in questions_of(data.test_dataloader())}
    assert trained
    assert held
    assert not trained & held


def test_held_out_questions_are_the_same_in_every_run_and_balanced(made: Path) -> None:
    first = questions_of(module(made, seed=1).val_dataloader())
    assert [q.uid for q in first] == [q.uid for q in questions_of(module(made).val_dataloader())]
    assert set(Counter(question.task for question in first).values()) == {3}
    assert [question.task for question in first[:4]] == sorted({q.task for q in first})
    many = module(made, evaluation=HeldOutSettings(0.5, 3, 3))
    others = [many.held_out_questions("val"), many.held_out_questions("test")]
    assert not set(others[0].rows) & set(others[1].rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_where_it_was(made: Path, workers: int) -> None:
    whole = [question.uid for question in questions_of(module(made).train_dataloader())]
    assert len(whole) == 40
    data = module(made)
    for number, _ in enumerate(data.train_dataloader(), start=1):
        if number == 3:
            state = data.state_dict()
            break
    resumed = module(made, num_workers=workers)
    resumed.load_state_dict(state)
    rest = [question.uid for question in questions_of(resumed.train_dataloader())]
    assert rest[:28] == whole[12:]
    other = [question.uid for question in questions_of(module(made, seed=1).train_dataloader())]
    assert other != whole


def test_fewer_held_out_questions_than_asked_for_are_told(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = module(made, evaluation=HeldOutSettings(share=0.3, val_questions=1000))
    held = questions_of(data.val_dataloader())
    assert len(held) + len(data.training_questions().rows) == 120
    assert "fewer than the 1000 asked for" in caplog.text


def cold_start(folder: Path, answer: str) -> Path:
    """Write eight questions whose first picture is missing."""
    (folder / "flip").mkdir()
    rows = []
    for i in range(8):
        turns = [{"role": "user", "content": f"<image>Question {i}?"}]
        turns.append({"role": "assistant", "content": answer})
        rows.append({"messages": turns, "images": [f"flip/{i}.png"]})
        if i:
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / "flip" / f"{i}.png")
    file = folder / "set.json"
    file.write_text(json.dumps(rows))
    return file


def test_a_question_that_cannot_be_read_is_replaced_and_counted(tmp_path: Path) -> None:
    questions = CuratedQuestions(cold_start(tmp_path, "<think></think>\\boxed{1,vertical}"))
    stream = ShuffledQuestions(questions, np.arange(8), 0, ("flipped_patch",))
    shown = Counter(stream[index].source_id for index in range(16))
    assert sum(shown.values()) == 16
    assert "flip/0.png" not in shown
    assert set(shown) == {f"flip/{i}.png" for i in range(1, 8)}
    ((message, count),) = stream.unreadable.items()
    assert "'flip/0.png' is not in" in message
    assert count >= 2, "once in each pass"


def test_nothing_readable_stops_with_the_cause(tmp_path: Path) -> None:
    data = module(cold_start(tmp_path, "I do not know."))
    with pytest.raises(SpatialSSRLError, match=r"None of 20 questions .* has no boxed answer"):
        data.training_questions()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Give images and tasks to draw questions, or curated to read them"),
        ({"images": [SyntheticScenes(4, 32)]}, "Give images and tasks"),
        ({"curated": "set", "tasks": [FlippedPatch()]}, "curated already holds questions"),
        ({"curated": "set", "image_weights": [1.0]}, "curated already holds questions"),
    ],
)
def test_either_kind_of_questions_is_given(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PretextDataModule(**arguments)


def test_a_missing_set_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is neither a folder nor a \.parquet"):
        module(tmp_path / "nothing").prepare_data()


def test_a_set_of_one_scene_cannot_be_parted(tmp_path: Path) -> None:
    make_set(SetPlan([SetPart([SyntheticScenes(1, 64)], [FlippedPatch()], 5)]), tmp_path)
    with pytest.raises(ConfigError, match="shows 1 scenes, too few to hold a share"):
        module(tmp_path).prepare_data()
