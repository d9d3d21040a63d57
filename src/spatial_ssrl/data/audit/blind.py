"""How far a question can be answered without looking: a shortcut shows as more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from spatial_ssrl.data.audit.classifiers import Model, cross_validated, linear, network
from spatial_ssrl.data.audit.facts import Facts
from spatial_ssrl.data.audit.words import option_features, presence

Finding = Literal["fair", "shortcut", "hint"]
_Table = npt.NDArray[np.float32]

_MODELS: dict[str, Model] = {"linear": linear, "network": network}
_FEWEST = 5  # questions an answer, below which a classifier of whole answers is not fitted


@dataclass(frozen=True, slots=True)
class Baseline:
    """What one blind guesser comes to on one task.

    Args:
        sees: What it is shown: "prompt", "options", "candidates", "candidates and their
            relations", "candidates, <model>" or "markers".
        model: How it guesses: "linear", "network" or "lower is nearer".
        part: What it guesses: "answer", or "part 2" for what stands behind the first comma.
        accuracy: Share guessed right on scenes it was not fitted to, in [0, 1].
        ci95: Wilson's interval of it.
        chance: What a guesser that knows nothing comes to.
        n: Questions.
        finding: "shortcut" when the interval lies above chance by more than the margin;
            "hint" for guessers that may be right to some extent, such as those of positions.
    """

    sees: str
    model: str
    part: str
    accuracy: float
    ci95: tuple[float, float]
    chance: float
    n: int
    finding: Finding


def baselines(facts: Sequence[Facts], folds: int, seed: int, margin: float) -> list[Baseline]:
    """Return what each blind guesser comes to on questions of one task and one answer space.

    Args:
        facts: The questions.
        folds: Parts the scenes are split into; none is in what a guesser is fitted to and
            measured on.
        seed: Names the split and the fits.
        margin: Part of one by which the interval must lie above chance to be a shortcut.

    Returns:
        The baselines; none but those of positions where there are under four scenes.
    """
    chance = float(np.mean([one.chance for one in facts]))
    scenes = [one.scene for one in facts]
    found = []
    for trial in (*_from_prompt(facts, chance), *_from_alternatives(facts, chance)):
        labels = np.array(trial.labels, dtype=np.int64)
        model = _MODELS[trial.model]
        right = cross_validated(model, trial.x, labels, scenes, trial.outputs, folds, seed)
        if right is not None:
            found.append(
                _measured(trial.sees, trial.model, trial.part, right, trial.chance, margin)
            )
    if all(one.lower_is_nearer is not None for one in facts):
        right = np.array([one.lower_is_nearer == one.answer for one in facts])
        hint = _measured("markers", "lower is nearer", "answer", right, chance, margin)
        found.append(replace(hint, finding="hint"))
    return found


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a model is fitted to; features (N, A, D) and the index of the right score."""

    sees: str
    model: str
    part: str
    x: _Table
    labels: list[int]
    outputs: int
    chance: float


def _measured(
    sees: str, model: str, part: str, right: npt.NDArray[np.bool_], chance: float, margin: float
) -> Baseline:
    from scipy.stats import binomtest

    hits, n = int(right.sum()), len(right)
    low, high = map(float, binomtest(hits, n).proportion_ci(method="wilson"))
    finding: Finding = "shortcut" if low > chance + margin else "fair"
    return Baseline(sees, model, part, hits / n, (low, high), chance, n, finding)


def _from_prompt(facts: Sequence[Facts], chance: float) -> Iterator[_Trial]:
    words = presence([one.words for one in facts])[:, None]
    for part, labels, classes, level in _targets(facts, chance):
        yield _Trial("prompt", "linear", part, words, labels, classes, level)
        if part == "answer" and words.shape[-1]:
            yield _Trial("prompt", "network", part, words, labels, classes, level)


def _from_alternatives(facts: Sequence[Facts], chance: float) -> Iterator[_Trial]:
    if any(one.answer not in one.space for one in facts):
        return
    letters = [one.space.index(one.answer) for one in facts]
    contexts = [one.context for one in facts if one.context is not None]
    if len(contexts) == len(facts):
        x = option_features(contexts, [one.options for one in facts])
        yield _Trial("options", "linear", "answer", x, letters, 1, chance)
    for name in facts[0].candidates:
        if all(name in one.candidates for one in facts):
            x = np.stack([one.candidates[name] for one in facts])
            for model in _MODELS:
                yield _Trial(name, model, "answer", x, letters, 1, chance)


def _targets(facts: Sequence[Facts], chance: float) -> Iterator[tuple[str, list[int], int, float]]:
    """Yield what there is to guess: its name, the label of each question, classes, chance.

    Parts of an answer are guessed on their own: with many possible answers few questions share
    one, and a shortcut to one of its parts would drown.
    """
    answers = [one.answer for one in facts]
    for name, values in [("answer", answers), *_parts(answers)]:
        known = sorted(set(values))
        possible = 1 / chance if name == "answer" and chance else len(known)
        if len(values) >= _FEWEST * possible and len(values) >= _FEWEST * len(known):
            labels = [known.index(value) for value in values]
            yield name, labels, len(known), chance if name == "answer" else 1 / len(known)


def _parts(answers: Sequence[str]) -> list[tuple[str, list[str]]]:
    split = [answer.split(",") for answer in answers]
    count = len(split[0])
    if count < 2 or any(len(parts) != count for parts in split):
        return []
    return [(f"part {place + 1}", [parts[place] for parts in split]) for place in range(count)]
