"""What each algorithm learns in the same number of steps, and in how many seconds.

    python benchmarks/algorithms.py run                     # all of them, 4 to 6 minutes each
    python benchmarks/algorithms.py run --algorithms GRPO   # or some
    python benchmarks/algorithms.py draw                    # the figure, from what was measured

One cold start of the quick-start, then its RL stage once an algorithm, each with its own defaults.
Algorithms measured with the same settings are not run again. Adds to benchmarks/algorithms.json
and draws benchmarks/algorithms.png.

Seconds are those of the processor, with one thread: what one idle core takes, whatever else runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.cli import fit
from spatial_ssrl.cli.commands.quickstart import Settings, stage_arguments
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.evaluation.report import compare
from spatial_ssrl.training.callbacks.question_records import read_records
from spatial_ssrl.training.held_out import AnswerRecord

RUNS = Path("runs/algorithms")
RESULTS = Path(__file__).with_name("algorithms.json")
CURVE = "curve.json"

# What differs from an algorithm's defaults: none but the constant of Dr. GRPO, which is to be the
# length limit of the stage.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "GRPO": {},
    "DrGRPO": {"aggregation": {"over": "fixed_length", "length": 24}},
    "DAPO": {},
    "RLOO": {},
    "ReinforcePlusPlus": {},
    "ReinforcePlusPlusBaseline": {},
    "ReMax": {},
    "GSPO": {},
    "CISPO": {},
    "SAPO": {},
    "LUSPO": {},
    "VESPO": {},
    "GMPO": {},
    "GPG": {},
    "PassAtK": {},
}


class Stopwatch(Callback):
    """Writes the held-out accuracy at each validation, with the seconds of training so far."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.spent = 0.0
        self.since: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count."""
        self.since = time.process_time()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop while accuracy is measured."""
        if self.since is not None:
            self.spent += time.process_time() - self.since

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the accuracy and go on."""
        self.points.append(
            {
                "step": trainer.global_step,
                "seconds": round(self.spent, 2),
                "accuracy": round(float(trainer.callback_metrics["val/accuracy/mean"]), 4),
            }
        )
        write_json(Path(trainer.default_root_dir) / CURVE, self.points)
        if self.since is not None:
            self.since = time.process_time()


def measure(options: argparse.Namespace) -> None:
    """Run every algorithm that the results do not hold yet."""
    settings = {
        name: getattr(options, name)
        for name in ("steps", "every", "questions", "cold_start_minutes", "seed")
    }
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    if results.get("settings", settings) != settings:
        raise ConfigError(
            f"{options.out} was measured with other settings ({results['settings']}); move it "
            "away, or use those."
        )
    os.environ["SPATIAL_SSRL_QUICKSTART"] = str(options.runs)
    before = _cold_start(options)
    results = {"settings": settings, **_machine(), "algorithms": results.get("algorithms", {})}
    for name in options.algorithms:
        if name in results["algorithms"]:
            print(f"{name}: measured already")
            continue
        results["algorithms"][name] = _train(name, options, before)
        write_json(options.out, results)
        print(f"{name}: {results['algorithms'][name]['gain']} points")


def _cold_start(options: argparse.Namespace) -> list[AnswerRecord]:
    """Return the answers of the cold start, which is trained unless it is there."""
    if not (options.runs / "cold_start" / "policy").exists():
        settings = Settings(options.cold_start_minutes, options.seed, None, _questions(options))
        fit.run(["fit", *stage_arguments("cold_start", options.runs, settings)])
    # New adapters change nothing until they are trained.
    return _rl_stage("GRPO", options, steps=0, folder=options.runs / "before")


def _train(name: str, options: argparse.Namespace, before: list[AnswerRecord]) -> dict[str, Any]:
    """Train and test with one algorithm; return its curve and what it gained."""
    folder = options.runs / name
    found = compare(before, _rl_stage(name, options, options.steps, folder))
    return {
        "curve": json.loads((folder / CURVE).read_text()),
        "accuracy": found["mean"]["grpo"],
        "gain": found["mean"]["gain"],
        "tasks": {task: row["gain"] for task, row in found["tasks"].items()},
        "date": datetime.date.today().isoformat(),
        "load_average": os.getloadavg(),
    }


def _rl_stage(
    name: str, options: argparse.Namespace, steps: int, folder: Path
) -> list[AnswerRecord]:
    """Run the RL stage with one algorithm; return the answers of the policy it leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = Settings(options.cold_start_minutes, options.seed, None, _questions(options))
    cli = fit.run(
        [
            "fit",
            *stage_arguments("grpo", options.runs, settings),
            *("--trainer.max_steps", str(steps)),
            *("--trainer.val_check_interval", str(options.every)),
            *("--trainer.num_sanity_val_steps", "-1"),  # The accuracy at step 0.
            *("--trainer.default_root_dir", str(folder)),
            f"--trainer.callbacks+={Path(__file__).stem}.{Stopwatch.__name__}",
            *("--model.init_args.algorithm", str(_algorithm_file(name, options.runs))),
        ]
    )
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return read_records(folder / "records.jsonl")


def _algorithm_file(name: str, folder: Path) -> Path:
    """Write one algorithm as a config, so that it takes nothing over from the stage's own."""
    path = folder / f"{name}.yaml"
    write_json(path, {"class_path": name, "init_args": ALGORITHMS[name]})  # JSON is YAML.
    return path


def _questions(options: argparse.Namespace) -> list[str]:
    return [f"--data.evaluation.{split}_questions={options.questions}" for split in ("val", "test")]


def _machine() -> dict[str, Any]:
    return {
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("spatial-ssrl", "torch", "lightning")},
    }


def draw(out: Path) -> None:
    """Draw the accuracy of every algorithm against seconds of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = json.loads(out.read_text())
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    found = results["algorithms"].items()
    for number, (name, row) in enumerate(sorted(found, key=lambda item: -_points(item[1]))):
        seconds = [point["seconds"] for point in row["curve"]]
        accuracy = [100 * point["accuracy"] for point in row["curve"]]
        low, high = row["gain"]["ci95"]
        axes.plot(
            seconds,
            accuracy,
            marker=".",
            linestyle="-" if number < 10 else "--",
            label=f"{name}: {_points(row):+.1f} [{low:.1f}, {high:.1f}]",
        )
    settings = results["settings"]
    axes.set(
        xlabel=f"processor seconds of training ({settings['steps']} steps, one thread)",
        ylabel="held-out accuracy, mean of five tasks (%)",
    )
    axes.legend(title="gain over the cold start (points)", fontsize="small")
    target = out.with_suffix(".png")
    fresh = target.with_name(target.name + ".new")
    figure.savefig(fresh, dpi=120, format="png")
    fresh.replace(target)


def _points(row: dict[str, Any]) -> float:
    points: float = row["gain"]["points"]
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("run", "draw"))
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--steps", type=int, default=200, help="RL steps of each")
    parser.add_argument("--every", type=int, default=50, help="steps between validations")
    parser.add_argument("--questions", type=int, default=200, help="held-out questions a task")
    parser.add_argument(
        "--cold-start-minutes", type=float, default=10.0, help="budget, as of the quick-start"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--runs", type=Path, default=RUNS, help="folder of the runs; a quick-start's serves too"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results; the figure beside them")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))  # so that the Trainer can name the callback
    if options.part == "run":
        measure(options)
    draw(options.out)


if __name__ == "__main__":
    main()
