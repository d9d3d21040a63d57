"""Who holds how many bytes: live tensor memory by part, and what it was at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which most memory was held.

    Args:
        total: Bytes.
        parts: Bytes of each part then, by its name; they add up to `total`.
    """

    total: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """Counts the bytes of tensors that are alive.

    Memory is that of storages: views add nothing, and a storage counts until the last tensor,
    graph node or container that needs it is gone. Each belongs to the part that was being
    worked on when it was made (`during`), unless it is handed to another one (`assign`).

    Args:
        granularity: Bytes to whose multiples an allocation is rounded up; 512 on CUDA.
    """

    def __init__(self, granularity: int = 1) -> None:
        self.granularity = granularity
        self.part = OTHER
        self.live: dict[str, int] = {}
        self.total = 0
        self.peak = Peak()
        self.moments: dict[str, Peak] = {}
        self._moment = ""
        self._kept: dict[int, tuple[weakref.ref[object], int, str]] = {}

    def watch(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, if it is not counted yet."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._kept:
            return
        size = storage.nbytes()
        size += -size % self.granularity
        if size:
            self._kept[key] = (weakref.ref(storage, partial(self._gone, key)), size, self.part)
            self._add(self.part, size)

    def assign(self, tensor: Tensor, part: str) -> None:
        """Let the storage of a tensor belong to another part."""
        self.watch(tensor)
        key = tensor.untyped_storage()._cdata
        if key not in self._kept:
            return
        ref, size, before = self._kept[key]
        self._kept[key] = (ref, size, part)
        self.live[before] -= size
        self.live[part] = self.live.get(part, 0) + size

    def leave_out(self, tensor: Tensor) -> None:
        """Count the storage of a tensor no longer, as it lies elsewhere."""
        key = tensor.untyped_storage()._cdata
        ref, size, part = self._kept[key]
        self._kept[key] = (ref, 0, part)
        self._add(part, -size)

    def spike(self, size: int) -> None:
        """Count memory that an operation takes and gives back before it returns."""
        self._add(self.part, size)
        self._add(self.part, -size)

    def enter(self, moment: str, part: str) -> None:
        """Begin a moment, whose peak `moments` holds once it has ended.

        Args:
            moment: Its name; a moment entered again keeps the higher of its peaks.
            part: What memory made from now on belongs to.
        """
        if self.peak.total > self.moments.get(self._moment, Peak()).total:
            self.moments[self._moment] = self.peak
        self.peak = Peak(self.total, dict(self.live))
        self._moment, self.part = moment, part

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Book what is made inside to a part."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """Leave the peak as it is, whatever is made inside; what stays alive counts later."""
        peak = self.peak
        try:
            yield
        finally:
            self.peak = peak

    def _gone(self, key: int, ref: object) -> None:
        _, size, part = self._kept.pop(key)
        self._add(part, -size)

    def _add(self, part: str, size: int) -> None:
        self.live[part] = self.live.get(part, 0) + size
        self.total += size
        if self.total > self.peak.total:
            self.peak = Peak(self.total, dict(self.live))
