"""Learning rates where no optimiser is named, and Muon in the precision of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from spatial_ssrl.policies.base import Trained

# AdamW's, for RL. Pretrained: Spatial-SSRL (arXiv:2510.27606) trains every weight at 1e-6.
# Adapters take about ten times the rate of full training, in RL too (Schulman et al., "LoRA
# Without Regret", Thinking Machines Lab, 2025). Scratch: what AdamW itself takes.
RL_RATES: Mapping[Trained, float] = {"adapters": 1e-5, "pretrained": 1e-6, "scratch": 1e-3}

# AdamW's, for supervised learning. Pretrained: 1e-5, the rate of Spatial-SSRL's cold start, which
# takes it for adapters of rank 128 too. Adapters: ten times that, as above; QLoRA
# (arXiv:2305.14314) trains 7B and 13B models at 2e-4 and larger ones at 1e-4.
SFT_RATES: Mapping[Trained, float] = {"adapters": 1e-4, "pretrained": 1e-5, "scratch": 1e-3}


class MuonWithAdamW(Optimizer):
    """Momentum whose update of each matrix is orthogonalised; AdamW for everything else.

    `torch.optim.Muon` orthogonalises in bfloat16, which a CPU without bfloat16 units emulates
    about twenty times slower than float32, and it takes matrices only. This one works in the
    weights' precision, treats convolutions as matrices (out, in * height * width), stacks
    matrices of one shape into one product, and gives vectors, scalars and parameter groups
    whose `kind` is "embedding" to AdamW.

    Args:
        params: Parameters to train.
        lr: Learning rate of matrices.
        adam_lr: Learning rate of everything else; None for `lr`. Follows the schedule of `lr`.
        momentum: Decay of the momentum, in [0, 1).
        betas: Decays of AdamW's moments.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        steps: Newton-Schulz iterations.

    References:
        K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.5e-3,
        adam_lr: float | None = None,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        steps: int = 4,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        defaults = {
            "lr": lr,
            "adam_ratio": 1.0 if adam_lr is None else adam_lr / lr,
            "momentum": momentum,
            "betas": betas,
            "weight_decay": weight_decay,
            "steps": steps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    continue
                if group["weight_decay"]:
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                if param.ndim >= 2 and group.get("kind") != "embedding":
                    shape = (len(grad), grad[0].numel())
                    shapes.setdefault(shape, []).append((param, grad))
                else:
                    self._adam(param, grad, group)
            for matrices in shapes.values():
                self._orthogonal(matrices, group)
        return loss

    def _orthogonal(self, matrices: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Update matrices of one shape, each given with its gradient."""
        momentum = group["momentum"]
        directions = []
        for param, grad in matrices:
            state = self.state[param]
            if not state:
                state["momentum"] = torch.zeros_like(param)
            state["momentum"].lerp_(grad, 1 - momentum)
            directions.append(grad.lerp(state["momentum"], momentum).flatten(1))
        updates = orthogonalise(torch.stack(directions), group["steps"])
        rows, columns = updates.shape[1:]
        scale = group["lr"] * max(1.0, rows / columns) ** 0.5
        for (param, _), update in zip(matrices, updates, strict=True):
            param.sub_(update.view_as(param), alpha=scale)

    def _adam(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(param)
            state["square"] = torch.zeros_like(param)
        state["step"] += 1
        fast, slow = group["betas"]
        state["mean"].lerp_(grad, 1 - fast)
        state["square"].lerp_(grad.square(), 1 - slow)
        mean = state["mean"] / (1 - fast ** state["step"])
        square = state["square"] / (1 - slow ** state["step"])
        param.sub_(mean / (square.sqrt() + 1e-8), alpha=group["lr"] * group["adam_ratio"])


def orthogonalise(matrices: Tensor, steps: int = 4) -> Tensor:
    """Push the singular values of matrices towards 1 by Newton-Schulz iteration.

    Args:
        matrices: Shape (k, m, n), any scale.
        steps: Iterations; after 4 those singular values that were above 1/250 of the matrix's
            norm lie in [0.5, 1.3], and smaller ones have grown about 140-fold.

    Returns:
        Shape (k, m, n), with the singular vectors of `matrices`.

    References:
        Quintic coefficients from K. Jordan et al., 2024 (see `MuonWithAdamW`).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.transpose(1, 2) if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x
