"""What PyTorch's operations do, as far as running them on ghosts goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_aten = torch.ops.aten

# Operations that read a single number.
_READING = {
    _aten._local_scalar_dense.default,
    _aten.item.default,
    _aten.is_nonzero.default,
}

# Operations that make a tensor like another: the values of a whole-number result are known.
_FILLS = {
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.empty_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
    _aten.new_empty.default,
}

# Operations that may make a table of who sees whom.
_COMPARING = {
    _aten.eq.Tensor,
    _aten.ne.Tensor,
    _aten.le.Tensor,
    _aten.lt.Tensor,
    _aten.ge.Tensor,
    _aten.gt.Tensor,
    _aten.bitwise_and.Tensor,
    _aten.bitwise_or.Tensor,
    _aten.logical_and.default,
    _aten.logical_or.default,
}

_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What an operation does, looked up once: asking each time takes longer than the rest.

    Args:
        profiles: Whether it is a mark of the profiler.
        reads: Whether it reads a single number.
        compares: Whether it may make a table of comparisons.
        fills: Whether it makes a tensor like another.
        placed: Whether it may be told a device.
        indexes: Whether its second argument is a list of indices.
        multiplies_4bit: Whether it is a product with a 4-bit weight.
        makes: Whether all it returns is new.
        changes: Whether it changes its first argument and returns that or nothing.
        returns: Whether it returns anything.
    """

    profiles: bool
    reads: bool
    compares: bool
    fills: bool
    placed: bool
    indexes: bool
    multiplies_4bit: bool
    makes: bool
    changes: bool
    returns: bool

    @staticmethod
    def of(func: Any) -> Kind:
        """Return what an operation does."""
        returns = func._schema.returns
        return Kind(
            profiles=func.namespace == "profiler",
            reads=func in _READING,
            compares=func in _COMPARING,
            fills=func in _FILLS,
            placed=any("Device" in str(argument.type) for argument in func._schema.arguments),
            indexes=func in _INDEXING,
            multiplies_4bit=func.namespace == "bitsandbytes" and "gemm_4bit" in str(func),
            makes=bool(returns) and all(value.alias_info is None for value in returns),
            changes=func._schema.is_mutable and len(returns) < 2,
            returns=bool(returns),
        )
