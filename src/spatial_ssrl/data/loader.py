"""Loaders of questions: one that continues where it was, one that starts over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from spatial_ssrl.core.questions import Question

Collate = Callable[[list[Question]], Any]


@dataclass(frozen=True)
class Share:
    """One process's part of what several work on: neighbours, as many as the others have.

    Args:
        rank: Number of this process, in [0, `processes`).
        processes: Processes that share the work.
    """

    rank: int = 0
    processes: int = 1

    def of(self, numbers: range) -> range:
        """Return this process's part; the parts in order of rank make up the whole."""
        count = len(numbers)
        return numbers[
            count * self.rank // self.processes : count * (self.rank + 1) // self.processes
        ]


class QuestionLoader:
    """Training batches of consecutive questions; its only state is a position.

    The position counts questions handed out, not those that workers prepare ahead, so that a
    restart repeats none and skips none. Each pass yields the batches of one epoch from the
    position onwards: the stream never starts over. Several processes share each batch, and the
    position counts the questions of all of them, so that a run may go on with another number.

    Args:
        dataset: The stream of questions.
        batch_size: Questions in a batch, over all processes.
        batches: Batches in an epoch.
        collate: Picklable; turns the questions of a batch into what is yielded.
        num_workers: Processes that prepare batches; 0 prepares them in this one.
        position: Number of the first question.
        share: This process's part of each batch.
    """

    def __init__(
        self,
        dataset: Dataset[Question],
        batch_size: int,
        batches: int,
        collate: Collate = list,
        num_workers: int = 0,
        position: int = 0,
        share: Share = Share(),
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.batches = batches
        self.collate = collate
        self.num_workers = num_workers
        self.position = position
        self.share = share

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        end = self.position + self.batches * self.batch_size
        numbers = _Batches(range(self.position, end), self.batch_size, self.share)
        for batch in _load(self.dataset, numbers, self.collate, self.num_workers):
            # Before handing the batch out: a checkpoint written while it trains must not
            # count it as still to come.
            self.position += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of the next question."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the question `state_dict` recorded."""
        self.position = state["position"]


class HeldOutLoader:
    """The same questions in the same batches at every pass; the last batch may be smaller.

    Args:
        dataset: The stream of questions.
        batch_size: Questions in a batch of one process.
        questions: Number of questions, the first of the stream, over all processes.
        collate: As in `QuestionLoader`.
        num_workers: As in `QuestionLoader`.
        share: This process's part of the questions.
    """

    def __init__(
        self,
        dataset: Dataset[Question],
        batch_size: int,
        questions: int,
        collate: Collate = list,
        num_workers: int = 0,
        share: Share = Share(),
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.num_workers = num_workers
        self._numbers = _Batches(share.of(range(questions)), batch_size)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Any]:
        return iter(_load(self.dataset, self._numbers, self.collate, self.num_workers))


class _Batches:
    """This process's question numbers of each batch, computed when asked for."""

    def __init__(self, numbers: range, size: int, share: Share = Share()) -> None:
        self.numbers, self.size, self.share = numbers, size, share

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.numbers), self.size):
            yield list(self.share.of(self.numbers[start : start + self.size]))


def _load(
    dataset: Dataset[Question], numbers: _Batches, collate: Collate, num_workers: int
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=num_workers,
        # Without one, every pass would draw from the global generator.
        generator=torch.Generator(),
    )
