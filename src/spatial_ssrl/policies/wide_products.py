"""Products of matrices in half precision, added up and returned in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

# Kinds of devices whose products of halves can be had in float32; ROCm refuses.
_devices: set[str] = set() if torch.version.hip else {"cuda"}


@contextmanager
def wide_on(kind: str) -> Iterator[None]:
    """Let a kind of device count as one that has wide products, to foresee their memory."""
    before = set(_devices)
    _devices.add(kind)
    try:
        yield
    finally:
        _devices.clear()
        _devices.update(before)


def is_wide(one: Tensor, other: Tensor) -> bool:
    """Return whether `wide_product` of two tensors converts neither of them."""
    if one.device.type not in _devices or one.dtype != other.dtype:
        return False
    if one.dtype not in (torch.float16, torch.bfloat16):
        return False
    # cuBLAS has no float32 results of sums in float16.
    if one.dtype == torch.float16 and torch.backends.cuda.matmul.allow_fp16_accumulation:
        return False
    return one.device.type != "cuda" or _has_them(one.device, one.dtype)


@lru_cache
def _has_them(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a card and this release of PyTorch know such products, by trying."""
    halves = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.mm(halves, halves, out_dtype=torch.float32)
        torch.bmm(halves.unsqueeze(0), halves.unsqueeze(0), out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


def wide_product(one: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product of two tensors in float32, whatever precision theirs is.

    On CUDA matrices of one half precision are multiplied as they are. That rounds no more than
    converting them first: a product of two halves is exact in float32, in which they are added
    up. Elsewhere, and where types differ, both are converted. Gradients do not flow through it.

    Args:
        one: Shape (..., n, k).
        other: Shape (..., k, m), as many dimensions before the last two and of the same size.

    Returns:
        Shape (..., n, m), float32; new memory.
    """
    shape = (*one.shape[:-1], other.shape[-1])
    if is_wide(one, other):
        if one.is_meta:  # Its memory alone is asked about.
            return one.new_empty(shape, dtype=torch.float32)
        if one.device.type == "cuda":
            if one.dim() == 2:
                return torch.mm(one, other, out_dtype=torch.float32)
            batches = one.flatten(0, -3), other.flatten(0, -3)
            return torch.bmm(*batches, out_dtype=torch.float32).view(shape)
    return one.float() @ other.float()
