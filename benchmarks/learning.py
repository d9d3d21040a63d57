"""What the quick-start learns: over seeds, with more time, and against its controls.

    python benchmarks/learning.py seeds --seeds 0 1 2
    python benchmarks/learning.py control     # rewards shuffled within each group: must gain nothing
    python benchmarks/learning.py sft-only    # the cold start alone, for as long as both stages took
    python benchmarks/learning.py long        # 60 minutes instead of 10

Each part adds what it found to benchmarks/learning.json. `control` and `sft-only` build on the run
of seed 0 under runs/learning, which `seeds` makes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.cli import fit
from spatial_ssrl.cli.commands.quickstart import Settings, quickstart, stage_arguments
from spatial_ssrl.evaluation.report import compare, write_json
from spatial_ssrl.training.callbacks.question_records import read_records

RUNS = Path("runs/learning")
RESULTS = Path(__file__).with_name("learning.json")
MINUTES = 10.0


class ShuffledRewards(GRPO):
    """GRPO whose rewards change places within each group, so that they say nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._calls = 0

    def advantages(self, rewards: Tensor) -> Tensor:
        """Return the advantages of rewards that were handed to other completions."""
        self._calls += 1
        generator = torch.Generator().manual_seed(self._calls)
        places = torch.rand(rewards.shape, generator=generator).argsort(dim=1)
        return super().advantages(rewards.gather(1, places))


def run_seeds(seeds: list[int]) -> dict[str, Any]:
    found = {}
    for seed in seeds:
        out = RUNS / f"seed{seed}"
        quickstart(minutes=MINUTES, seed=seed, out=out)
        found[f"seed {seed}"] = json.loads((out / "results.json").read_text())
    return found


def run_control() -> dict[str, Any]:
    out = _beside_seed_0("control")
    algorithm = "--model.init_args.algorithm"
    quickstart(
        minutes=MINUTES,
        out=out,
        overrides=[algorithm, f"{Path(__file__).stem}.{ShuffledRewards.__name__}"],
    )
    return {"shuffled rewards": json.loads((out / "results.json").read_text())}


def run_sft_only() -> dict[str, Any]:
    base, out = RUNS / "seed0", RUNS / "sft_only"
    first = json.loads((base / "results.json").read_text())
    seconds, steps = first["seconds"], first["steps"]["cold_start"]
    longer = round(steps * sum(seconds.values()) / seconds["cold_start"])
    os.environ["SPATIAL_SSRL_QUICKSTART"] = str(out)
    arguments = stage_arguments("cold_start", out, Settings(MINUTES, 0, None))
    cli = fit.run(["fit", *arguments, "--trainer.max_steps", str(longer)])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    records = read_records(out / "cold_start" / "records.jsonl")
    return {
        "cold start alone, equal time": {
            "steps": longer,
            "against_cold_start": compare(read_records(base / "cold_start/records.jsonl"), records),
            "against_grpo": compare(read_records(base / "grpo/records.jsonl"), records),
        }
    }


def run_long() -> dict[str, Any]:
    out = RUNS / "long"
    quickstart(minutes=6 * MINUTES, out=out)
    return {"60 minutes": json.loads((out / "results.json").read_text())}


def _beside_seed_0(name: str) -> Path:
    """Return a folder that holds the cold start of seed 0 and nothing after it."""
    out = RUNS / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(RUNS / "seed0", out, ignore=shutil.ignore_patterns("grpo", "*.png"))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("seeds", "control", "sft-only", "long"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # so that the control can be named by path
    if options.part == "seeds":
        found = run_seeds(options.seeds)
    else:
        found = {"control": run_control, "sft-only": run_sft_only, "long": run_long}[options.part]()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    stamp = {
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg(),
    }
    write_json(RESULTS, {**known, **{name: {**stamp, **part} for name, part in found.items()}})


if __name__ == "__main__":
    main()
