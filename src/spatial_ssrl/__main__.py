"""The process of a command: what `spatial-ssrl` and `python -m spatial_ssrl` start."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from spatial_ssrl.cli.main import main


def run() -> NoReturn:
    """Run the command line of this process, and end it with the exit code of `main`."""
    code = main()
    if _only_printed(sys.argv[1:]):
        _leave_at_once(code)
    sys.exit(code)


def _only_printed(words: list[str]) -> bool:
    """Return whether a command has nothing to close, save or wait for."""
    return words[:1] == ["plan"] or any(word.startswith("--print_config") for word in words)


def _leave_at_once(code: int) -> None:
    """End the process if all it printed is out.

    Taking down the interpreter and thousands of modules one by one takes 0.4 s of the 7 s of
    `plan`, and nobody is left to see it.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # Whoever read has gone; Python says it in its own way.
        return
    os._exit(code)


if __name__ == "__main__":
    run()
