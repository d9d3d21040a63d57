"""The largest step that fits a card, one quantity at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from spatial_ssrl.planning.plan import Overheads, Planner
from spatial_ssrl.planning.prediction import Prediction
from spatial_ssrl.planning.rehearsal import Step
from spatial_ssrl.training import RLModule

# Keys of the settings that are looked at.
GROUP = "model.group_size"
COMPLETION = "model.sampling.max_new_tokens"
PIXELS = "model.policy.max_pixels"
MICRO_BATCH = "model.update.micro_batch_size"

# How much larger than now is looked: beyond it, a straight line says little.
_FARTHEST = 4

# Pictures are scaled in steps of about a patch.
_PIXELS = 16_384


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest value of one quantity with which a run fits, all others as they are.

    Args:
        name: Of the quantity.
        key: Of the setting, in a config.
        now: Its value in the run.
        largest: The largest that fits; None when not even the smallest does.
        more: Whether larger values than were looked at may fit.
        least: The smallest value that is looked at.
        grain: Values are multiples of it.
    """

    name: str
    key: str
    now: int
    largest: int | None
    more: bool = False
    least: int = 1
    grain: int = 1


def limits(planner: Planner, capacity: int) -> list[Limit]:
    """Return how large each quantity of a run may be on a card.

    Each is worked out from two rehearsals, the run as it is and with another value of it, and
    the straight line through them.

    Args:
        planner: Knows the run.
        capacity: Bytes of the card.
    """
    step, found = planner.step, []
    if isinstance(planner.module, RLModule):
        found.append(_Search("group size", GROUP, step.group_size, 2, 64 * step.group_size, 1))
        found.append(
            _Search(
                "completion, tokens",
                COMPLETION,
                step.completion,
                16,
                64 * step.completion,
                16,
            )
        )
    found.append(
        _Search(
            "picture, pixels",
            PIXELS,
            planner.picture,
            _PIXELS,
            planner.largest_picture,
            _PIXELS,
        )
    )
    found.append(
        _Search(
            "micro-batch, questions",
            MICRO_BATCH,
            step.micro_batch,
            1,
            step.questions,
            1,
        )
    )
    return [search.limit(planner, capacity) for search in found]


@dataclass(frozen=True, slots=True)
class _Search:
    name: str
    key: str
    now: int
    least: int
    most: int
    grain: int

    def limit(self, planner: Planner, capacity: int) -> Limit:
        """Return the largest value that fits."""
        here = planner.predict()
        fits = planner.needed(here) <= capacity
        other = min(2 * self.now, self.most) if fits else max(self.now // 2, self.least)
        if other == self.now:
            return self._found(self.now if fits else None)
        there = predict_with(planner, self.key, other)
        room = _tensors_that_fit(planner, capacity)
        best = min(
            (_crossing(self.now, a, other, b, room) for a, b in _stages(here, there)),
            default=float(self.most),
        )
        farthest = min(self.most, _FARTHEST * self.now)
        value = int(min(best, farthest)) // self.grain * self.grain
        if fits:
            value = max(value, self.now)
        more = fits and best > farthest and farthest < self.most
        return self._found(value if value >= self.least else None, more)

    def _found(self, largest: int | None, more: bool = False) -> Limit:
        return Limit(self.name, self.key, self.now, largest, more, self.least, self.grain)


def predict_with(planner: Planner, key: str, value: int) -> Prediction:
    """Return what a run needs with another value of one quantity, named by its setting."""
    step, change = planner.step, _CHANGES.get(key)
    if change is None:
        return planner.predict(step, max_pixels=value)
    return planner.predict(change(step, value))


_CHANGES: dict[str, Callable[[Step, int], Step]] = {
    GROUP: lambda step, value: replace(step, group_size=value),
    COMPLETION: lambda step, value: replace(step, completion=value),
    MICRO_BATCH: lambda step, value: replace(step, micro_batch=value),
}


def _stages(here: Prediction, there: Prediction) -> list[tuple[int, int]]:
    pairs = [(here.update.total, there.update.total)]
    if here.sampling is not None and there.sampling is not None:
        pairs.append((here.sampling.total, there.sampling.total))
    return pairs


def _crossing(x: int, at_x: int, y: int, at_y: int, room: int) -> float:
    """Return where the line through two points reaches `room`; infinity if it does not rise."""
    slope = (at_y - at_x) / (y - x)
    if slope <= 0:
        return float("inf") if at_x <= room else 0.0
    return x + (room - at_x) / slope


def _tensors_that_fit(planner: Planner, capacity: int) -> int:
    """Return the bytes of tensors that leave room for the overheads."""
    fixed, share = Overheads.of(0, planner.cuda), Overheads.of(10**9, planner.cuda)
    return int((capacity - fixed.total) / (1 + share.fragmentation / 10**9))
