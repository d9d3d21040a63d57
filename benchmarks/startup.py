"""Seconds until `--print_config` and `plan` have answered, each in a process of its own.

    python benchmarks/startup.py [recipe ...]

Medians of three for each recipe of configs/recipes, or for those named, to benchmarks/startup.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
RUNS = 3
PACKAGES = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "jsonargparse")


def seconds(words: list[str]) -> float:
    """Return the median time of a command from start to exit, to a tenth."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "spatial_ssrl", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 1)


def cpu() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    """Time all, print and write."""
    results = {}
    asked = sys.argv[1:]
    for recipe in sorted(CONFIGS.glob("recipes/*.yaml")):
        # The paper's RL run starts from a folder that its cold start writes.
        if recipe.stem == "paper_rl" or (asked and recipe.stem not in asked):
            continue
        kind = "sft" if recipe.stem == "paper_sft" else "rl"
        run = ["-c", str(CONFIGS / f"{kind}_qwen25vl_lora.yaml"), "-c", str(recipe)]
        results[recipe.stem] = {
            "print_config": seconds(["fit", *run, "--print_config"]),
            "plan": seconds(["plan", *run]),
            "plan --gpu 24GB": seconds(["plan", *run, "--gpu", "24GB"]),
        }
        print(recipe.stem, results[recipe.stem], f"load {os.getloadavg()[0]:.1f}", flush=True)
    summary = {
        "date": date.today().isoformat(),
        "cpu": cpu(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "runs": RUNS,
        "seconds": results,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
