"""Making a curated set: checks, the shards that are missing, manifest and card."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.curated import engines
from spatial_ssrl.data.curated.card import card
from spatial_ssrl.data.curated.manifest import (
    CARD,
    MANIFEST,
    as_text,
    closing,
    difference,
    opening,
    read_manifest,
    write_whole,
)
from spatial_ssrl.data.curated.plan import SetPlan
from spatial_ssrl.data.curated.shards import DATA, PARTIAL, ShardMaker, read_record, shard_path

Engine = Literal["local", "ray"]


def make_set(
    plan: SetPlan,
    folder: Path,
    workers: int = 1,
    engine: Engine = "local",
    progress: Callable[[int], None] = lambda questions: None,
) -> dict[str, Any]:
    """Make a curated set, or go on with one that was interrupted, and return its manifest.

    The files are a function of the plan: however often it was interrupted, by whomever its
    shards were made. Each file is whole or absent at any moment.

    Args:
        plan: What to make.
        folder: Folder of the set; new, empty, or holding a part of the same set.
        workers: Processes on this machine, or shards at a time on a cluster.
        engine: "local", or "ray" for a Ray cluster whose machines share the folder.
        progress: Called with the number of questions that are there, after each shard.

    Raises:
        ConfigError: If a setting cannot work, or the folder holds something else.
        SpatialSSRLError: If a task makes no question of many scenes.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out: {str(folder)!r} is a file; name a folder.")
    found = read_manifest(folder)
    if found is None:
        _check_empty(folder)
    plan.prepare()
    plan.streams()
    if found is not None and found["fingerprint"] != plan.fingerprint:
        raise ConfigError(
            f"out: {str(folder)!r} holds a set made otherwise: {difference(found, plan)}. Choose "
            "another folder, or the same settings to go on."
        )
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _remove_partial(folder)
        if found is None:
            write_whole(folder / MANIFEST, as_text(opening(plan)))
        missing, there = _missing(plan, folder)
        progress(there)
        make = ShardMaker(plan, folder.absolute())
        run = engines.local if engine == "local" else engines.ray
        with contextlib.closing(run(make, missing, workers)) as done:
            for questions in done:
                there += questions
                progress(there)
        manifest = closing(plan, folder)
        _remove_partial(folder)
        write_whole(folder / CARD, card(manifest))
        write_whole(folder / MANIFEST, as_text(manifest))
    return manifest


def _check_empty(folder: Path) -> None:
    """Refuse a folder with files of others; what an interrupted start left is ours."""
    found = sorted(path for path in folder.glob("*") if path.suffix != PARTIAL)
    if [path for path in found if path.name != DATA or not path.is_dir() or any(path.iterdir())]:
        raise ConfigError(
            f"out: {str(folder)!r} holds other files and no curated set; choose a new folder."
        )


def _missing(plan: SetPlan, folder: Path) -> tuple[list[int], int]:
    """Return the shards that are not there, and the number of questions in those that are."""
    missing, questions = [], 0
    names = {shard_path(folder, number, plan.shards).name for number in range(plan.shards)}
    others = sorted(path.name for path in (folder / DATA).iterdir() if path.name not in names)
    if others:
        raise ConfigError(
            f"out: {str(folder / DATA)!r} holds {others[0]!r}, which is none of the set's files; "
            "move it away."
        )
    for number in range(plan.shards):
        path = shard_path(folder, number, plan.shards)
        if not path.exists():
            missing.append(number)
            continue
        record = read_record(path)
        if record is None or record.fingerprint != plan.fingerprint:
            raise ConfigError(
                f"out: {str(path)!r} is not a whole shard of this set; delete it and run again."
            )
        questions += record.questions
    return missing, questions


def _remove_partial(folder: Path) -> None:
    """Delete what killed runs left half written."""
    for place in (folder, folder / DATA):
        for path in place.glob(f"*{PARTIAL}"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two runs do not delete each other's unfinished files.

    The system lets go of it when the process ends, however it ends.

    Raises:
        ConfigError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"out: another process is making the set in {str(folder)!r}; wait for it, or stop "
                "it to go on here."
            ) from error
        except OSError:  # Some network file systems cannot lock a folder.
            pass
        yield
    finally:
        os.close(handle)
