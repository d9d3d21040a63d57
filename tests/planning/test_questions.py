"""The largest question against all the questions."""

from __future__ import annotations

from typing import Any

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.images import ImageFolder, SyntheticScenes
from spatial_ssrl.planning.questions import largest_question
from spatial_ssrl.policies import HFVisionLanguagePolicy
from spatial_ssrl.tasks import TASKS, CroppedInpainting, DepthOrder, FlippedPatch
from support.tiny_models import tiny_processor


def collator() -> Any:
    policy = HFVisionLanguagePolicy("model")
    policy._processor = tiny_processor()
    return policy.collator()


def test_no_task_alone_has_a_longer_question() -> None:
    tasks, collate = [FlippedPatch(), CroppedInpainting(), DepthOrder()], collator()
    images = [ImageFolder("nowhere", size=128)]
    alone = {
        TASKS.key_of(task): largest_question(
            PretextDataModule(images=images, tasks=[task]), collate
        ).tokens
        for task in tasks
    }
    found = largest_question(PretextDataModule(images=images, tasks=tasks), collate)
    assert found.tokens == max(alone.values())
    assert alone[found.task] == found.tokens


@pytest.mark.parametrize(
    ("source", "shape"),
    [(ImageFolder("nowhere", size=200), (150, 200)), (SyntheticScenes(size=160), (160, 160))],
)
def test_pictures_have_the_size_that_the_data_give(source: Any, shape: tuple[int, int]) -> None:
    """Photos are taken to be wide, drawn scenes are square."""
    data = PretextDataModule(images=[source], tasks=[FlippedPatch()])
    question = largest_question(data, collator()).prompt.questions[0]
    assert question.images[0].shape[:2] == shape


def test_data_without_a_question_are_refused() -> None:
    data = PretextDataModule(images=[SyntheticScenes()], tasks=[FlippedPatch()])
    data.tasks = []
    with pytest.raises(ConfigError, match="no task makes a question"):
        largest_question(data, collator())
