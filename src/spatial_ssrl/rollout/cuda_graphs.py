"""Steps of decoding recorded as CUDA graphs: launched at once, not kernel by kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from spatial_ssrl.policies.fixed_step import FixedStep

_log = logging.getLogger(__name__)

_TOLERANCE = 0.02  # of the largest hidden state; kernels may be others than those of plain steps


class CudaGraphs:
    """Records steps, and does without for the rest of the run where that does not work.

    The first graph is replayed once beside the plain step and has to find the same.
    """

    def __init__(self) -> None:
        self._given_up = self._checked = False

    def __call__(self, step: FixedStep) -> Callable[[], None]:
        """Return what takes the step, as often as it is called; the step is not taken yet."""
        if self._given_up:
            return step
        try:
            replay = _recorded(step)
            if not self._checked:
                _check(step, replay)
        # Whatever CUDA, cuBLAS or bitsandbytes refuse while being recorded.
        except RuntimeError as error:
            self._given_up = True
            reason = str(error).strip().split("\n")[0]
            _log.warning("Sampling goes on without CUDA graphs: %s", reason)
            return step
        self._checked = True
        return replay


def _recorded(step: FixedStep) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    # Only this thread: others pin batches and watch collectives meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def _check(step: FixedStep, replay: Callable[[], None]) -> None:
    """Take the step both ways and undo both.

    Raises:
        RuntimeError: If they find different hidden states.
    """
    before = step.kept()
    step()
    wanted = step.hidden.clone()
    step.restore(before)
    replay()
    found = step.hidden.clone()
    step.restore(before)
    scale, off = float(wanted.abs().max()), float((found - wanted).abs().max())
    if not off <= _TOLERANCE * scale:
        raise RuntimeError(f"a replayed step is {off:.3g} off hidden states of up to {scale:.3g}.")
