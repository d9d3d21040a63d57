"""The argument parser: one line per error and, for a name that is wrong, a close match."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from spatial_ssrl.cli.errors import UsageError, explain


class Hinting(ArgumentParser):
    """A parser that raises one readable line instead of printing usage and a tree of reasons."""

    def parse_args(  # type: ignore[override]  # as in jsonargparse, whose namespace is its own
        self,
        args: Sequence[str] | None = None,
        namespace: Namespace | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        """Parse words of a command line, those of the process when None.

        jsonargparse hands `--model.policy.revision=null` down to the parser of the policy as
        `--revision=None`, which would be read as a name.
        """
        words = list(sys.argv[1:] if args is None else args)
        if not self.exit_on_error:  # Such parsers are jsonargparse's own, for one component.
            words = [
                f"{word[:-4]}null" if word.startswith("--") and word.endswith("=None") else word
                for word in words
            ]
        return super().parse_args(words, namespace, env, defaults, **kwargs)

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
