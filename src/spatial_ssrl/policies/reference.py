"""The policy as RL began: kept beside the live weights, swapped in for the reference's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from spatial_ssrl.policies import weights

_PREFIX = "reference::"  # marks the reference's tensors in a checkpoint


class Reference:
    """What training changes in a model, as it was when it was first asked for.

    That is the adapter under LoRA, the whole model without.
    """

    def __init__(self) -> None:
        self._start: dict[str, Tensor] | None = None

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give a model its values of the first entry inside; no gradient.

        The first entry, before the first update, keeps a copy. Values are swapped in and out
        without copying, so parameters keep their flags and adapters stay as they are.
        """
        live = weights.trainable_tensors(model)
        if self._start is None:
            self._start = {name: tensor.detach().clone() for name, tensor in live.items()}
        for name, tensor in live.items():
            self._start[name] = self._start[name].to(tensor.device)
        # Kept as it was, whatever precision the model has been cast to since.
        cast = {name: self._start[name].to(tensor.dtype) for name, tensor in live.items()}
        with weights.swapped(live, cast):
            yield

    def added_to(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the live weights of a checkpoint together with these, once they are known."""
        return {**state, **{_PREFIX + name: value for name, value in (self._start or {}).items()}}

    def taken_from(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Go on with the reference of a checkpoint, or none; return its live weights."""
        kept = {
            name.removeprefix(_PREFIX): value.clone()
            for name, value in state.items()
            if name.startswith(_PREFIX)
        }
        self._start = kept or None
        return {name: value for name, value in state.items() if not name.startswith(_PREFIX)}
