"""Making a run fit a card, by what changes it least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.divisions import smaller_parts, smaller_passes
from spatial_ssrl.planning.limits import COMPLETION, MICRO_BATCH, PIXELS
from spatial_ssrl.planning.parts import REFERENCE
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.rehearsal import Step
from spatial_ssrl.training import RLModule

BATCH_TOKENS = "model.rollout.batch_tokens"
MICRO_BATCH_TOKENS = "model.update.micro_batch_tokens"
MIN_PIXELS = "model.policy.min_pixels"
CHECKPOINTING = "model.policy.gradient_checkpointing"
ON_HOST = "model.policy.reference_on_host"

# What changes results is lowered by sixteenths, alone to a quarter at most: below that the run is
# another one.
_STEPS, _LEAST = 16, 4

# Pictures are scaled in steps of about a patch, completions by so many tokens.
_PIXELS, _TOKENS = 1024, 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """A setting of a run that gets another value.

    Args:
        key: Of the setting, in a config.
        before: Its value in the run; None where there was no limit.
        after: The one with which the run fits.
        results: Whether it changes what is learned, and not only memory and time.
    """

    key: str
    before: int | bool | None
    after: int | bool
    results: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """What makes a run fit a card.

    Args:
        changes: What is set otherwise; none if it fits as it is.
        needed: Bytes of the card that the run then needs, predicted with these very values.
    """

    changes: tuple[Change, ...]
    needed: int


def fitted(planner: Planner, capacity: int) -> Fit:
    """Return what makes a run fit a card, and the bytes it then needs.

    First what changes memory and time only, each no more than it takes: fewer questions, then
    fewer completions of one, sampled at once; smaller passes, then passes over some completions
    of a group; activations computed again; the reference kept in the host's memory. If that is
    not enough, what changes results: smaller pictures or shorter completions, whichever has to
    give way less, and both where neither alone is enough. Groups stay as they are: a step that
    samples and scores one completion at a time needs no more for a larger group.

    Args:
        planner: Knows the run.
        capacity: Bytes that it may need, such as `Card.usable`.

    Raises:
        ConfigError: If nothing of this is enough.
    """
    start = _Trial(planner, planner.step)
    trial = _without_results_changed(start, capacity)
    if trial.needed > capacity:
        lowered = _lowered(trial.divided_most, capacity)
        trial = _divided(lowered.divided_as(start), capacity)
        if trial.needed > capacity:  # By a hair, from what Python has not freed yet.
            trial = lowered
    return Fit(tuple(_changes(start, trial)), trial.needed)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A run with some values of its own.

    Args:
        planner: Of the run, with settings of its policy switched on or not.
        step: How large a step is, and how it is divided.
        pixels: Bound of its pictures; None for the run's own.
    """

    planner: Planner
    step: Step
    pixels: int | None = None

    @property
    def sampling(self) -> int:
        """Bytes that sampling needs; 0 where another process samples."""
        peak = self.planner.predict(self.step, self.pixels).sampling
        return 0 if peak is None else self.planner.needed_at(peak)

    @property
    def update(self) -> int:
        """Bytes that an update needs."""
        return self.planner.needed_at(self.planner.predict(self.step, self.pixels).update)

    @property
    def needed(self) -> int:
        """Bytes that the run needs."""
        return max(self.sampling, self.update)

    @property
    def divided_most(self) -> _Trial:
        """The run that samples and scores one completion at a time."""
        step = replace(self.step, micro_batch=1, micro_batch_tokens=1)
        if self.sampling:
            step = replace(step, batch_tokens=1)
        return replace(self, step=step)

    def divided_as(self, other: _Trial) -> _Trial:
        """Return the run divided as another one is."""
        step = replace(
            self.step,
            batch_tokens=other.step.batch_tokens,
            micro_batch=other.step.micro_batch,
            micro_batch_tokens=other.step.micro_batch_tokens,
        )
        return replace(self, step=step)


def _without_results_changed(start: _Trial, capacity: int) -> _Trial:
    """Return a run with the same results that fits, or needs the least there is."""
    trial = _divided(start, capacity)
    policy = start.planner.policy
    if trial.update > capacity and not policy.gradient_checkpointing:
        trial = _divided(_switched(start, trial, CHECKPOINTING), capacity)
    copied = trial.planner.predict(trial.step).update.parts.get(REFERENCE, 0)
    if trial.needed > capacity and copied and not policy.reference_on_host:
        trial = _divided(_switched(start, trial, ON_HOST), capacity)
    return trial


def _switched(start: _Trial, trial: _Trial, key: str) -> _Trial:
    return replace(start, planner=trial.planner.switched_on(key.rpartition(".")[2]))


def _divided(trial: _Trial, capacity: int) -> _Trial:
    """Return a run that is divided as little as it takes to fit, or as far as can be."""
    planner, pixels = trial.planner, trial.pixels
    if trial.sampling > capacity:
        steps = smaller_parts(planner.rehearsal, planner.prompt(pixels), trial.step)
        trial = _first_to_fit(trial, steps, lambda trial: trial.sampling, capacity)
    if trial.update > capacity:
        steps = smaller_passes(planner.rehearsal, planner.prompt(pixels), trial.step)
        trial = _first_to_fit(trial, steps, lambda trial: trial.update, capacity)
    return trial


def _first_to_fit(
    trial: _Trial, steps: Sequence[Step], need: Callable[[_Trial], int], capacity: int
) -> _Trial:
    trials = [replace(trial, step=step) for step in steps]
    return _largest(trials, need, capacity) or (trials[-1] if trials else trial)


# What changes results.


def _lowered(trial: _Trial, capacity: int) -> _Trial:
    """Return a run with smaller pictures, shorter completions or both that fits.

    Raises:
        ConfigError: If none does.
    """
    learns = isinstance(trial.planner.module, RLModule)
    keys = (PIXELS, COMPLETION) if learns else (PIXELS,)
    alone = [share for key in keys if (share := _share(trial, (key,), _LEAST, capacity))]
    if alone:
        best = max(alone, key=lambda found: found[0])
        return _with_less(trial, *best)
    together = _share(trial, keys, 1, capacity)
    if together is not None:
        return _with_less(trial, *together)
    least = _with_less(trial, 1, keys).needed
    raise ConfigError(
        f"no settings make the run fit the {capacity / 2**30:.2f} GiB it may use: with one "
        "completion at a time, small pictures and short completions it still needs "
        f"{least / 2**30:.2f}; load weights "
        "in 4 bits (model.policy.quantization with model.policy.lora), or choose a smaller model "
        "or a larger card."
    )


def _share(
    trial: _Trial, keys: tuple[str, ...], least: int, capacity: int
) -> tuple[int, tuple[str, ...]] | None:
    """Return the largest share of some quantities, in parts of `_STEPS`, that fits, and them."""
    shares = range(_STEPS - 1, least - 1, -1)
    share = _largest(shares, lambda share: _with_less(trial, share, keys).needed, capacity)
    return None if share is None else (share, keys)


def _with_less(trial: _Trial, share: int, keys: tuple[str, ...]) -> _Trial:
    """Return a run with a share, in parts of `_STEPS`, of some quantities."""
    if PIXELS in keys:
        trial = replace(trial, pixels=_part_of(trial.planner.picture, share, _PIXELS))
    if COMPLETION in keys:
        completion = _part_of(trial.step.completion, share, _TOKENS)
        trial = replace(trial, step=replace(trial.step, completion=completion))
    return trial


def _part_of(value: int, share: int, grain: int) -> int:
    return min(value, max(value * share // _STEPS // grain * grain, grain))


def _largest(options: Sequence[T], need: Callable[[T], int], capacity: int) -> T | None:
    """Return the first of options, each of which needs less than the one before, that fits."""
    if not options or need(options[-1]) > capacity:
        return None
    short, fits = -1, len(options) - 1
    while fits - short > 1:
        middle = (short + fits) // 2
        if need(options[middle]) <= capacity:
            fits = middle
        else:
            short = middle
    return options[fits]


# What became of the settings.


def _changes(start: _Trial, trial: _Trial) -> Iterator[Change]:
    before, after = start.step, trial.step
    policy, chosen = start.planner.policy, trial.planner.policy
    for key, old, new in (
        (BATCH_TOKENS, before.batch_tokens, after.batch_tokens),
        (MICRO_BATCH, before.micro_batch, after.micro_batch),
        (MICRO_BATCH_TOKENS, before.micro_batch_tokens, after.micro_batch_tokens),
        (CHECKPOINTING, policy.gradient_checkpointing, chosen.gradient_checkpointing),
        (ON_HOST, policy.reference_on_host, chosen.reference_on_host),
    ):
        if new is not None and new != old:
            yield Change(key, old, new, results=False)
    if trial.pixels is not None:
        least = policy.min_pixels
        if least is not None and least > trial.pixels:  # The bounds must not cross.
            yield Change(MIN_PIXELS, least, trial.pixels, results=True)
        yield Change(PIXELS, policy.max_pixels, trial.pixels, results=True)
    if after.completion != before.completion:
        yield Change(COMPLETION, before.completion, after.completion, results=True)
