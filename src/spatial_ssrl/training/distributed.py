"""What several processes that train one policy tell one another.

Every function here is a collective: all processes must call it, in the same order, whatever
their own data look like. In one process each is trivial.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from spatial_ssrl.core.errors import SpatialSSRLError

T = TypeVar("T")

_BUCKET = 2**24  # Numbers in one message: 64 MB of float32.


def world_size() -> int:
    """Return the number of processes that train together, 1 or more."""
    return distributed.get_world_size() if _connected() else 1


def rank() -> int:
    """Return the number of this process, counted from 0."""
    return distributed.get_rank() if _connected() else 0


def _connected() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def gather(value: T, doing: str = "comparing results") -> list[T]:
    """Return the value of every process, in order of rank.

    Args:
        value: Small and picklable; tensors on the CPU, since another process's devices are
            not ours.
        doing: What for, in words, for the message should the others not come.
    """
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    with _together(doing):
        distributed.all_gather_object(values, value)
    return values


def total(value: float, doing: str) -> float:
    """Return the sum of a number over all processes, in order of rank.

    Args:
        value: The number of this process.
        doing: See `gather`.
    """
    return sum(gather(value, doing))


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients, in place.

    A gradient that is missing in some processes counts as zero there. One that is missing in
    all stays missing, so that an optimiser leaves that parameter alone, as in one process.

    Args:
        parameters: The same ones in the same order in every process, on one device.
    """
    if world_size() == 1 or not parameters:
        return
    with _together("adding up gradients"):
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        present = present.to(parameters[0].device)
        distributed.all_reduce(present)
        moved = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for bucket in _buckets(moved):
            flat = torch.cat([_flat_gradient(parameter) for parameter in bucket])
            distributed.all_reduce(flat)
            pieces = flat.split([parameter.numel() for parameter in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(piece.view_as(parameter))


def average(tensors: Iterable[Tensor]) -> None:
    """Give every process the mean of all processes' tensors, in place.

    Args:
        tensors: The same ones in the same order in every process, floating point.
    """
    if world_size() == 1:
        return
    for tensor in tensors:
        with _together("averaging batch statistics"):
            distributed.all_reduce(tensor)
        tensor.div_(world_size())


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient as one row, in float32 at least: sums must not be rounded."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), dtype=dtype, device=parameter.device)
    return parameter.grad.flatten().to(dtype)


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield neighbours in groups of at most `_BUCKET` numbers, or one larger parameter."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


@contextmanager
def _together(doing: str) -> Iterator[None]:
    """Say which process waited for what when the others do not come.

    Raises:
        SpatialSSRLError: In place of the messages of the transport, which name neither.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise SpatialSSRLError(
            f"Process {rank()} of {world_size()} lost the others while {doing}; one of them "
            f"failed or is stuck, so look at what it wrote. ({cause})"
        ) from error
