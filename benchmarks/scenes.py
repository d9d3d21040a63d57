"""Measure how many synthetic scenes one core draws a second, at 64 and 96 pixels.

Run with `OMP_NUM_THREADS=1 python benchmarks/scenes.py [--output benchmarks/scenes.json]`.
CPU time is measured, so that other work on the machine matters little; wall time is kept too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from spatial_ssrl.images import SyntheticScenes


def cpu_name() -> str:
    """Return the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure(size: int, count: int, repeats: int) -> dict[str, float]:
    """Return the best rates of several repeats, in scenes per second."""
    source = SyntheticScenes(count=count, size=size, seed=1)
    source.scene(0)  # The noise table is made once.
    cpu, wall = [], []
    for _ in range(repeats):
        started, started_wall = time.process_time(), time.perf_counter()
        for index in range(count):
            source.scene(index)
        cpu.append(count / (time.process_time() - started))
        wall.append(count / (time.perf_counter() - started_wall))
    return {
        "size": size,
        "scenes_per_cpu_s": round(max(cpu), 1),
        "scenes_per_wall_s": round(max(wall), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="scenes a repeat")
    parser.add_argument("--repeats", type=int, default=3, help="the best repeat counts")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rates = [measure(size, options.count, options.repeats) for size in (64, 96)]
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "spatial_ssrl": version("spatial-ssrl"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "rates": rates,
    }
    for rate in rates:
        print(f"{rate['size']:>3} px: {rate['scenes_per_cpu_s']:.0f} scenes/s of CPU time")
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
