"""Questions of a curated set in the order of training and of evaluation."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from spatial_ssrl.core.errors import ConfigError, SceneRejected, SceneUnreadable, SpatialSSRLError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.data.curated.reading import CuratedQuestions
from spatial_ssrl.data.splits import Except, split_names

_log = logging.getLogger(__name__)

_TRIES = 20
_EVALUATION_SEED = 0

Rows = npt.NDArray[np.int64]
Prepare = Callable[[Question], Question] | None
"""Makes a question fit the policy that is to read it, or raises SceneRejected; None leaves it."""


class _Replacing(Dataset[Question]):
    """Reads questions of a set; in place of one that cannot be used another is read.

    One that cannot be read is counted in `unreadable`, by the message, and one that does not fit
    the policy in `rejections`, by task and reason.
    """

    def __init__(self, questions: CuratedQuestions, prepare: Prepare) -> None:
        self.questions = questions
        self.prepare = prepare
        self.unreadable: Counter[str] = Counter()
        self.rejections: Counter[tuple[str, str]] = Counter()

    def first_usable(self, rows: Iterable[int]) -> Question:
        """Return the first question of `rows` that can be used, and count those that cannot.

        Raises:
            SpatialSSRLError: If there is none.
        """
        reasons: Counter[str] = Counter()
        for row in rows:
            try:
                question = self.questions[int(row)]
            except SceneUnreadable as error:
                reasons[str(error)] += 1
                self._note(self.unreadable, str(error), str(error))
                continue
            try:
                return question if self.prepare is None else self.prepare(question)
            except SceneRejected as refusal:
                reasons[refusal.reason] += 1
                said = f"Question {question.uid} ({question.task}) is left out: {refusal.reason}."
                self._note(self.rejections, (question.task, refusal.reason), said)
        raise SpatialSSRLError(
            f"None of {_TRIES} questions of {str(self.questions.path)!r} can be used: "
            f"{reasons.most_common(1)[0][0]}"
        )

    def _note(self, counted: Counter[Any], what: Any, said: str) -> None:
        if not counted:
            _log.warning("%s Another question takes its place; further ones are counted.", said)
        counted[what] += 1


class ShuffledQuestions(_Replacing):
    """An endless stream that shows every question once before it shows one again.

    Question `i` is a pure function of the arguments and `i`. Another question takes the place of
    one that cannot be read (counted in `unreadable`, by the message) or does not fit the policy
    (counted in `rejections`, by task and reason).

    Args:
        questions: The set.
        rows: Which of its questions to show, at least one.
        seed: Names the order, which is another in every pass.
        task_keys: Tasks of the set.
        prepare: Makes a question fit the policy.
    """

    def __init__(
        self,
        questions: CuratedQuestions,
        rows: Rows,
        seed: int,
        task_keys: tuple[str, ...],
        prepare: Prepare = None,
    ) -> None:
        super().__init__(questions, prepare)
        self.rows = rows
        self.seed = seed
        self.task_keys = task_keys
        self._pass = -1
        self._order = rows

    def __getitem__(self, index: int) -> Question:
        """Return question `index`, 0 or more.

        Raises:
            SpatialSSRLError: If no question of many can be used.
        """
        number, place = divmod(index, len(self.rows))
        if number != self._pass:
            self._order = rng_for(self.seed, "curated", "pass", number).permutation(self.rows)
            self._pass = number
        others = rng_for(self.seed, "curated", "instead", index)
        rows = (self._order[place], *others.choice(self.rows, _TRIES - 1))
        return self.first_usable(rows)


class ChosenQuestions(_Replacing):
    """Some questions of a set, in a given order.

    The next question takes the place of one that cannot be read or does not fit the policy; both
    are counted, as in `ShuffledQuestions`.

    Args:
        questions: The set.
        rows: Which of its questions, in order.
        prepare: Makes a question fit the policy.
    """

    def __init__(self, questions: CuratedQuestions, rows: Rows, prepare: Prepare = None) -> None:
        super().__init__(questions, prepare)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Question:
        """Return question `index`, in [0, len(self)).

        Raises:
            SpatialSSRLError: If no question of many can be used.
        """
        return self.first_usable(np.roll(self.rows, -index)[:_TRIES])


class CuratedSplit:
    """A curated set parted into training and held-out questions by their scenes.

    Scenes are parted by a hash of their `source_id`, so that one scene never serves both sides,
    and the parting is the same in every run and for every set that shows these scenes.

    Args:
        path: The set; see `CuratedQuestions`.
        share: Share of scenes that is held out, in (0, 1).

    Raises:
        ConfigError: If there is no such set, or it shows fewer than two scenes.
    """

    def __init__(self, path: Path | str, share: float) -> None:
        self.questions = CuratedQuestions(path)
        tasks, scenes = (
            zip(*self.questions.facts(), strict=True) if len(self.questions) else ((), ())
        )
        self.task_keys: tuple[str, ...] = tuple(sorted(set(tasks)))
        self._tasks = np.array(tasks, dtype=object)
        split = split_names(scenes, share)
        self.training = self._where(Except(split), scenes)
        self.held_out = self._where(split, scenes)
        if not len(self.training) or not len(self.held_out):
            raise ConfigError(
                f"curated: {str(path)!r} shows {len(set(scenes))} scenes, too few to hold a share "
                f"of {share} out; make a set from more pictures or change evaluation.share."
            )

    def stream(self, seed: int, prepare: Prepare = None) -> ShuffledQuestions:
        """Return the training questions without end, in an order named by `seed`."""
        return ShuffledQuestions(self.questions, self.training, seed, self.task_keys, prepare)

    def chosen(self, stream: str, per_task: int, prepare: Prepare = None) -> ChosenQuestions:
        """Return held-out questions, the tasks in turn.

        "val" takes them from one end of a fixed order, every other stream from the other end, so
        that they are different questions where the set holds enough.

        Args:
            stream: What they are for.
            per_task: Questions of each task, fewer where the set has fewer.
            prepare: Makes a question fit the policy.
        """
        columns = []
        for task in self.task_keys:
            rows = self.held_out[self._tasks[self.held_out] == task]
            order = rng_for(_EVALUATION_SEED, "curated", "held_out", task).permutation(rows)
            columns.append((order if stream == "val" else order[::-1])[:per_task])
            if len(rows) < per_task:
                _log.warning(
                    "The set holds out %d questions of task %s, fewer than the %d asked for.",
                    len(rows), task, per_task,
                )  # fmt: skip
        in_turn = [
            (place, number, row)
            for number, column in enumerate(columns)
            for place, row in enumerate(column)
        ]
        order = np.array([row for *_, row in sorted(in_turn)], dtype=np.int64)
        return ChosenQuestions(self.questions, order, prepare)

    @staticmethod
    def _where(admits: Callable[[str], bool], scenes: tuple[str, ...]) -> Rows:
        return np.flatnonzero([admits(scene) for scene in scenes]).astype(np.int64)
