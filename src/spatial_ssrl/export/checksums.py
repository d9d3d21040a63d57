"""SHA-256 of every file of a folder, in the form that `sha256sum -c` reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spatial_ssrl.core.errors import ConfigError

SUMS = "SHA256SUMS"

_BLOCK = 2**20


def write_checksums(folder: Path) -> None:
    """Write the sums of all files under a folder to `SHA256SUMS` in it."""
    lines = [f"{_sum(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> int:
    """Compare all files under a folder with its `SHA256SUMS`.

    Returns:
        The number of files, all of them as they were written.

    Raises:
        ConfigError: If there are no sums, or a file is missing, added or changed; names the first.
    """
    path = folder / SUMS
    if not path.is_file():
        raise ConfigError(f"{str(folder)!r} has no {SUMS}; it was not written by `export`.")
    lines = path.read_text(encoding="utf-8").splitlines()
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = set(_files(folder))
    if odd := known.keys() ^ present:
        name = min(odd)
        fault = "is not among its checksums" if name in present else "is missing"
        raise ConfigError(f"{str(folder / name)!r} {fault}.")
    for name, digest in known.items():
        if _sum(folder / name) != digest:
            raise ConfigError(f"{str(folder / name)!r} is not what was written; export again.")
    return len(known)


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
