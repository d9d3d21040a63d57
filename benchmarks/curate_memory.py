"""Peak memory of making a curated set, for a small and a large number of questions.

Usage: python benchmarks/curate_memory.py [out.json]

Each size is made by a process of its own, from drawn scenes by all five tasks, in shards of 100
questions; its peak resident memory is read when it ends. The time is that of the processor,
without start-up, so that other work on the machine matters little.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (500, 5000)
SIDE = 64


def make(questions: int, folder: Path) -> dict[str, float]:
    """Make one set in this process; return its peak memory (MiB) and processor time (s)."""
    from spatial_ssrl.data.curated import SetPart, SetPlan, make_set
    from spatial_ssrl.images import SyntheticScenes
    from spatial_ssrl.tasks import TASKS

    tasks = [entry.cls() for entry in TASKS.entries() if entry.origin == "spatial_ssrl"]
    plan = SetPlan([SetPart([SyntheticScenes(2000, SIDE)], tasks, questions)], shard_questions=100)
    before = _peak()
    start = time.process_time()
    make_set(plan, folder)
    seconds = time.process_time() - start
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {
        "questions": questions,
        "peak_mib": round(_peak(), 1),
        "of_that_imports_mib": round(before, 1),
        "set_mib": round(size / 2**20, 1),
        "cpu_s": round(seconds, 1),
    }


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(make(int(sys.argv[2]), Path(sys.argv[3]))))
        return
    results = []
    for questions in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "one", str(questions), folder]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results.append(json.loads(out.splitlines()[-1]))
        print(results[-1])
    growth = results[-1]["peak_mib"] / results[0]["peak_mib"] - 1
    report = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "sizes": results,
        "growth_percent": round(100 * growth, 2),
    }
    path = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(report, indent=2) + "\n")


def _peak() -> float:
    """Return the largest resident memory of this process so far, in MiB (Linux counts KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
