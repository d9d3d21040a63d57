"""The questions a command looks at: made of pictures, of a data file, or a set on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatial_ssrl.cli.errors import did_you_mean
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data import PretextDataModule, QuestionDataset
from spatial_ssrl.data.curated.reading import CuratedQuestions
from spatial_ssrl.data.curated.streams import ShuffledQuestions
from spatial_ssrl.images import IMAGE_SOURCES, ImageFolder, ImageSource, SyntheticScenes
from spatial_ssrl.tasks import TASKS, PretextTask


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of a command name.

    Args:
        images: A folder, an image source, or None for drawn scenes.
        tasks: Tasks to draw; None for every one that the pictures allow.
        data: What to train on, instead of `images` and `tasks`.
        curated: A set of questions on disk, instead of the others.
    """

    images: ImageSource | str | None = None
    tasks: list[PretextTask] | PretextTask | None = None
    data: PretextDataModule | None = None
    curated: Path | None = None


def chosen_questions(asked: Asked, seed: int, stream: str) -> QuestionDataset | ShuffledQuestions:
    """Return the questions that the options of a command name.

    Args:
        asked: The options.
        seed: Names the questions.
        stream: Name of the stream of questions made of `images` and `tasks`.

    Raises:
        ConfigError: If more than one way is taken, or what is named cannot be found or used.
    """
    parts = asked.images is not None or asked.tasks is not None
    if asked.data is not None:
        if parts or asked.curated is not None:
            raise ConfigError(
                "data already names images and tasks; give either data or the others."
            )
        asked.data.seed = seed
        asked.data.prepare_data()
        return asked.data.training_questions()
    if asked.curated is not None:
        if parts:
            raise ConfigError(
                "curated already holds questions; give either curated or images and tasks."
            )
        questions = CuratedQuestions(asked.curated)
        if not len(questions):
            raise ConfigError(f"curated: {str(asked.curated)!r} holds no question.")
        keys = tuple(sorted({task for task, _ in questions.facts()}))
        return ShuffledQuestions(questions, np.arange(len(questions)), seed, keys)
    source = source_of(asked.images)
    source.prepare()
    tasks = [asked.tasks] if isinstance(asked.tasks, PretextTask) else asked.tasks
    tasks = tasks_for(source) if tasks is None else tasks
    return QuestionDataset([source], tasks, seed, stream=stream, block=len(tasks) or 1)


def at_most(count: int, questions: QuestionDataset | ShuffledQuestions) -> int:
    """Return `count`, or how many questions a set on disk has, when it has fewer."""
    return min(count, len(questions.rows)) if isinstance(questions, ShuffledQuestions) else count


def refusals(questions: QuestionDataset | ShuffledQuestions) -> Counter[tuple[str, str]]:
    """Return how often each task refused a scene, for each reason, as far as it is known."""
    if isinstance(questions, QuestionDataset):
        return questions.rejections
    manifest = questions.questions.manifest or {"tasks": {}}
    return Counter(
        {
            (task, reason): count
            for task, found in manifest["tasks"].items()
            for reason, count in found["rejections"].items()
        }
    )


def tasks_for(source: ImageSource) -> list[PretextTask]:
    """Return every task that the pictures of a source allow, with default settings."""
    every = [entry.cls() for entry in TASKS.entries()]
    return [task for task in every if source.has_depth or not task.needs_depth]


def source_of(images: ImageSource | str | None) -> ImageSource:
    """Return the source that an option names: itself, a folder, or drawn scenes for None.

    Raises:
        ConfigError: If the text is neither a folder nor an image source.
    """
    if images is None:
        return SyntheticScenes()
    if isinstance(images, ImageSource):
        return images
    if not Path(images).exists():
        names = [entry.cls.__name__ for entry in IMAGE_SOURCES.entries()]
        hint = did_you_mean(images, names) or f" Image sources: {', '.join(names)}."
        raise ConfigError(f"images: {images!r} is neither a folder nor an image source.{hint}")
    return ImageFolder(Path(images))
