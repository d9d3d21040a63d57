"""What the quick-start learns: over seeds, with more time, and against its controls.

    python benchmarks/learning.py seeds --seeds 0 1 2
    python benchmarks/learning.py control    # rewards shuffled within each group: must gain nothing
    python benchmarks/learning.py sft-only   # the cold start alone, for as long as both stages take
    python benchmarks/learning.py long       # 60 minutes instead of 10

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.cli import fit
from spatial_ssrl.cli.commands.quickstart import Settings, quickstart, stage_arguments
from spatial_ssrl.core.batches import Feedback
from spatial_ssrl.core.files import write_json
from spatial_ssrl.evaluation.report import compare
from spatial_ssrl.training.callbacks.question_records import read_records
from spatial_ssrl.training.held_out import AnswerRecord

RUNS = Path("runs/learning")
SEED_0 = RUNS / "seed0"
RESULTS = Path(__file__).with_name("learning.json")
MINUTES = 10.0


class ShuffledRewards(GRPO):
    """GRPO whose rewards change places within each group, so that they say nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._calls = 0

    def advantages(self, feedback: Feedback) -> Tensor:
        """Return the advantages of rewards that were handed to other completions."""
        self._calls += 1
        generator = torch.Generator().manual_seed(self._calls)
        places = torch.rand(feedback.rewards.shape, generator=generator).argsort(dim=1)
        return super().advantages(replace(feedback, rewards=feedback.rewards.gather(1, places)))


def run_seeds(seeds: list[int]) -> dict[str, Any]:
    found = {}
    for seed in seeds:
        out = RUNS / f"seed{seed}"
        quickstart(minutes=MINUTES, seed=seed, out=out)
        found[f"seed {seed}"] = json.loads((out / "results.json").read_text())
    return found


def run_control() -> dict[str, Any]:
    out = RUNS / "control"
    shutil.rmtree(out, ignore_errors=True)
    for name in ("cold_start", "scenes", "held_out"):
        shutil.copytree(SEED_0 / name, out / name)
    algorithm = f"{Path(__file__).stem}.{ShuffledRewards.__name__}"
    records = _train("grpo", out, ["--model.init_args.algorithm", algorithm])
    return {"shuffled rewards": compare(_records(SEED_0, "cold_start"), records)}


def run_sft_only() -> dict[str, Any]:
    first = json.loads((SEED_0 / "results.json").read_text())
    seconds, steps = first["seconds"], first["steps"]["cold_start"]
    longer = round(steps * sum(seconds.values()) / seconds["cold_start"])
    records = _train("cold_start", RUNS / "sft_only", ["--trainer.max_steps", str(longer)])
    found = {
        f"against_{stage}": compare(_records(SEED_0, stage), records)
        for stage in ("cold_start", "grpo")
    }
    return {"cold start alone, equal time": {"steps": longer, **found}}


def run_long() -> dict[str, Any]:
    out = RUNS / "long"
    quickstart(minutes=6 * MINUTES, out=out)
    return {"60 minutes": json.loads((out / "results.json").read_text())}


def _train(stage: str, out: Path, options: list[str]) -> list[AnswerRecord]:
    """Train and test one stage of the quick-start with some options changed."""
    os.environ["SPATIAL_SSRL_QUICKSTART"] = str(out)
    cli = fit.run(["fit", *stage_arguments(stage, out, Settings(MINUTES, 0, None)), *options])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return _records(out, stage)


def _records(run: Path, stage: str) -> list[AnswerRecord]:
    return read_records(run / stage / "records.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("seeds", "control", "sft-only", "long"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # so that YAML can name the control
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
