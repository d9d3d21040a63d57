"""The random numbers of completions: each completion has its own, named by what it answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spatial_ssrl.core.seeding import rng_for


def completion_numbers(seed: int, uids: Sequence[str], group_size: int, length: int) -> Tensor:
    """Return one random number per token of each completion, whatever else is in the batch.

    They are named by the seed, the question and the number of the completion, so they depend
    neither on the device, nor on the order and company of the questions, nor on the process
    that samples. A question that occurs again in the batch draws other numbers the second time.

    Args:
        seed: Names the draw; it should name the run and the step.
        uids: Names of B questions.
        group_size: Completions of each, G.
        length: Tokens of a completion, C. A longer row begins with the shorter one.

    Returns:
        Shape (B * G, C), float64, uniform in [0, 1).
    """
    seen: Counter[str] = Counter()
    numbers = np.empty((len(uids) * group_size, length))
    for row, uid in enumerate(uids):
        for completion in range(group_size):
            rng = rng_for(seed, "completion", uid, seen[uid], completion)
            numbers[row * group_size + completion] = rng.random(length)
        seen[uid] += 1
    return torch.from_numpy(numbers)
