"""Muon against singular values and AdamW against PyTorch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from spatial_ssrl.training import MuonWithAdamW, RLModule
from spatial_ssrl.training.optimizers import orthogonalise
from support.tiny_training import tiny_rl


def newton_schulz(values: Tensor, steps: int) -> Tensor:
    """The iteration on singular values alone, in double precision."""
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


def parameters(seed: int = 0) -> list[nn.Parameter]:
    """Two matrices of one shape, one of another, a convolution, a vector and a scalar."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(6, 4), (6, 4), (3, 8), (5, 2, 3, 3), (7,), ()]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def steps_of(
    optimizer: torch.optim.Optimizer,
    params: list[nn.Parameter],
    steps: range,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Take steps whose gradients depend on the step and the weights."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            noise = torch.randn(param.shape, generator=generator)
            param.grad = noise + 0.1 * param.detach()
        optimizer.step()
        after()


# Orthogonalisation.


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_singular_vectors_stay_and_values_follow_the_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    for steps in (1, 4):
        wanted = left @ torch.diag(newton_schulz(values / values.norm(), steps)) @ right
        found = orthogonalise(matrix[None].clone(), steps)[0]
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("steps", [4, 5])
def test_singular_values_of_a_well_conditioned_matrix_come_close_to_one(steps: int) -> None:
    generator = torch.Generator().manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(48, 32, generator=generator))
    values = torch.linspace(1, 40, 32)
    updated = orthogonalise((left * values @ right.T)[None], steps)[0]
    found = torch.linalg.svdvals(updated)
    assert 0.5 < float(found.min()) <= float(found.max()) < 1.3


def test_scale_does_not_matter_and_zero_stays_zero() -> None:
    matrices = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(orthogonalise(matrices * 1e4), orthogonalise(matrices))
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3))


def test_stacked_matrices_are_treated_one_by_one() -> None:
    matrices = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(4))
    matrices[1] *= 1000
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalise(matrices), alone)


# The optimiser.


def naive_muon(params: list[Tensor], lr: float, momentum: float, steps: range) -> list[Tensor]:
    """Muon by hand, one matrix at a time, through the singular value decomposition."""
    params = [param.clone().double() for param in params]
    memory = [torch.zeros_like(param) for param in params]
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for index, param in enumerate(params):
            noise = torch.randn(param.shape, generator=generator).double()
            gradient = noise + 0.1 * param
            memory[index] = momentum * memory[index] + (1 - momentum) * gradient
            nesterov = momentum * memory[index] + (1 - momentum) * gradient
            rows = nesterov.reshape(len(nesterov), -1)
            left, values, right = torch.linalg.svd(rows, full_matrices=False)
            update = left @ torch.diag(newton_schulz(values / values.norm(), 4)) @ right
            stretch = max(1.0, rows.shape[0] / rows.shape[1]) ** 0.5
            params[index] = param - lr * stretch * update.view_as(param)
    return params


def test_matrices_and_convolutions_take_the_steps_worked_out_by_svd() -> None:
    params = parameters()[:4]
    wanted = naive_muon([param.detach() for param in params], 0.02, 0.9, range(5))
    steps_of(MuonWithAdamW(params, lr=0.02, momentum=0.9), params, range(5))
    for param, expected in zip(params, wanted, strict=True):
        torch.testing.assert_close(param.detach(), expected.float(), atol=1e-4, rtol=1e-4)


def test_equal_shapes_do_not_mix() -> None:
    together, apart = parameters(), parameters()
    steps_of(MuonWithAdamW(together), together, range(3))
    optimizers = [MuonWithAdamW([param]) for param in apart]

    class All:
        def step(self) -> None:
            for optimizer in optimizers:
                optimizer.step()

    steps_of(All(), apart, range(3))  # type: ignore[arg-type]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["vectors", "embedding"])
def test_vectors_and_embeddings_take_the_steps_of_adamw(kind: str) -> None:
    ours, theirs = (parameters()[4:] if kind == "vectors" else parameters()[:3] for _ in range(2))
    group = {"params": ours, "kind": "embedding" if kind == "embedding" else "weight"}
    optimizer = MuonWithAdamW([group], lr=0.01, adam_lr=0.003, betas=(0.8, 0.95))
    adam = torch.optim.AdamW(theirs, lr=0.003, betas=(0.8, 0.95), weight_decay=0)
    steps_of(optimizer, ours, range(20))
    steps_of(adam, theirs, range(20))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_adam_rate_is_that_of_matrices_unless_told() -> None:
    ours, theirs = parameters()[4:], parameters()[4:]
    steps_of(MuonWithAdamW(ours, lr=0.01), ours, range(3))
    adam = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.99), weight_decay=0)
    steps_of(adam, theirs, range(3))
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-6)


def test_weights_decay_by_the_rate() -> None:
    params = parameters()
    start = [param.detach().clone() for param in params]
    optimizer = MuonWithAdamW(params, lr=0.1, weight_decay=0.5)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for param, before in zip(params, start, strict=True):
        torch.testing.assert_close(param.detach(), before * (1 - 0.1 * 0.5))


def test_parameters_without_gradient_stay() -> None:
    params = parameters()
    start = params[0].detach().clone()
    optimizer = MuonWithAdamW(params, weight_decay=0.5)
    params[1].grad = torch.ones_like(params[1])
    optimizer.step()
    assert torch.equal(params[0], start)
    assert len(optimizer.state) == 1


def test_schedule_drives_both_rates() -> None:
    # With the rate at zero in every other step, those steps must do nothing at all.
    params = parameters()
    optimizer = MuonWithAdamW(params, lr=0.01, adam_lr=0.05)
    schedule = LambdaLR(optimizer, lambda step: float(step % 2))
    seen = [[param.detach().clone() for param in params]]

    def note() -> None:
        schedule.step()
        seen.append([param.detach().clone() for param in params])

    steps_of(optimizer, params, range(4), after=note)
    for before, after, moves in zip(seen, seen[1:], (False, True, False, True), strict=False):
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one, other) is not moves


@pytest.mark.parametrize("factor", [0.25])
def test_step_length_is_in_proportion_to_the_schedule(factor: float) -> None:
    lengths = []
    for scale in (1.0, factor):
        params = parameters()
        start = [param.detach().clone() for param in params]
        optimizer = MuonWithAdamW(params, lr=0.01, adam_lr=0.05)
        LambdaLR(optimizer, lambda step, scale=scale: scale)
        steps_of(optimizer, params, range(1))
        moved = [p.detach() - s for p, s in zip(params, start, strict=True)]
        lengths.append([float(step.norm()) for step in moved])
    for whole, part in zip(*lengths, strict=True):
        assert part == pytest.approx(factor * whole, rel=1e-3)


def test_resumed_optimiser_goes_on_identically() -> None:
    def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": params[1:], "kind": "weight"},
            {"params": params[:1], "kind": "embedding"},
        ]

    params = parameters()
    optimizer = MuonWithAdamW(groups(params), lr=0.02, adam_lr=0.01)
    steps_of(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    resumed = [nn.Parameter(param.detach().clone()) for param in params]
    steps_of(optimizer, params, range(3, 6))
    # Its own settings are others: those of the checkpoint must win, as for any optimiser.
    again = MuonWithAdamW(groups(resumed), lr=1.0, momentum=0.1)
    again.load_state_dict(state)
    steps_of(again, resumed, range(3, 6))
    for one, other in zip(resumed, params, strict=True):
        assert torch.equal(one, other)


def test_modules_mark_their_embeddings_for_it() -> None:
    module: RLModule = tiny_rl()
    module.policy.load()
    groups = module.parameter_groups()
    marked = [p for group in groups if group["kind"] == "embedding" for p in group["params"]]
    table = module.policy.network.get_input_embeddings().weight  # type: ignore[attr-defined]
    assert [id(p) for p in marked] == [id(table)]
    optimizer = MuonWithAdamW(groups)
    table.grad = torch.ones_like(table)
    optimizer.step()
    assert set(optimizer.state[table]) == {"step", "mean", "square"}


def test_closure_is_evaluated_with_gradients() -> None:
    param = nn.Parameter(torch.ones(3, 2))
    optimizer = MuonWithAdamW([param])

    def closure() -> float:
        loss = param.square().sum()
        loss.backward()
        return float(loss)

    assert optimizer.step(closure) == 6.0
    assert not torch.equal(param, torch.ones(3, 2))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_out_of_range(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum must be in \[0, 1\), got {momentum}"):
        MuonWithAdamW(parameters(), momentum=momentum)
