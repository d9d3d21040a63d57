"""What the processes of a run tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """Return the value of every process, in the order of their ranks, on every process.

    Every process must call it, and as often as the others.

    Args:
        value: Anything that can be pickled; best without tensors on a device.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[T] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
