"""Who makes the shards: this process, several processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path

from spatial_ssrl.core.errors import ConfigError, SpatialSSRLError

MakeShard = Callable[[int], int]
"""Writes the shard of a number and returns its number of questions; picklable."""


def local(make: MakeShard, numbers: Sequence[int], workers: int) -> Generator[int, None, None]:
    """Make shards on this machine and yield the number of questions of each, as it is done.

    Args:
        make: Makes one shard.
        numbers: Which shards to make.
        workers: Processes; 1 makes the shards in this one.

    Raises:
        SpatialSSRLError: If a worker process is killed, or whatever `make` raises.
    """
    workers = min(workers, len(numbers))
    if workers <= 1:
        yield from map(make, numbers)
        return
    # Spawned, not forked: torch has started threads, and a fork of a process with threads can
    # hang.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(make,))
    try:
        futures = [pool.submit(_make, number) for number in numbers]
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise SpatialSSRLError(
            "A worker process was killed, often for want of memory: run again with fewer workers "
            "to go on. In a script, put the call under if __name__ == '__main__'."
        ) from error
    finally:
        # After an error or Ctrl-C nobody waits for shards half made: they are made anew.
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()


def ray(make: MakeShard, numbers: Sequence[int], workers: int) -> Generator[int, None, None]:
    """Make shards by Ray Data, on a cluster whose machines share the folder of the set.

    Joins the cluster that is running (`ray start`, or RAY_ADDRESS), else starts Ray on this
    machine.

    Args:
        make: Makes one shard.
        numbers: Which shards to make.
        workers: Shards made at a time, over all machines.

    Raises:
        ConfigError: If Ray is not installed.
        SpatialSSRLError: If a shard cannot be made.
    """
    try:
        import ray as cluster
        import ray.data
    except ImportError as error:
        raise ConfigError(
            "engine: ray is not installed; pip install 'spatial-ssrl[ray]', or use engine=local."
        ) from error
    if not numbers:
        return
    if not cluster.is_initialized():
        cluster.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # The caller has its own.

    here = Path.cwd()

    def make_row(item: dict[str, int]) -> dict[str, int | str]:
        if here.is_dir():
            os.chdir(here)  # Folders of pictures may be named relative to it.
        try:
            return {"questions": make(item["shard"]), "error": ""}
        except SpatialSSRLError as error:
            return {"questions": 0, "error": str(error)}

    items = ray.data.from_items(
        [{"shard": number} for number in numbers], override_num_blocks=len(numbers)
    )
    made = items.map(make_row, compute=ray.data.TaskPoolStrategy(size=workers))
    for row in made.iter_rows():
        if row["error"]:
            raise SpatialSSRLError(row["error"])
        yield int(row["questions"])


_worker: MakeShard | None = None


def _begin(make: MakeShard) -> None:
    """Set up a worker process; it ends when its parent does, however that ends."""
    global _worker  # one worker process makes shards of one set
    _worker = make
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _make(number: int) -> int:
    assert _worker is not None  # set by `_begin`
    return _worker(number)
