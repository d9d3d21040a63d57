"""What needs no second process; the rest is in test_several_processes.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from spatial_ssrl.core.errors import SpatialSSRLError
from spatial_ssrl.training import distributed


def test_alone_nothing_changes() -> None:
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    weights[0].grad = torch.ones(2)
    distributed.sum_gradients(weights)
    means = [torch.full((2,), 3.0)]
    distributed.average(means)
    assert weights[0].grad.tolist() == [1.0, 1.0]
    assert weights[1].grad is None
    assert means[0].tolist() == [3.0, 3.0]
    assert distributed.gather("mine") == ["mine"]
    assert distributed.total(2.5, "testing") == 2.5
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_a_process_says_what_it_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        def exchange(*_: Any) -> None:
            raise error

        monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
        monkeypatch.setattr(torch.distributed, "all_reduce", exchange)

    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    monkeypatch.setattr(distributed, "rank", lambda: 3)
    fail(RuntimeError("Timed out waiting 1800000ms for recv operation\nat frame 1"))
    lost = r"Process 3 of 4 lost the others while {}; .* \(Timed out waiting 1800000ms .*\)$"
    with pytest.raises(SpatialSSRLError, match=lost.format("counting tokens")):
        distributed.gather(1, "counting tokens")
    with pytest.raises(SpatialSSRLError, match=lost.format("adding up gradients")):
        distributed.sum_gradients([nn.Parameter(torch.zeros(2))])
    # Too little memory is this process's own trouble.
    fail(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        distributed.gather(1)
