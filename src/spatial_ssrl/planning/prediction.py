"""Peak memory of sampling and of an update, from rehearsals of models with few layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.planning.ledger import Peak
from spatial_ssrl.planning.parts import PICTURES
from spatial_ssrl.planning.rehearsal import SAMPLING, UPDATE, Rehearsal, Step
from spatial_ssrl.planning.source import Depth, GhostSource, depth_of, with_depth
from spatial_ssrl.training import PolicyModule

Moments: TypeAlias = Mapping[str, Peak]
"""The peak of each moment of a stage, by the moment's name."""

_Growth: TypeAlias = Mapping[str, Mapping[str, int]]

_TEXT, _VISION = "text", "vision"

# Layers of the models that are rehearsed. Three make a first, a last and one between; Qwen3-VL
# gives what three layers of its vision tower find to the first three of its language model.
_FEW = 3

# A model with hardly more layers is rehearsed as it is.
_WHOLE = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peak memory of a training step.

    Args:
        sampling: While completions are sampled; None where another process samples.
        update: While they are scored and learned from, the optimiser's step included.
    """

    sampling: Peak | None
    update: Peak

    @property
    def peak(self) -> Peak:
        """The higher of the two."""
        found = [self.update] if self.sampling is None else [self.sampling, self.update]
        return max(found, key=lambda peak: peak.total)


class Predictor:
    """Predicts the memory of training steps of one run.

    Layers of a tower are alike, so memory at any moment of a step grows by the same number of
    bytes with each further layer. Models with few layers are rehearsed, and the rest is a
    straight line.

    Args:
        module: The run, its policy not loaded.
        source: The model's configuration and processor; None for a policy that is built from
            its own settings, and is rehearsed whole.
        cuda: Whether to predict for CUDA: its allocator rounds to 512 bytes, and optimisers
            update all tensors at once.
    """

    def __init__(
        self, module: PolicyModule, source: GhostSource | None, cuda: bool = False
    ) -> None:
        granularity = 512 if cuda else 1
        known: dict[Any, Any] = {}  # Shared: most operations are the same in all of them.
        self._deeper: dict[str, tuple[int, Rehearsal]] = {}
        self._few: dict[Any, tuple[PromptBatch, Moments]] = {}
        self._sampled: dict[Any, tuple[PromptBatch, Peak]] = {}
        self._updated: dict[Any, tuple[PromptBatch, Peak]] = {}
        self._of_vision: dict[Any, tuple[PromptBatch, _Growth]] = {}
        if source is None or source.config is None:
            self._base = Rehearsal(module, source, granularity, cuda, known)
            return
        whole = depth_of(source.config)
        base = Depth(
            text=whole.text if whole.text <= _WHOLE else _FEW,
            vision=whole.vision if whole.vision <= _WHOLE else _FEW,
        )
        self._base = _rehearsal(module, source, base, granularity, cuda, known)
        for tower, layers, deeper in (
            (_TEXT, whole.text - base.text, Depth(base.text + 1, base.vision)),
            (_VISION, whole.vision - base.vision, Depth(base.text, base.vision + 1)),
        ):
            if layers:
                more = _rehearsal(module, source, deeper, granularity, cuda, known)
                self._deeper[tower] = layers, more

    @property
    def base(self) -> Rehearsal:
        """The run with few layers."""
        return self._base

    def predict(self, prompt: PromptBatch, step: Step) -> Prediction:
        """Return the peaks of a training step.

        Args:
            prompt: The largest question, alone.
            step: How many of them, and what becomes of them.
        """
        return Prediction(self.sampling(prompt, step), self.update(prompt, step))

    def sampling(self, prompt: PromptBatch, step: Step) -> Peak | None:
        """Return the peak of sampling, the same whatever leads to the same parts.

        Arguments as in `predict`; None where another process samples.
        """
        if not self._base.samples:
            return None
        part = self._base.sampled_together(prompt, step)
        key = id(prompt), _of_any_limits(step), part
        if key not in self._sampled:
            peak = self._highest(
                lambda rehearsal: self._moments_of_sampling(rehearsal, prompt, step, part),
                prompt,
                (SAMPLING, step.questions, part[0]),
            )
            self._sampled[key] = prompt, peak  # The prompt is kept, so that its id stays its own.
        return self._sampled[key][1]

    def _moments_of_sampling(
        self, rehearsal: Rehearsal, prompt: PromptBatch, step: Step, part: tuple[int, int]
    ) -> Moments:
        """Return the moments of sampling, in which every question adds the same.

        Rehearsing all the questions of a batch would be slow, for windows of vision towers are
        read one by one.

        Args:
            rehearsal: Rehearses one question, and two.
            prompt: The question.
            step: How large the training step is.
            part: Questions sampled at once, and completions of each.
        """
        together, completions = part
        few = replace(_of_any_limits(step), group_size=completions)
        one = self._rehearsed(rehearsal, prompt, replace(few, questions=1))
        if step.questions == 1:
            return one
        two = self._rehearsed(rehearsal, prompt, replace(few, questions=2))
        others = step.questions - together  # Their pictures wait.
        found, more = {}, _growth(one, two)
        for name, peak in one.items():
            extended = _extended(name, peak, [(together - 1, more)])
            waiting = two.get(name, peak).parts.get(PICTURES, 0) - peak.parts.get(PICTURES, 0)
            parts = dict(extended.parts)
            parts[PICTURES] = parts.get(PICTURES, 0) + others * max(waiting, 0)
            found[name] = Peak(sum(parts.values()), parts)
        return found

    def _rehearsed(self, rehearsal: Rehearsal, prompt: PromptBatch, step: Step) -> Moments:
        """Return the moments of sampling all of a step at once, which is rehearsed once."""
        key = id(rehearsal), id(prompt), step
        if key not in self._few:
            self._few[key] = prompt, rehearsal.sample(prompt, step)
        return self._few[key][1]

    def update(self, prompt: PromptBatch, step: Step) -> Peak:
        """Return the peak of an update, the same whatever leads to the same passes.

        Arguments as in `predict`.
        """
        passes = self._base.passes(prompt, step)
        key = id(prompt), _of_any_limits(step), passes
        if key not in self._updated:
            questions = tuple(count for count, _ in passes[:1])
            peak = self._highest(
                lambda rehearsal: rehearsal.update(prompt, step),
                prompt,
                (UPDATE, step.questions, questions, len(passes) > 1),
            )
            self._updated[key] = prompt, peak
        return self._updated[key][1]

    def _highest(
        self, rehearse: Callable[[Rehearsal], Moments], prompt: PromptBatch, seen: tuple[Any, ...]
    ) -> Peak:
        """Return the peak of a stage in the whole model, given the moments in others.

        Args:
            rehearse: Rehearses the stage.
            prompt: The question.
            seen: The stage, and what it depends on how much the vision tower reads at once. As
                completions are none of the tower's business, its layers are rehearsed once.
        """
        base = rehearse(self._base)
        growths = []
        for tower, (layers, deeper) in self._deeper.items():
            key = id(prompt), *seen
            if tower == _VISION and key in self._of_vision:
                growth = self._of_vision[key][1]
            else:
                growth = _growth(base, rehearse(deeper))
            if tower == _VISION:
                self._of_vision[key] = prompt, growth
            growths.append((layers, growth))
        return max((_extended(name, peak, growths) for name, peak in base.items()), key=_total)


def _of_any_limits(step: Step) -> Step:
    """Return a step without what only decides how it is divided."""
    return replace(step, micro_batch=1, micro_batch_tokens=None, batch_tokens=None)


def _total(peak: Peak) -> int:
    return peak.total


def _rehearsal(module: PolicyModule, source: GhostSource, depth: Depth, *rest: Any) -> Rehearsal:
    assert source.config is not None
    return Rehearsal(module, replace(source, config=with_depth(source.config, depth)), *rest)


def _growth(base: Moments, more: Moments) -> _Growth:
    """Return by how much each part of each moment is larger in a model that is a bit larger."""
    return {
        name: {
            part: more[name].parts.get(part, 0) - peak.parts.get(part, 0)
            for part in {*peak.parts, *more[name].parts}
        }
        for name, peak in base.items()
        if name in more
    }


def _extended(name: str, base: Peak, growths: list[tuple[int, _Growth]]) -> Peak:
    """Return the peak of a moment in a model with more layers than the base has."""
    parts = dict(base.parts)
    for layers, growth in growths:
        for part, size in growth.get(name, {}).items():
            parts[part] = parts.get(part, 0) + layers * size
    parts = {part: max(size, 0) for part, size in parts.items()}
    return Peak(sum(parts.values()), parts)
