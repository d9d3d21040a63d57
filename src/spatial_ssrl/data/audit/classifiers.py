"""Classifiers that guess answers from features, measured on scenes they have not seen.

Features have the shape (N, A, D): N questions, A alternatives, D features of each. A question
of which only one thing is known has one alternative and C outputs; one whose candidates are
described one by one has A alternatives and one output each. Either way there are A x outputs
scores a question, and the label is the index of the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.seeding import rng_for, seed_for

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Scores = Callable[[Features], npt.NDArray[np.float64]]

_PENALTIES = (0.003, 0.03, 0.3)
_ITERATIONS = 40
_HIDDEN = 48
_EPOCHS = 120
_PATIENCE = 15  # epochs without progress
_BATCH = 256


class Model(Protocol):
    """A way to fit scores to labels."""

    def __call__(
        self, x: Features, y: Labels, outputs: int, inner: npt.NDArray[np.bool_], seed: int
    ) -> Scores:
        """Fit to standardised features.

        Args:
            x: Shape (N, A, D).
            y: Right score of each question, in [0, A * outputs), shape (N,).
            outputs: Scores of an alternative.
            inner: Questions to fit to while settings are chosen, shape (N,); the others
                choose them. No scene is on both sides.
            seed: Names every random draw.

        Returns:
            A function from features (M, A, D) to scores (M, A * outputs).
        """


def grouped_folds(groups: Sequence[str], folds: int, seed: int) -> Labels:
    """Deal items to folds of about equal size so that no group is in two of them.

    Args:
        groups: Group of each item, such as the scene a question was made from.
        folds: How many folds; fewer when there are fewer groups.
        seed: Names the deal.

    Returns:
        Fold of each item, shape (N,).
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(member)
    shuffled = rng_for(seed, "folds").permutation(len(names))
    filled = np.zeros(max(1, min(folds, len(names))), dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return np.asarray(fold_of[member])


def cross_validated(
    model: Model,
    x: Features,
    y: Labels,
    groups: Sequence[str],
    outputs: int,
    folds: int = 5,
    seed: int = 0,
) -> npt.NDArray[np.bool_] | None:
    """Return whether each question is guessed right by a model fitted to other scenes.

    Args:
        model: How to fit.
        x: Shape (N, A, D), any scale.
        y: Right score of each question, shape (N,).
        groups: Scene of each question.
        outputs: Scores of an alternative.
        folds: Parts the scenes are split into, at least 2.
        seed: Names the split and the fit.

    Returns:
        Shape (N,); None when there are under four scenes, too few to fit and to measure.
    """
    if len(set(groups)) < 4:
        return None
    fold = grouped_folds(groups, folds, seed)
    right = np.zeros(len(y), dtype=bool)
    for number in range(int(fold.max()) + 1):
        train = fold != number
        parts = grouped_folds(np.asarray(groups)[train].tolist(), 4, seed + 1 + number)
        centre, spread = _moments(x[train])
        varying = spread > 1e-6
        centre, spread = centre[varying], spread[varying]
        fitted = ((x[train][:, :, varying] - centre) / spread).astype(np.float32)
        asked = ((x[~train][:, :, varying] - centre) / spread).astype(np.float32)
        scores = model(fitted, y[train], outputs, parts != 0, seed_for(seed, "fit", number))
        right[~train] = scores(asked).argmax(axis=1) == y[~train]
    return right


def linear(x: Features, y: Labels, outputs: int, inner: npt.NDArray[np.bool_], seed: int) -> Scores:
    """Fit multinomial or, with several alternatives, conditional logistic regression."""
    losses = []
    for penalty in _PENALTIES:
        scores = _fit_linear(x[inner], y[inner], outputs, penalty)
        losses.append(_log_loss(scores(x[~inner]), y[~inner]))
    return _fit_linear(x, y, outputs, _PENALTIES[int(np.argmin(losses))])


def network(
    x: Features, y: Labels, outputs: int, inner: npt.NDArray[np.bool_], seed: int
) -> Scores:
    """Fit a network of one hidden layer, stopped when it gets worse on scenes set aside.

    With several alternatives each is described by its features and by how they differ from
    the mean of the others, and all go through the same network.
    """
    import torch
    from torch import nn

    def tensor(features: Features) -> torch.Tensor:
        return torch.from_numpy(_with_contrast(features))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given, wanted = tensor(x), torch.from_numpy(y)
        net = nn.Sequential(
            nn.Linear(given.shape[-1], _HIDDEN),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(_HIDDEN, outputs),
        )
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.1)
        kept, best, since = {k: v.clone() for k, v in net.state_dict().items()}, np.inf, 0
        rows = torch.from_numpy(np.flatnonzero(inner))
        aside = torch.from_numpy(np.flatnonzero(~inner))
        for _ in range(_EPOCHS):
            net.train()
            for batch in rows[torch.randperm(len(rows))].split(_BATCH):
                loss = nn.functional.cross_entropy(net(given[batch]).flatten(1), wanted[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            net.eval()
            with torch.no_grad():
                scores = net(given[aside]).flatten(1)
                now = float(nn.functional.cross_entropy(scores, wanted[aside]))
            since += 1
            if now < best:
                kept, best, since = {k: v.clone() for k, v in net.state_dict().items()}, now, 0
            if since >= _PATIENCE:
                break
        net.load_state_dict(kept)
        net.eval()

    def score(features: Features) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            return np.asarray(net(tensor(features)).flatten(1).numpy(), dtype=np.float64)

    return score


def _fit_linear(x: Features, y: Labels, outputs: int, penalty: float) -> Scores:
    """Minimise the mean log-loss plus `penalty` / 2 times the squared weights."""
    from scipy.optimize import minimize

    count, alternatives, depth = x.shape
    flat = x.reshape(count * alternatives, depth)
    rows = np.arange(count)

    def unpack(theta: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], Features]:
        weights = theta[: depth * outputs].reshape(depth, outputs)
        return weights.astype(np.float32), theta[depth * outputs :].astype(np.float32)

    def objective(theta: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, bias = unpack(theta)
        scores = (flat @ weights).reshape(count, -1) + bias
        logs = _log_softmax(scores)
        residual = np.exp(logs)
        residual[rows, y] -= 1
        slope = flat.T @ (residual.reshape(count * alternatives, outputs).astype(np.float32))
        gradient = np.concatenate([slope.ravel() / count, residual.mean(axis=0)])
        gradient[: depth * outputs] += penalty * theta[: depth * outputs]
        shrink = penalty / 2 * float((theta[: depth * outputs] ** 2).sum())
        return shrink - float(logs[rows, y].mean()), gradient

    start = np.zeros(depth * outputs + alternatives * outputs)
    options = {"maxiter": _ITERATIONS}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    weights, bias = unpack(found.x)

    def score(features: Features) -> npt.NDArray[np.float64]:
        return np.asarray((features @ weights).reshape(len(features), -1) + bias, dtype=np.float64)

    return score


def _with_contrast(x: Features) -> Features:
    count = x.shape[1]
    if count == 1:
        return np.ascontiguousarray(x)
    others = (x.sum(axis=1, keepdims=True) - x) / (count - 1)
    return np.concatenate([x, x - others], axis=2)


def _moments(x: Features) -> tuple[Features, Features]:
    flat = x.reshape(x.shape[0] * x.shape[1], x.shape[2]).astype(np.float64)
    return flat.mean(axis=0).astype(np.float32), flat.std(axis=0).astype(np.float32)


def _log_softmax(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    shifted = np.asarray(scores, dtype=np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _log_loss(scores: npt.NDArray[np.float64], y: Labels) -> float:
    return -float(_log_softmax(scores)[np.arange(len(y)), y].mean())
