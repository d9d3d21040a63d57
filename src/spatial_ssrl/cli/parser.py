"""The argument parser: one line per error and, for a name that is wrong, a close match."""

from __future__ import annotations

from typing import NoReturn

from jsonargparse import ArgumentParser

from spatial_ssrl.cli.errors import UsageError, explain


class Hinting(ArgumentParser):
    """A parser that raises one readable line instead of printing usage and a tree of reasons."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong as one line.

        Raises:
            UsageError: Always, unless the parser was told to hand errors to its caller.
        """
        if not self.exit_on_error:
            super().error(message, ex)  # jsonargparse tries alternatives with such parsers.
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [action.dest for action in parser._actions]
        raise UsageError(explain(message, options)) from ex
