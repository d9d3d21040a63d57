"""Modules of a model by the names that settings give them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def ending_in(ending: str, names: Sequence[str]) -> list[str]:
    """Return the names that are, or end in, one or more whole parts of a dotted name."""
    return [name for name in names if name == ending or name.endswith(f".{ending}")]


def nothing_matches(key: str, wanted: str, names: Sequence[str]) -> str:
    """Return what to say of a setting that names no module.

    Args:
        key: The setting.
        wanted: What it names.
        names: All modules there are.
    """
    endings = sorted({name.rpartition(".")[2] for name in names} - {str(i) for i in range(1000)})
    close = difflib.get_close_matches(wanted, endings, n=3, cutoff=0.5) or endings[:8]
    return f"{key} {wanted!r} matches no module; there are {', '.join(close)}."
