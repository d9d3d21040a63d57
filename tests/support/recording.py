"""What a CUDA graph does, on a CPU: the same operations on the same memory, again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spatial_ssrl.policies.fixed_step import FixedStep

# What makes the host wait for the device, as it does for shapes that depend on numbers.
_WAITING = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}

# CUDA refuses to record that, and what brings numbers from the host.
_REFUSED = {*_WAITING, "lift_fresh"}


def _indexes_by_masks(name: str, args: Any) -> bool:
    return name in ("index", "index_put_", "index_put") and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )


class Waits(TorchDispatchMode):
    """Notes operations for which the host would wait for a CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING or _indexes_by_masks(name, args):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class _Recording(TorchDispatchMode):
    """Notes operations with the tensors they read and those they made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _REFUSED or _indexes_by_masks(name, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Do everything again; what was made is overwritten where it lies."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


def recorded(step: FixedStep) -> Callable[[], None]:
    """Return what replays a step, which is not taken yet.

    Raises:
        RuntimeError: If the step does what CUDA refuses to record.
    """
    before, recording = step.kept(), _Recording()
    with recording:
        step()
    step.restore(before)
    return recording.replay
