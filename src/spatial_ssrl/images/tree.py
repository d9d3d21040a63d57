"""Lists the files of a folder."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(root: Path) -> list[str]:
    """Return every file under a folder, subfolders and linked folders included.

    Hidden files and folders are left out, and so is a link to a folder that it lies in, which
    would have no end.

    Args:
        root: Folder to search.

    Returns:
        Posix paths relative to the folder, sorted.
    """
    found = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not _leads_back(here / name, here)
        ]
        start = here.relative_to(root).as_posix()
        prefix = "" if start == "." else f"{start}/"
        found += [f"{prefix}{name}" for name in names if not name.startswith(".")]
    return sorted(found)


def _leads_back(path: Path, parent: Path) -> bool:
    return path.is_symlink() and parent.resolve().is_relative_to(path.resolve())
