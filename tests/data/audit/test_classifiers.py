"""Guessers learn what is there, on other scenes than they are measured on, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from spatial_ssrl.data.audit import classifiers
from spatial_ssrl.data.audit.classifiers import Model, cross_validated, grouped_folds

MODELS = {"linear": classifiers.linear, "network": classifiers.network}


def test_folds_part_groups_evenly() -> None:
    groups = [f"scene{number}" for number in range(37) for _ in range(1 + number % 4)]
    fold = grouped_folds(groups, 5, seed=3)
    of_group = {
        group: {f for g, f in zip(groups, fold, strict=True) if g == group} for group in groups
    }
    assert all(len(found) == 1 for found in of_group.values())
    sizes = np.bincount(fold)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 4
    assert grouped_folds(groups, 5, seed=3).tolist() == fold.tolist()
    assert grouped_folds(groups, 5, seed=4).tolist() != fold.tolist()
    assert set(grouped_folds(["a", "b"], 5, seed=0)) == {0, 1}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_planted_class_is_learned_and_noise_is_not(model: Model) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.standard_normal((300, 1, 6)).astype(np.float32)
    groups = [str(number) for number in range(300)]
    noise = cross_validated(model, x, y, groups, outputs=3)
    x[:, 0, 2] += 4.0 * y
    planted = cross_validated(model, x, y, groups, outputs=3)
    assert noise is not None
    assert planted is not None
    assert planted.mean() > 0.85
    assert noise.mean() < 1 / 3 + 4 * np.sqrt(2 / 9 / 300)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_marked_alternative_is_learned(model: Model) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 240)
    x = rng.standard_normal((240, 4, 5)).astype(np.float32)
    x[np.arange(240), y, 3] += 4.0
    right = cross_validated(model, x, y, [str(number) for number in range(240)], outputs=1)
    assert right is not None
    assert right.mean() > 0.9


def test_a_scene_is_never_on_both_sides() -> None:
    # Every scene has an answer of its own: whoever has seen it knows, everyone else guesses.
    rng = np.random.default_rng(2)
    scene = rng.integers(0, 12, 240)
    y = (scene % 4).astype(np.int64)
    x = np.eye(12, dtype=np.float32)[scene][:, None]
    seen = cross_validated(
        classifiers.linear, x, y, [str(number) for number in range(240)], outputs=4
    )
    unseen = cross_validated(classifiers.linear, x, y, scene.astype(str).tolist(), outputs=4)
    assert seen is not None
    assert unseen is not None
    assert seen.mean() == 1
    assert unseen.mean() < 0.5


def test_gradient_of_the_linear_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20, 2, 3)).astype(np.float32)
    y = rng.integers(0, 4, 20)
    caught = []

    def minimize(objective: object, start: np.ndarray, **options: object) -> object:
        caught.append((objective, start))
        raise StopIteration

    monkeypatch.setattr("scipy.optimize.minimize", minimize)
    with pytest.raises(StopIteration):
        classifiers._fit_linear(x, y, 2, 0.1)
    ((objective, start),) = caught
    theta = rng.standard_normal(len(start)) * 0.3
    # Weights are in single precision, hence a coarse step.
    assert (
        check_grad(lambda t: objective(t)[0], lambda t: objective(t)[1], theta, epsilon=1e-3) < 5e-3
    )


def test_too_few_scenes_are_not_measured_and_constant_features_do_no_harm() -> None:
    x = np.ones((9, 1, 2), np.float32)
    y = np.array([0, 1, 1] * 3)
    assert cross_validated(classifiers.linear, x, y, ["a", "b", "c"] * 3, outputs=2) is None
    groups = [str(number) for number in range(9)]
    right = cross_validated(classifiers.linear, x, y, groups, outputs=2)
    assert right is not None
    assert right.sum() == 6, "the commoner answer, every time"


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    x = np.random.default_rng(0).standard_normal((40, 1, 3)).astype(np.float32)
    y = np.arange(40) % 2
    groups = [str(number) for number in range(40)]
    first = cross_validated(classifiers.network, x, y, groups, outputs=2)
    assert torch.equal(torch.rand(3), expected)
    second = cross_validated(classifiers.network, x, y, groups, outputs=2)
    assert first is not None
    assert second is not None
    assert first.tolist() == second.tolist()
