"""Letting a copy of this process work on a second core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

Q = TypeVar("Q")
A = TypeVar("A")


class SecondProcess(Generic[Q, A]):
    """A copy of this process that answers questions, one after the other.

    It is made at once, and knows what is known here by then. It ends with this process, or when
    it fails: whoever asks must be ready to work out the answer alone.

    Args:
        answer: Called there with each question; both and their answers must be picklable.
    """

    def __init__(self, answer: Callable[[Q], A]) -> None:
        ours, theirs = multiprocessing.Pipe()
        context: Any = multiprocessing.get_context("fork")  # Any: absent from stubs of Windows.
        process = context.Process(target=_serve, args=(answer, theirs, ours), daemon=True)
        with _quietly():
            process.start()
        theirs.close()
        self._connection = ours

    def ask(self, question: Q) -> None:
        """Begin to work on a question; call `answer` before the next."""
        with suppress(OSError):  # `answer` tells.
            self._connection.send(question)

    def answer(self) -> A:
        """Wait for the answer to the question.

        Raises:
            EOFError: If there is none.
        """
        try:
            found: A = self._connection.recv()
        except OSError as error:
            raise EOFError from error
        return found


def can_have_second_process() -> bool:
    """Return whether this process can be copied safely, and the copy would have a core.

    Copies lack all threads but one, so whatever holds a lock in another stays locked; a CUDA
    context cannot be used in a copy. Outside of Linux, libraries do not expect to be copied.
    """
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1
        and not torch.cuda.is_initialized()
    )


def _serve(answer: Callable[[Any], Any], connection: Connection, other_end: Connection) -> None:
    other_end.close()  # Else the pipe would never end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that is copied.
    torch.set_num_threads(1)  # There are no others: they are not copied.
    with suppress(Exception):  # The end of the pipe, or what the other process will meet itself.
        while True:
            connection.send(answer(connection.recv()))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Python and tokenizers from warning of threads, which the copy does without."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = before or "false"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if before is None:
            del os.environ[name]
