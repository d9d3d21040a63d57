"""The largest question a run can ask, made from its settings; no pictures are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.images import ImageSource, SyntheticScenes
from spatial_ssrl.policies.base import Collator
from spatial_ssrl.tasks import TASKS, PretextTask

# Taken where the size of pictures is not set: photos as phones take them would be larger, but
# their processors shrink them.
_UNKNOWN_SIZE = 1024

_TRIES = 20
_DRAWN = 256


@dataclass(frozen=True, slots=True)
class LargestQuestion:
    """The question with the longest prompt, and what its length rests on.

    Args:
        prompt: The question, collated.
        task: Key of its task.
        assumed: What was assumed of the data, in words.
    """

    prompt: PromptBatch
    task: str
    assumed: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the prompt, P."""
        return int(self.prompt.input_ids.shape[1])


def largest_question(data: PretextDataModule, collate: Collator) -> LargestQuestion:
    """Return the largest question of a run's tasks, on pictures of the size its sources give.

    Args:
        data: The run's data; a curated set must be there to be looked at.
        collate: The policy's collator.

    Raises:
        ConfigError: If no task makes a question.
    """
    questions, assumed = _questions(data)
    prompts = [(collate([question]), question) for question in questions]
    if not prompts:
        raise ConfigError("data: no task makes a question of the pictures that were assumed.")
    prompt, question = max(prompts, key=lambda pair: pair[0].input_ids.shape[1])
    pixels = ", ".join(f"{image.shape[1]} x {image.shape[0]}" for image in question.images[:1])
    counted = (
        f"question: {question.task}, {len(question.images)} pictures, the first {pixels}; every "
        "question of a batch is as long, every completion reaches the limit"
    )
    return LargestQuestion(prompt, question.task, (*assumed, counted))


def _questions(data: PretextDataModule) -> tuple[list[Question], tuple[str, ...]]:
    if data.curated is not None:
        stream = data.training_questions()
        few = [stream[number] for number in range(_TRIES)]
        return few, (f"data: the first {_TRIES} questions of {str(data.curated)!r}",)
    side = max((_side(source) for source in data.images), default=_UNKNOWN_SIZE)
    square = all(_is_square(source) for source in data.images)
    shape = (side, side) if square else (side * 3 // 4, side)
    made = [question for task in data.tasks if (question := _question(task, shape)) is not None]
    return made, (f"pictures: {shape[1]} x {shape[0]}",)


def _side(source: ImageSource) -> int:
    return int(getattr(source, "size", None) or _UNKNOWN_SIZE)


def _is_square(source: ImageSource) -> bool:
    return isinstance(source, SyntheticScenes) or bool(getattr(source, "square", False))


def _question(task: PretextTask, shape: Sequence[int]) -> Question | None:
    """Return a question of a drawn scene that is enlarged to the size of the run's pictures."""
    scenes = SyntheticScenes(count=_TRIES, size=_DRAWN)
    for number in range(_TRIES):
        scene = _enlarged(scenes.scene(number), shape)
        try:
            return task.make(scene, rng_for(0, "plan", TASKS.key_of(task), number))
        except SceneRejected:
            continue
    return None


def _enlarged(scene: Scene, shape: Sequence[int]) -> Scene:
    rows, columns = (np.arange(side) * _DRAWN // max(shape) for side in shape)
    place = np.ix_(rows, columns)
    depth = None if scene.depth is None else np.ascontiguousarray(scene.depth[place])
    return replace(scene, image=np.ascontiguousarray(scene.image[place]), depth=depth)
