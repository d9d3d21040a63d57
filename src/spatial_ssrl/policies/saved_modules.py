"""Modules trained in full beside adapters, in float32 whatever the precision of their model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def raise_saved_modules(model: nn.Module, head: nn.Module | None) -> bool:
    """Bring the trained copies of `modules_to_save` to float32, as PEFT does with adapters only.

    In bfloat16 most steps of a usual learning rate would be rounded away. A copy computes in
    float32 and hands on what it finds in the precision of the module it stands for, but for the
    vocabulary head, whose logits stay as they are.

    Args:
        model: A model with adapters, changed in place.
        head: Its vocabulary head, as wrapped.

    Returns:
        Whether any copy was of another precision.
    """
    from peft.utils import ModulesToSaveWrapper

    found = False
    for wrapper in model.modules():
        if not isinstance(wrapper, ModulesToSaveWrapper):
            continue
        # Asked of the original, as a copy may share its weight with one that was raised before.
        if _precision(wrapper.original_module) in {None, torch.float32}:
            continue
        found = True
        for copy in wrapper.modules_to_save.values():
            copy.float()
            copy.register_forward_pre_hook(_in_own_precision, with_kwargs=True)
            if wrapper is not head:
                copy.register_forward_hook(_HandOn(wrapper.original_module))
    return found


def _in_own_precision(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    own = _precision(module)
    return tuple(_cast(value, own) for value in args), {
        name: _cast(value, own) for name, value in kwargs.items()
    }


class _HandOn:
    """Brings what a copy returns to the precision of the module it stands for."""

    def __init__(self, original: nn.Module) -> None:
        self._original = original

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        wanted = _precision(self._original)
        if isinstance(output, tuple):
            return tuple(_cast(value, wanted) for value in output)
        return _cast(output, wanted)


def _precision(module: nn.Module) -> torch.dtype | None:
    kinds = (tensor.dtype for tensor in module.parameters() if tensor.is_floating_point())
    return next(kinds, None)


def _cast(value: Any, precision: torch.dtype | None) -> Any:
    if precision is not None and isinstance(value, Tensor) and value.is_floating_point():
        return value.to(precision)
    return value
