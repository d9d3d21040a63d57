"""Going on plainly or by recorded steps, whichever is found to be faster where it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from spatial_ssrl.policies.base import PolicyBackbone, ReadState
from spatial_ssrl.policies.fixed_step import FixedStep
from spatial_ssrl.rollout.continuing import (
    ROOM,
    WARM_UP,
    WORTH,
    Branching,
    Continuation,
    Recorded,
    Recorder,
)

TIMED = 8  # steps of each way that are timed, of which the median counts
_TRIES = 3  # batches in which measuring may come to no end

# Limits up to which it is not begun: completions part after one token at the earliest.
TOO_FEW = 1 + TIMED + WARM_UP + WORTH


@dataclass(frozen=True, slots=True)
class Timing:
    """What a token of all completions of a batch takes, in seconds.

    Args:
        plain: Kernel by kernel.
        replay: By a recording.
        recording: What it takes to record a step.
        steps: Tokens that a recording serves, those included after which it is made.
    """

    plain: float
    replay: float
    recording: float
    steps: int

    @property
    def recorded(self) -> float:
        """What a token takes by recordings, made ones and those to be made included."""
        plainly = min(WARM_UP, self.steps)
        spent = self.recording + plainly * self.plain + (self.steps - plainly) * self.replay
        return spent / self.steps


class Choices:
    """What was found to be faster, kept for the rest of the run by how many completions there are.

    Counts that have as many binary digits are one: with more completions there is more to
    compute for as many launches.
    """

    def __init__(self) -> None:
        self._recorded: dict[int, bool] = {}
        self._tries = Counter[int]()

    def of(self, completions: int) -> bool | None:
        """Return whether recorded steps are faster; None if that is to be measured now."""
        size = completions.bit_length()
        if size not in self._recorded:
            self._tries[size] += 1
            if self._tries[size] > _TRIES:
                self._recorded[size] = False
                _say(
                    f"Sampling {completions} completions at once goes on without CUDA graphs: "
                    f"{_TRIES} batches ended, or did not part, before both ways were measured."
                )
        return self._recorded.get(size)

    def settle(self, completions: int, timing: Timing) -> bool:
        """Keep and say what was measured; return whether recorded steps are faster."""
        faster = timing.recorded < timing.plain
        self._recorded[completions.bit_length()] = faster
        _say(
            f"Sampling {completions} completions at once takes {1e3 * timing.plain:.2f} ms a token "
            f"kernel by kernel and {1e3 * timing.recorded:.2f} ms by CUDA graphs, "
            f"{1e3 * timing.recording:.0f} ms to record one every {timing.steps} tokens included: "
            f"it goes on {'by' if faster else 'without'} CUDA graphs."
        )
        return faster

    def give_up(self, completions: int) -> None:
        """Keep that steps could not be recorded."""
        self._recorded[completions.bit_length()] = False


class Measured(Continuation):
    """Completions go on plainly, then by recorded steps, then by what was faster.

    What is timed are the steps that sampling takes anyway, each of them once: nothing is read
    that is not said, and random numbers are named by token, not by who computes it. So what is
    measured leaves no trace but the rounding of the way that is taken.

    Plain steps are timed once completions are all on rows of their own, as recorded ones always
    are. While some agree, plain sampling has fewer rows to compute, and is not departed from.

    Args:
        policy: The policy, which `has_fixed_steps`.
        state: What was read, made `for_sampling`.
        limit: Most tokens of a completion.
        record: How a step is recorded.
        choices: What was found in batches before; what is found here is added.
    """

    def __init__(
        self,
        policy: PolicyBackbone,
        state: ReadState,
        limit: int,
        record: Recorder,
        choices: Choices,
    ) -> None:
        self._policy, self._limit, self._record = policy, limit, record
        self._choices, self._trial = choices, _Trial(record)
        self._now: Branching | Recorded = Branching(policy, state)
        self._completions = self._said = 0
        self._trying = False
        self.hidden = state.hidden

    @property
    def steady(self) -> bool:
        """Whether it is settled how completions go on, and they do so steadily."""
        return not self._trying and self._now.steady

    def go_on(self, row: Tensor, chosen: Tensor) -> Tensor:
        """Read one more token of each live completion; see `Continuation.go_on`."""
        if self._said == 0:
            self._begin(len(row))
        if self._trying:
            row = self._trial.go_on(self._now, row, chosen)
        else:
            row = self._now.go_on(row, chosen)
        self._said += 1
        if self._trying:
            self._judge()
        self.hidden, self.alone = self._now.hidden, self._now.alone
        return row

    def _begin(self, completions: int) -> None:
        if self._limit <= TOO_FEW:
            return
        self._completions = completions
        recorded = self._choices.of(completions)
        self._trying = recorded is None
        if recorded:
            state = self._now.state
            self._now = Recorded(self._policy, state, self._limit, self._record)

    def _judge(self) -> None:
        """Go on by recorded steps if plain ones are timed, and by the faster if both are."""
        now, trial = self._now, self._trial
        if isinstance(now, Branching):
            if len(trial.plain) < TIMED:
                return
            if self._limit - self._said > WARM_UP + WORTH:
                state, said = now.state, self._said
                self._now = Recorded(self._policy, state, self._limit, trial.record, said)
                self._now.alone = True
            else:
                self._trying = False
        elif now.failed:
            self._choices.give_up(self._completions)
            self._go_on_plainly(now)
        elif len(trial.replays) == TIMED:
            timing = trial.timing(min(ROOM, self._limit))
            self._trying = False
            if not self._choices.settle(self._completions, timing):
                self._go_on_plainly(now)

    def _go_on_plainly(self, now: Recorded) -> None:
        self._now, self._trying = Branching(self._policy, now.state, alone=True), False


@dataclass
class _Trial:
    """Times in seconds.

    Args:
        recorder: How a step is recorded.
        plain: Of plain steps.
        replays: Of replayed ones.
        recording: Of recording one.
    """

    recorder: Recorder
    plain: list[float] = field(default_factory=list)
    replays: list[float] = field(default_factory=list)
    recording: float | None = None

    def go_on(self, now: Branching | Recorded, row: Tensor, chosen: Tensor) -> Tensor:
        """Go on, and keep how long it took if the step is one like those to come."""
        times = self.plain if isinstance(now, Branching) else self.replays
        steady, started = now.steady, _clock(row.device)
        row = now.go_on(row, chosen)
        spent = _clock(row.device) - started
        # What was steady ceases to be where rows are given up or room is made.
        if steady and now.steady:
            times.append(spent)
        return row

    def record(self, step: FixedStep) -> Callable[[], None]:
        """Record a step; the first one twice."""
        if self.recording is None:
            # The first recording also sets CUDA up and is checked, which later ones are not.
            self.recorder(step)
            started = _clock(step.tokens.device)
            replay = self.recorder(step)
            self.recording = _clock(step.tokens.device) - started
            return replay
        return self.recorder(step)

    def timing(self, steps: int) -> Timing:
        """Return what was found.

        A recording is counted on the fewest tokens that one serves in full, those of the first
        room: later ones serve more, unless half of the completions end before.
        """
        assert self.recording is not None
        return Timing(median(self.plain), median(self.replays), self.recording, steps)


def _clock(device: torch.device) -> float:
    """Return the time, in seconds, at which a device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _say(text: str) -> None:
    # Once, not once a process. Imported late: it brings all of Lightning.
    from lightning.pytorch.utilities import rank_zero_info

    rank_zero_info(text)
