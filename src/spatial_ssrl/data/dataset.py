"""Questions by number: a pure function of the seed and the number."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from spatial_ssrl.core.errors import ConfigError, SceneRejected, SceneUnreadable, SpatialSSRLError
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import TASKS, PretextTask

_log = logging.getLogger(__name__)

_GOLDEN = (math.sqrt(5) - 1) / 2
_MAX_SCENES = 200
_MAX_LOOKS = 10_000


class QuestionDataset(Dataset[Question]):
    """An endless, indexable stream of questions.

    Question `i` is a pure function of the constructor's arguments and `i`: workers, restarts
    and machines agree on it. Every block of `block` consecutive questions holds the tasks in
    proportion to their weights, each count rounded up or down and right in the long run.

    A scene from which a task can make nothing, or no question that fits, is counted in
    `rejections`, by the task's key and the reason, and one that cannot be read in `unreadable`, by
    the message; all are replaced by another scene.

    Args:
        images: Where scenes come from; tasks that need depth draw from those that have it.
        tasks: The tasks to mix.
        seed: Base seed of every draw.
        stream: Name of the stream; streams of different names share no draw.
        block: Questions in which the mix of tasks is balanced, usually the batch size.
        task_weights: Share of each task, any positive scale; equal by default.
        image_weights: Share of each source, any positive scale; by default in proportion
            to their numbers of scenes.
        admits: Picklable test of a `source_id`; scenes it refuses are never used.
        prepare: Picklable; makes a question fit the policy that is to read it, or raises
            SceneRejected. A pure function of the question.

    Raises:
        ConfigError: If there is no task or source, a source is empty, weights do not fit, or
            a task needs depth and no source has it.
    """

    def __init__(
        self,
        images: Sequence[ImageSource],
        tasks: Sequence[PretextTask],
        seed: int = 0,
        stream: str = "train",
        block: int = 1,
        task_weights: Sequence[float] | None = None,
        image_weights: Sequence[float] | None = None,
        admits: Callable[[str], bool] | None = None,
        prepare: Callable[[Question], Question] | None = None,
    ) -> None:
        if not tasks:
            raise ConfigError("tasks is empty; name at least one task.")
        if not images:
            raise ConfigError("images is empty; name at least one image source.")
        for source in images:
            if len(source) == 0:
                raise ConfigError(f"{type(source).__name__} holds no scene; remove it or fill it.")
        self.tasks = tuple(tasks)
        self.sources = tuple(images)
        self.seed = seed
        self.stream = stream
        self.block = block
        self.admits = admits
        self.prepare = prepare
        self.rejections: Counter[tuple[str, str]] = Counter()
        self.unreadable: Counter[str] = Counter()
        self._edges = np.cumsum(_shares(task_weights, len(tasks), "task_weights"))
        weights = image_weights or [float(len(source)) for source in images]
        shares = _shares(weights, len(images), "image_weights")
        self._source_shares = [_eligible_shares(task, self.sources, shares) for task in self.tasks]

    @property
    def task_keys(self) -> tuple[str, ...]:
        """Registry keys of the tasks."""
        return tuple(TASKS.key_of(task) for task in self.tasks)

    def task_at(self, index: int) -> PretextTask:
        """Return the task of question `index`."""
        block, place = divmod(index, self.block)
        rng = rng_for(self.seed, self.stream, "mix", block)
        # Evenly spaced points on the line of cumulative shares give each task its share of the
        # block, rounded; moving their offset by the golden ratio evens out what rounding leaves.
        offset = (rng_for(self.seed, self.stream, "mix").random() + block * _GOLDEN) % 1.0
        point = (rng.permutation(self.block)[place] + offset) / self.block
        return self.tasks[
            min(int(np.searchsorted(self._edges, point, "right")), len(self.tasks) - 1)
        ]

    def __getitem__(self, index: int) -> Question:
        """Make question `index`, 0 or more.

        Raises:
            SpatialSSRLError: If the task makes no question of 200 scenes; the message names
                the task and the most common reasons.
        """
        task = self.task_at(index)
        rng = rng_for(self.seed, self.stream, "question", index)
        key = TASKS.key_of(task)
        reasons: Counter[str] = Counter()
        for _ in range(_MAX_SCENES):
            try:
                scene = self._draw_scene(task, rng)
                question = replace(
                    task.make(scene, rng), source_id=scene.source_id, licence=scene.licence
                )
                return question if self.prepare is None else self.prepare(question)
            except SceneRejected as refusal:
                reasons[str(refusal)] += 1
                self.rejections[key, str(refusal)] += 1
            except SceneUnreadable as error:
                reasons[str(error)] += 1
                if not self.unreadable:
                    _log.warning(
                        "%s Another scene takes its place; further ones are counted.", error
                    )
                self.unreadable[str(error)] += 1
        common = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise SpatialSSRLError(
            f"Task {key!r} made no question of {_MAX_SCENES} scenes: {common}. "
            "Use other images, easier task settings, or leave the task out."
        )

    def _draw_scene(self, task: PretextTask, rng: np.random.Generator) -> Scene:
        shares = self._source_shares[self.tasks.index(task)]
        for _ in range(_MAX_LOOKS):
            source = self.sources[int(rng.choice(len(self.sources), p=shares))]
            index = int(rng.integers(len(source)))
            if self.admits is None or self.admits(source.source_id(index)):
                return source.scene(index)
        raise SpatialSSRLError(
            f"No scene of {_MAX_LOOKS} drawn belongs to the {self.stream!r} split; "
            "give more images, or a larger held-out share."
        )


def _shares(weights: Sequence[float] | None, count: int, name: str) -> list[float]:
    if weights is None:
        weights = [1.0] * count
    if len(weights) != count or min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise ConfigError(
            f"{name} must be {count} numbers, none negative and not all zero, got {list(weights)}."
        )
    return [weight / sum(weights) for weight in weights]


def _eligible_shares(
    task: PretextTask, sources: Sequence[ImageSource], shares: Sequence[float]
) -> list[float]:
    eligible = [
        share if source.has_depth or not task.needs_depth else 0.0
        for source, share in zip(sources, shares, strict=True)
    ]
    if sum(eligible) == 0:
        raise ConfigError(
            f"Task {TASKS.key_of(task)!r} needs depth, but no image source has it: "
            "add an RGB-D source such as SyntheticScenes or RGBDPairs, or remove the task."
        )
    return _shares(eligible, len(eligible), "image_weights")
