"""Code run as on a CUDA device without one: on tensors with a shape, a type and a device only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spatial_ssrl.policies.base import ReadState
from spatial_ssrl.policies.group_cache import GroupCache, GroupLayer
from spatial_ssrl.policies.members import Members


@dataclass
class Call:
    """One operation: its name, such as "mm.dtype", and the tensors it was given and made."""

    name: str
    given: list[Tensor]
    made: list[Tensor]


@dataclass
class Calls(TorchDispatchMode):
    """Notes operations, whose tensors stay alive."""

    noted: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        self.noted.append(Call(name, _tensors((args, kwargs)), _tensors(out)))
        return out

    def names(self) -> list[str]:
        """Return the names of all operations."""
        return [call.name for call in self.noted]

    def off_cuda(self) -> list[str]:
        """Return the operations that read or made a tensor of the host."""
        return [
            call.name
            for call in self.noted
            if any(tensor.device.type != "cuda" for tensor in (*call.given, *call.made))
        ]


@contextmanager
def fake_cuda() -> Iterator[Calls]:
    """Let tensors be made on a CUDA device that is not there, and note what is done with them.

    What needs their numbers on the host raises an error of PyTorch's.
    """
    with FakeTensorMode(allow_non_fake_inputs=False), torch.no_grad(), Calls() as calls:
        yield calls


def on_cuda(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor like another one on the device; inside `fake_cuda` only."""
    dtype = dtype if tensor.is_floating_point() else None
    # Shape and strides are read, not the numbers, which live outside.
    return torch.empty_strided(
        tuple(tensor.shape), tensor.stride(), dtype=dtype or tensor.dtype, device="cuda"
    )


def move_to_cuda(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Put fake tensors into the place of all parameters and buffers of a module, for good."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                moved = nn.Parameter(on_cuda(tensor, dtype), requires_grad=False)
                part._parameters[name] = moved
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = on_cuda(tensor, dtype)


def state_on_cuda(state: ReadState, dtype: torch.dtype | None = None) -> ReadState:
    """Return a state that keeps prompts once, on the device."""
    cache = state.cache
    assert isinstance(cache, GroupCache)
    slot = cache.members.slot
    members = Members(
        on_cuda(cache.members.prompt),
        cache.members.prompts,
        None if slot is None else on_cuda(slot),
        cache.members.width,
        cache.members.full,
    )
    layers = []
    for layer in cache.layers:
        assert isinstance(layer, GroupLayer)
        keys, values, *said = [
            on_cuda(part, dtype) for part in (layer.prompt_keys, layer.prompt_values, *layer.said)
        ]
        layers.append(GroupLayer(keys, values, members, *said))
        layers[-1].length = layer.length
    return ReadState(
        GroupCache(layers, members),
        on_cuda(state.mask),
        on_cuda(state.position),
        on_cuda(state.hidden, dtype),
    )


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
