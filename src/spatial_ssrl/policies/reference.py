"""The policy as RL began: kept beside the live weights, swapped in for the reference's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spatial_ssrl.policies import weights

_PREFIX = "reference::"  # marks the reference's tensors in a checkpoint


class Reference:
    """What training changes in a model, as it was when it was first asked for.

    That is the adapter under LoRA, the whole model without.

    Args:
        on_host: Keep it in the host's memory, and bring it to where the model is only while it
            is in place.
    """

    def __init__(self, on_host: bool = False) -> None:
        self.on_host = on_host
        self._start: dict[str, Tensor] | None = None

    @property
    def kept(self) -> Mapping[str, Tensor]:
        """The copy, by name; empty before the first entry."""
        return self._start or {}

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give a model its values of the first entry inside; no gradient.

        The first entry, before the first update, keeps a copy. Values are swapped in and out
        without touching the live ones, so parameters keep their flags and adapters stay as they
        are.
        """
        live = weights.trainable_tensors(model)
        if self._start is None:
            self._start = {name: _copy(tensor, self._home(tensor)) for name, tensor in live.items()}
        for name, tensor in live.items():
            self._start[name] = self._start[name].to(self._home(tensor))
        shown = {name: self._beside(tensor, self._start[name]) for name, tensor in live.items()}
        with weights.swapped(live, shown):
            yield

    def _home(self, live: Tensor) -> torch.device:
        return torch.device("cpu") if self.on_host else live.device

    def _beside(self, live: Tensor, kept: Tensor) -> Tensor:
        """Return a kept value where the live one lies, in its precision.

        It is kept as it was, whatever precision the model has been cast to since.
        """
        if self.on_host:
            return torch.empty_like(live).copy_(kept)
        return kept.to(live.dtype)

    def added_to(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the live weights of a checkpoint together with these, once they are known."""
        return {**state, **{_PREFIX + name: value for name, value in self.kept.items()}}

    def taken_from(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Go on with the reference of a checkpoint, or none; return its live weights."""
        kept = {
            name.removeprefix(_PREFIX): value.clone()
            for name, value in state.items()
            if name.startswith(_PREFIX)
        }
        self._start = kept or None
        return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_like(tensor, device=device, requires_grad=False).copy_(tensor.detach())
