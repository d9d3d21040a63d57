"""What another optimiser would save."""

from __future__ import annotations

from torch.optim import AdamW

from spatial_ssrl.planning.parts import OPTIMISER
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.prediction import Prediction

# Bytes that two 8-bit states take for each number trained, a float32 scale for 256 included.
_BYTES = 2 * (1 + 4 / 256)


def saved_by_8_bit_states(planner: Planner, prediction: Prediction) -> int:
    """Return about how many bytes AdamW with 8-bit states would save; 0 if the run has another.

    Args:
        planner: Knows the run.
        prediction: Of the run.
    """
    rehearsal = planner.rehearsal
    if type(rehearsal.optimizer) is not AdamW:
        return 0
    # While completions are sampled there are states, and nothing of a step that is being taken.
    resting = prediction.update if prediction.sampling is None else prediction.sampling
    states = resting.parts.get(OPTIMISER, 0)
    precision = rehearsal.module.trainable_parameters()[0].element_size()
    return int(prediction.peak.parts.get(OPTIMISER, 0) - states * _BYTES / (2 * precision))
