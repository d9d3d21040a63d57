"""Ways to let completions go on by the tokens that were drawn for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from spatial_ssrl.policies.base import PolicyBackbone, ReadState
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.fixed_step import FixedStep

Recorder = Callable[[FixedStep], Callable[[], None]]
"""Records a step without taking it, and returns what takes it as often as called; the step
itself where it cannot be recorded."""

ROOM = 64  # tokens there is room for at first
WARM_UP = 3  # steps taken before one is recorded, in which libraries set themselves up
WORTH = 16  # steps left below which nothing new is recorded


class Continuation(ABC):
    """What live completions have read, and how they go on.

    Attributes:
        hidden: Last hidden state of each row of the cache, shape (R, d).
        alone: Whether it is known that no two completions are on one row.
    """

    hidden: Tensor
    alone = False

    @property
    @abstractmethod
    def steady(self) -> bool:
        """Whether the next tokens will take what the last one took, bar what rarely happens."""

    @abstractmethod
    def go_on(self, row: Tensor, chosen: Tensor) -> Tensor:
        """Read one more token of each live completion.

        Args:
            row: Cache row of each live completion, shape (L,), int64.
            chosen: Its next token, shape (L,), int64.

        Returns:
            Its cache row from now on, shape (L,), int64.
        """


class Branching(Continuation):
    """Completions that agree so far share a row; rows that nobody is on leave.

    Args:
        policy: The policy.
        state: What was read, made `for_sampling`.
        alone: Whether no two completions are on one row.

    Attributes:
        state: What was read so far.
    """

    def __init__(self, policy: PolicyBackbone, state: ReadState, alone: bool = False) -> None:
        self._policy, self.state = policy, state
        self.hidden, self.alone = state.hidden, alone

    @property
    def steady(self) -> bool:
        """Whether all completions have parted."""
        return self.alone

    def go_on(self, row: Tensor, chosen: Tensor) -> Tensor:
        """Read one more token of each distinct branch; see `Continuation.go_on`."""
        rows, stay = len(self.state.hidden), False
        if self.alone:
            # Sorted by row as below, but without waiting for the device. Completions that all
            # have a row of their own stay where they are if they are as many as rows.
            stay = len(row) == rows
            parents, order = row.sort()
            new, row = chosen[order], order.argsort()
        else:
            width = self._policy.vocabulary_size
            branches, row = torch.unique(row * width + chosen, return_inverse=True)
            parents, new = branches // width, branches % width
            self.alone = len(branches) == len(row)
        if not (stay or _is_identity(parents, rows)):
            self.state = self.state.select(parents)
        new = new.unsqueeze(1)
        real = torch.ones_like(new, dtype=torch.bool)
        self.state, _ = self._policy.read_on(self.state, new, real)
        self.hidden = self.state.hidden
        return row


class Recorded(Continuation):
    """Completions go on by a step that was recorded, such as a CUDA graph.

    A recorded step has a fixed number of rows, one a completion, and room for a fixed number of
    tokens. When the room is used up, twice as much is taken, and when half of the completions
    have ended, the rows of the others; either takes a new recording. Rows of completions that
    ended meanwhile go on saying something that nobody reads.

    Args:
        policy: The policy, which `has_fixed_steps`.
        state: What was read, made `for_sampling`.
        limit: Most tokens of a completion.
        record: How a step is recorded.
        said: Tokens of completions among what was read.
    """

    def __init__(
        self,
        policy: PolicyBackbone,
        state: ReadState,
        limit: int,
        record: Recorder,
        said: int = 0,
    ) -> None:
        self._policy, self._limit, self._record = policy, limit, record
        self._state: ReadState | None = state
        self._step: FixedStep | None = None
        self._run: Callable[[], None] | None = None
        self._taken, self._said = 0, said
        self.hidden = state.hidden

    @property
    def steady(self) -> bool:
        """Whether a recording takes the steps."""
        return self._run is not None and not self.failed

    @property
    def failed(self) -> bool:
        """Whether a step could not be recorded, and is taken plainly instead."""
        return self._run is not None and self._run is self._step

    @property
    def state(self) -> ReadState:
        """What was read so far."""
        state = self._state if self._step is None else self._step.state(self._said)
        assert state is not None
        return state

    def go_on(self, row: Tensor, chosen: Tensor) -> Tensor:
        """Read one more token of each row; see `Continuation.go_on`."""
        if self._must_begin(len(row)):
            self._begin(row)
            row = torch.arange(len(row), device=row.device)
            self.alone = True
        step = self._step
        assert step is not None
        step.tokens[row, 0] = chosen
        if self._run is None and self._taken >= WARM_UP and self._worth_it():
            self._run = self._record(step)
        (self._run or step)()
        self._taken, self._said = self._taken + 1, self._said + 1
        replayed = len(step) if self.steady else 0
        self._policy.tokens += TokenCount(computed=len(step), replayed=replayed)
        self.hidden = step.hidden
        return row

    def _must_begin(self, live: int) -> bool:
        step = self._step
        if step is None or self._said == step.room:
            return True
        return 2 * live <= len(step) and self._worth_it()

    def _worth_it(self) -> bool:
        return self._limit - self._said > WORTH

    def _begin(self, row: Tensor) -> None:
        """Take a step whose rows are those of the live completions, with room for more."""
        state = self.state
        # Nothing of what was is held on to while memory for what comes is taken.
        self._state = self._step = self._run = None
        state = state.select(row)
        self._step = self._policy.fixed_step(state, min(max(ROOM, 2 * self._said), self._limit))
        self._taken = 0


def _is_identity(parents: Tensor, rows: int) -> bool:
    return len(parents) == rows and bool(
        (parents == torch.arange(rows, device=parents.device)).all()
    )
