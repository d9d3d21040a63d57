"""The pretext task contract, its registry, and the identity of a question."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar

import numpy as np

from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.core.registry import Registry


class PretextTask(ABC):
    """Makes one question, with an answer a program can check, from one scene.

    Subclasses store each constructor argument under its own name, so that two tasks with
    equal settings make equal questions with equal ids.
    """

    needs_depth: ClassVar[bool] = False

    @abstractmethod
    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Make one question from `scene`, drawing only from `rng`.

        Args:
            scene: The picture, and its depth where `needs_depth`. Never modified.
            rng: Source of every random choice; the same state gives the same question.

        Raises:
            SceneRejected: If no question with a unique answer can be made; the reason is a
                short sentence that can be counted.
        """

    def undo(self, question: Question) -> np.ndarray | None:
        """Apply the answer and recover the scene's picture, or None where nothing is undone."""
        return None

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""
        return {name: getattr(self, name) for name in _argument_names(type(self))}

    def uid(self, scene: Scene, *draw: object) -> str:
        """Return the id of a question: 16 hex digits of task, settings, scene and draw."""
        facts = (TASKS.key_of(self), sorted(self.settings().items()), scene.source_id, draw)
        return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


@cache  # reading a signature takes as long as drawing a small question
def _argument_names(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls).parameters)


TASKS: Registry[PretextTask] = Registry(PretextTask, "task")
