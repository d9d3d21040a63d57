"""How often checkpoints are written when a batch takes several optimiser steps."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ssrl.core.errors import ConfigError


def check_intervals(trainer: Trainer, steps: int) -> None:
    """Refuse intervals between checkpoints that would silently become longer.

    Lightning looks at the end of a batch whether the number of optimiser steps is a multiple of
    the interval.

    Args:
        trainer: Its checkpoint callbacks are looked at.
        steps: Optimiser steps a batch.

    Raises:
        ConfigError: If neither number divides the other.
    """
    for callback in trainer.checkpoint_callbacks:
        every = getattr(callback, "_every_n_train_steps", 0)
        if not isinstance(callback, ModelCheckpoint) or every < 1:
            continue
        if every % steps and steps % every:
            raise ConfigError(
                f"ModelCheckpoint.every_n_train_steps is {every}, but a batch takes {steps} "
                "optimiser steps (update.inner_epochs times update.mini_batches), so that one "
                f"would be written only every {math.lcm(every, steps)} steps; set it to a "
                f"multiple of {steps}, such as {steps * math.ceil(every / steps)}."
            )
