"""The files of a scene cache: written in parallel, and believed only when complete."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images.base import ImageSource

_log = logging.getLogger(__name__)

_VERSION = 2
_CHUNK = 64
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished cache holds.

    Args:
        fingerprint: Identifies the source and its settings.
        source_ids: Name of every scene.
        in_metres: Whether the depth of each scene is in metres.
        licences: Licence of each scene's picture, "" where unknown.
        unreadable: Why a scene could not be read, by its index.
        has_depth: Whether there is a depth array.
    """

    fingerprint: str
    source_ids: tuple[str, ...]
    in_metres: tuple[bool, ...]
    licences: tuple[str, ...]
    unreadable: Mapping[int, str]
    has_depth: bool

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the array files: pictures, then depth if there is any."""
        names = (f"images-{self.fingerprint}.npy", f"depth-{self.fingerprint}.npy")
        return names if self.has_depth else names[:1]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What rendering a run of scenes yields beside the pixels it wrote.

    Args:
        start: Index of the first scene of the run.
        source_ids: Name of every scene.
        in_metres: Whether the depth of each scene is in metres.
        licences: Licence of each scene's picture, "" where unknown.
        unreadable: Why a scene could not be read, by its index.
    """

    start: int
    source_ids: tuple[str, ...]
    in_metres: tuple[bool, ...]
    licences: tuple[str, ...]
    unreadable: Mapping[int, str]


def read_manifest(root: Path, fingerprint: str) -> Manifest | None:
    """Return the manifest of a finished cache with this fingerprint, or None."""
    try:
        record = json.loads((root / _MANIFEST).read_text())
        manifest = Manifest(
            fingerprint=record["fingerprint"],
            source_ids=tuple(record["source_ids"]),
            in_metres=tuple(record["in_metres"]),
            licences=tuple(record["licences"]),
            unreadable={int(index): text for index, text in record["unreadable"].items()},
            has_depth=bool(record["has_depth"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    is_ours = manifest.fingerprint == fingerprint and record.get("version") == _VERSION
    # Array names hold the fingerprint, so that two runs that share a folder by mistake cannot
    # leave the manifest of one beside the arrays of the other.
    is_whole = all((root / name).is_file() for name in manifest.arrays)
    return manifest if is_ours and is_whole else None


def open_arrays(root: Path, manifest: Manifest) -> tuple[Any, Any]:
    """Return read-only memory maps of the pictures and of the depth (or None).

    Raises:
        ConfigError: If an array file is gone or broken.
    """
    try:
        maps = [np.load(root / name, mmap_mode="r") for name in manifest.arrays]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the cache in {str(root)!r} is broken ({error}); delete the folder and prepare again."
        ) from error
    return maps[0], maps[1] if manifest.has_depth else None


def write_cache(source: ImageSource, root: Path, fingerprint: str, processes: int) -> Manifest:
    """Render every scene of a source and store it.

    Everything is written under temporary names; the manifest is put in place last, in one step.

    Raises:
        ConfigError: If scenes differ in size, none is readable, or the folder cannot be written.
    """
    height, width = _size_of(source)
    empty = Manifest(fingerprint, (), (), (), {}, source.has_depth)
    partial = [f"{name}.{os.getpid()}.partial" for name in (*empty.arrays, _MANIFEST)]
    paths = [root / name for name in partial]
    try:
        _make(paths[0], (len(source), height, width, 3), np.uint8)
        if source.has_depth:
            _make(paths[1], (len(source), height, width), np.float32)
        parts = _render_all(source, [str(path) for path in paths[:-1]], processes)
        manifest = _joined(parts, empty)
        paths[-1].write_text(json.dumps(_as_record(manifest)))
        for path, name in zip(paths, (*manifest.arrays, _MANIFEST), strict=True):
            path.replace(root / name)
        return manifest
    except OSError as error:
        raise ConfigError(
            f"folder {str(root)!r} cannot hold the cache ({error}); choose a folder on a disk with "
            "space that may be written."
        ) from error
    finally:
        for path in paths:
            if path.exists():
                path.unlink()


def _size_of(source: ImageSource) -> tuple[int, int]:
    for index in range(len(source)):
        try:
            shape = source.scene(index).image.shape
        except SceneUnreadable:
            continue
        return shape[0], shape[1]
    raise ConfigError("the source has no readable scene; there is nothing to cache.")


def _make(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    open_memmap(path, mode="w+", dtype=kind, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        # Without reserved space, a full disk would kill the process at a write into the map.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _joined(parts: list[_Rendered], empty: Manifest) -> Manifest:
    ordered = sorted(parts, key=lambda part: part.start)
    return Manifest(
        fingerprint=empty.fingerprint,
        source_ids=tuple(name for part in ordered for name in part.source_ids),
        in_metres=tuple(flag for part in ordered for flag in part.in_metres),
        licences=tuple(licence for part in ordered for licence in part.licences),
        unreadable={index: text for part in ordered for index, text in part.unreadable.items()},
        has_depth=empty.has_depth,
    )


def _as_record(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "fingerprint": manifest.fingerprint,
        "source_ids": manifest.source_ids,
        "in_metres": manifest.in_metres,
        "licences": manifest.licences,
        "unreadable": {str(index): text for index, text in manifest.unreadable.items()},
        "has_depth": manifest.has_depth,
    }


def _render_all(source: ImageSource, paths: list[str], processes: int) -> list[_Rendered]:
    """Render all scenes in runs, in this process or several."""
    runs = [(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK)]
    processes = min(processes, len(runs), os.cpu_count() or 1)
    with _progress(len(source)) as progress:
        if processes > 1:
            try:
                return list(_in_pool(source, paths, runs, processes, progress))
            except BrokenProcessPool:
                _log.warning(
                    "Worker processes ended unexpectedly; rendering on one core. In a script, put "
                    "the work under if __name__ == '__main__' so that they can start."
                )
        parts = []
        for run in runs:
            parts.append(_render_run(source, paths, *run))
            progress(run[1])
        return parts


def _in_pool(
    source: ImageSource,
    paths: list[str],
    runs: list[tuple[int, int]],
    processes: int,
    progress: Callable[[int], None],
) -> Iterator[_Rendered]:
    # Spawned, not forked: the caller may have threads (torch starts some), and a fork of a
    # process with threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_leave_interrupts) as pool:
        futures: list[Future[_Rendered]] = [
            pool.submit(_render_run, source, paths, *run) for run in runs
        ]
        try:
            done = 0
            for future in as_completed(futures):
                part = future.result()
                done += len(part.source_ids)
                progress(done)
                yield part
        finally:
            for future in futures:
                future.cancel()


def _leave_interrupts() -> None:
    """Let Ctrl-C reach the parent only, which cancels what is left and cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_run(source: ImageSource, paths: list[str], start: int, stop: int) -> _Rendered:
    """Write scenes [start, stop) into the array files, and return what is not pixels."""
    arrays = [np.load(path, mmap_mode="r+") for path in paths]
    names, units, licences, unreadable = [], [], [], {}
    for index in range(start, stop):
        try:
            scene = source.scene(index)
        except SceneUnreadable as error:
            names.append(source.source_id(index))
            units.append(False)
            licences.append("")
            unreadable[index] = str(error)
            continue
        if scene.image.shape != arrays[0].shape[1:]:
            height, width = scene.image.shape[:2]
            raise ConfigError(
                f"scene {scene.source_id} is {width}x{height} pixels but others are "
                f"{arrays[0].shape[2]}x{arrays[0].shape[1]}; a cache holds scenes of one size, so "
                "give the source a size, for photos with square=true."
            )
        arrays[0][index] = scene.image
        if len(arrays) > 1:
            arrays[1][index] = np.nan if scene.depth is None else scene.depth
        names.append(scene.source_id)
        units.append(scene.depth_unit == "metre")
        licences.append(scene.licence)
    for array in arrays:
        array.flush()
    return _Rendered(start, tuple(names), tuple(units), tuple(licences), unreadable)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that sets a progress bar to a number of finished scenes."""
    bar = Progress(
        TextColumn("Rendering scenes"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    try:
        bar.start()
    except LiveError:  # The caller shows a bar of its own already.
        yield lambda count: None
        return
    task = bar.add_task("scenes", total=total)
    try:
        yield lambda count: bar.update(task, completed=count)
    finally:
        bar.stop()
