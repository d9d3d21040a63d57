"""What other libraries log while they are used."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def loggers_at(level: int, *names: str) -> Iterator[None]:
    """Let some loggers say only what is of a level or above, as long as the context lasts.

    Args:
        level: A level of :mod:`logging`, such as `logging.WARNING`.
        names: Names of the loggers.
    """
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, former in zip(loggers, before, strict=True):
            logger.setLevel(former)
