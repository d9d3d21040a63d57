from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from spatial_ssrl.core.errors import (
    ConfigError,
    SceneRejected,
    SceneUnreadable,
    SpatialSSRLError,
)
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.data import QuestionDataset
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import DepthOrder, FlippedPatch, PretextTask, ShuffledPatches


class Pictures(ImageSource):
    """Grey pictures that say which they are by their brightness."""

    def __init__(self, count: int, name: str = "grey", has_depth: bool = False) -> None:
        self.count = count
        self.name = name
        self.has_depth = has_depth

    def __len__(self) -> int:
        return self.count

    def source_id(self, index: int) -> str:
        return f"{self.name}/{index}"

    def scene(self, index: int) -> Scene:
        image = np.full((8, 8, 3), index % 256, dtype=np.uint8)
        return Scene(image=image, source_id=self.source_id(index), licence=f"licence {index}")


class Echo(FlippedPatch):
    """Repeats the scene's name; refuses the scenes it is told to."""

    refused: ClassVar[frozenset[str]] = frozenset()
    unreadable: ClassVar[frozenset[str]] = frozenset()

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        if scene.source_id in self.refused:
            raise SceneRejected("The scene is refused.")
        if scene.source_id in self.unreadable:
            raise SceneUnreadable("The file is broken.")
        draw = str(rng.integers(10**9))
        return Question(draw, "flipped_patch", (), "", scene.source_id, "text")


class Second(Echo):
    """Another task for the mix."""


class Third(Echo):
    """And another."""


class NeedsDepth(DepthOrder):
    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        return Question("", "depth_order", (), "", scene.source_id, "text")


def tasks_of(dataset: QuestionDataset, first: int, count: int) -> list[type[PretextTask]]:
    return [type(dataset.task_at(index)) for index in range(first, first + count)]


def test_a_question_is_a_function_of_seed_stream_and_index() -> None:
    def make(seed: int = 3, stream: str = "train") -> list[Question]:
        dataset = QuestionDataset([Pictures(50)], [Echo(), Second()], seed, stream, block=4)
        return [dataset[index] for index in (5, 0, 11, 5)]

    first = make()
    assert [q.uid for q in first] == [q.uid for q in make()]
    assert first[0].uid == first[3].uid
    assert len({q.uid for q in first}) == 3
    assert not {q.uid for q in first} & {q.uid for q in make(seed=4)}
    assert not {q.uid for q in first} & {q.uid for q in make(stream="val")}


def test_every_block_holds_the_tasks_in_exact_proportion() -> None:
    dataset = QuestionDataset([Pictures(5)], [Echo(), Second(), Third()], block=6)
    for block in range(50):
        counts = Counter(tasks_of(dataset, 6 * block, 6))
        assert set(counts.values()) == {2}, block
    orders = {tuple(tasks_of(dataset, 6 * block, 6)) for block in range(50)}
    assert len(orders) > 20


def test_shares_that_do_not_fit_a_block_are_rounded_and_even_out() -> None:
    weights = [0.5, 0.3, 0.2]
    dataset = QuestionDataset(
        [Pictures(5)], [Echo(), Second(), Third()], block=4, task_weights=weights
    )
    total: Counter[type[PretextTask]] = Counter()
    for block in range(300):
        counts = Counter(tasks_of(dataset, 4 * block, 4))
        for task, share in zip((Echo, Second, Third), weights, strict=True):
            assert abs(counts[task] - 4 * share) < 1
        total += counts
    for task, share in zip((Echo, Second, Third), weights, strict=True):
        assert total[task] == pytest.approx(1200 * share, abs=5)


def test_scenes_are_drawn_uniformly_over_sources_by_size() -> None:
    dataset = QuestionDataset([Pictures(2, "few"), Pictures(6, "many")], [Echo()])
    drawn = Counter(dataset[index].answer for index in range(1600))
    assert len(drawn) == 8
    # Each is binomial (1600, 1/8): standard deviation 13.2.
    assert all(abs(count - 200) < 4 * 13.3 for count in drawn.values())


def test_image_weights_replace_sizes() -> None:
    dataset = QuestionDataset(
        [Pictures(2, "few"), Pictures(600, "many")], [Echo()], image_weights=[0.5, 0.5]
    )
    few = sum(dataset[index].answer.startswith("few") for index in range(800))
    assert abs(few - 400) < 4 * 14.2


def test_depth_tasks_draw_only_where_there_is_depth() -> None:
    dataset = QuestionDataset(
        [Pictures(9, "flat"), Pictures(3, "deep", has_depth=True)], [NeedsDepth(), Echo()], block=2
    )
    answers = {"depth_order": set(), "flipped_patch": set()}
    for index in range(120):
        question = dataset[index]
        answers[question.task].add(question.answer.split("/")[0])
    assert answers == {"depth_order": {"deep"}, "flipped_patch": {"flat", "deep"}}


def test_a_depth_task_without_depth_is_refused_with_a_remedy() -> None:
    message = "'depth_order' needs depth, but no image source has it: add an RGB-D source"
    with pytest.raises(ConfigError, match=message):
        QuestionDataset([Pictures(4)], [ShuffledPatches(), DepthOrder()])


def test_a_question_names_its_scene_and_licence() -> None:
    question = QuestionDataset([Pictures(50)], [Echo()])[7]
    assert question.source_id == question.answer  # the task echoes the scene's name
    assert question.licence == f"licence {question.source_id.removeprefix('grey/')}"


def test_refused_and_broken_scenes_are_replaced_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Echo, "refused", {"grey/0", "grey/1"})
    monkeypatch.setattr(Echo, "unreadable", {"grey/2"})
    dataset = QuestionDataset([Pictures(4)], [Echo()])
    assert {dataset[index].answer for index in range(30)} == {"grey/3"}
    counted = {reason: count for (_, reason), count in dataset.rejections.items()}
    # Three of four scenes are no good, so each good one costs three others on average.
    assert counted["The scene is refused."] == pytest.approx(60, abs=35)
    assert dataset.unreadable["The file is broken."] == pytest.approx(30, abs=25)


class Short:
    """Lets short names pass, in capitals; knows what it was shown."""

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def __call__(self, question: Question) -> Question:
        assert question.source_id
        if len(question.answer) > self.longest:
            raise SceneRejected("The name is long.")
        return replace(question, answer=question.answer.upper())


def test_questions_that_do_not_fit_are_drawn_again_and_counted() -> None:
    names = Pictures(200)
    plain = QuestionDataset([names], [Echo(), Second()], block=2)
    fitted = QuestionDataset([names], [Echo(), Second()], block=2, prepare=Short(len("grey/99")))
    questions = [fitted[index] for index in range(60)]
    assert all(len(question.answer) <= len("GREY/99") for question in questions)
    # Those that fit are what they would have been; only the others are replaced.
    kept = [index for index in range(60) if len(plain[index].answer) <= len("grey/99")]
    assert 10 < len(kept) < 50
    assert [questions[i].uid for i in kept] == [plain[i].uid for i in kept]
    assert all(question.answer.isupper() for question in questions)
    assert fitted.rejections["flipped_patch", "The name is long."] == pytest.approx(60, abs=40)
    again = pickle.loads(pickle.dumps(fitted))
    assert [again[i].uid for i in (31, 5, 59)] == [questions[i].uid for i in (31, 5, 59)]
    with pytest.raises(SpatialSSRLError, match=r"made no question .*: The name is long\. \(200\)"):
        QuestionDataset([names], [Echo()], prepare=Short(2))[0]


def test_a_task_that_can_make_nothing_stops_with_its_reasons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Echo, "refused", {"grey/0"})
    dataset = QuestionDataset([Pictures(1)], [Echo()])
    message = r"'flipped_patch' made no question of 200 scenes: The scene is refused. \(200\)."
    with pytest.raises(SpatialSSRLError, match=message):
        dataset[0]


def test_a_split_without_scenes_stops_with_a_remedy() -> None:
    dataset = QuestionDataset([Pictures(3)], [Echo()], stream="val", admits="x".__eq__)
    with pytest.raises(SpatialSSRLError, match="belongs to the 'val' split; give more images"):
        dataset[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": []}, "tasks is empty"),
        ({"images": []}, "images is empty"),
        ({"images": [Pictures(0)]}, "Pictures holds no scene"),
        ({"task_weights": [1.0, 2.0]}, r"task_weights must be 1 numbers.*got \[1.0, 2.0\]"),
        ({"image_weights": [-1.0]}, "image_weights must be 1 numbers, none negative"),
        ({"task_weights": [0.0]}, "not all zero"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuestionDataset(**{"images": [Pictures(2)], "tasks": [Echo()], **arguments})
