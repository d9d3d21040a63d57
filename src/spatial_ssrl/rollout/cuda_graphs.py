"""Steps of decoding recorded as CUDA graphs: launched at once, not kernel by kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from spatial_ssrl.policies.fixed_step import FixedStep

_log = logging.getLogger(__name__)

_TOLERANCE = 0.02  # of the largest hidden state; kernels may be others than those of plain steps


class CudaGraphs:
    """Records steps, and does without for the rest of the run where that does not work.

    The first graph is replayed once beside the plain step and has to find the same.

    Attributes:
        given_up: Whether it did not work; nothing is recorded any more.
    """

    def __init__(self) -> None:
        self.given_up = self._checked = False

    def __call__(self, step: FixedStep) -> Callable[[], None]:
        """Return what takes the step, as often as it is called; the step is not taken yet.

        Returns:
            The step itself where recording does not work.
        """
        if self.given_up:
            return step
        before = step.kept()
        try:
            replay = _recorded(step)
            if not self._checked:
                _check(step, replay, before)
        # Whatever CUDA, cuBLAS or bitsandbytes refuse while being recorded.
        except RuntimeError as error:
            self.given_up = True
            # Some of a step may have been taken. Raises if CUDA has come to grief altogether.
            step.restore(before)
            _log.warning("Sampling goes on without CUDA graphs: %s", _reason(error))
            return step
        self._checked = True
        return replay


def _recorded(step: FixedStep) -> Callable[[], None]:
    device = step.tokens.device
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.device(device),
        # Sets the stream back, which `torch.cuda.graph` leaves undone where a recording fails:
        # what comes after would not wait for what was launched before.
        torch.cuda.stream(torch.cuda.current_stream(device)),
        # Only this thread: others pin batches and watch collectives meanwhile.
        torch.cuda.graph(graph, stream=_side_stream(device), capture_error_mode="thread_local"),
    ):
        step()
    return graph.replay


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which a device records.

    One for all recordings, as cuBLAS keeps a workspace for each stream; one a device, as
    PyTorch's own is of whichever device came first.
    """
    return torch.cuda.Stream(device)


def _check(step: FixedStep, replay: Callable[[], None], before: tuple[Tensor, ...]) -> None:
    """Take the step both ways and undo both.

    Raises:
        RuntimeError: If they do not leave the same behind.
    """
    step()
    *wanted_counts, wanted = step.kept()
    step.restore(before)
    replay()
    *found_counts, found = step.kept()
    step.restore(before)
    if not all(map(torch.equal, found_counts, wanted_counts)):
        raise RuntimeError(
            "a replayed step does not move on to the next token as a plain one does."
        )
    scale, off = float(wanted.abs().max()), float((found - wanted).abs().max())
    if not off <= _TOLERANCE * scale:
        raise RuntimeError(f"a replayed step is {off:.3g} off hidden states of up to {scale:.3g}.")


def _reason(error: RuntimeError) -> str:
    """Return the first line of what went wrong."""
    # Ending a recording that failed fails too; what failed first says why.
    first = error.__context__ if isinstance(error.__context__, Exception) else error
    return str(first).strip().split("\n")[0]
