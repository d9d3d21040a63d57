"""`spatial-ssrl quickstart`: from drawn pictures to a policy that learned, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from spatial_ssrl import __version__
from spatial_ssrl.cli import fit
from spatial_ssrl.cli.shipped import shipped_config
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.evaluation.curves import draw_curves
from spatial_ssrl.evaluation.report import compare, comparison_table
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.training.callbacks.question_records import read_records
from spatial_ssrl.training.held_out import AnswerRecord

STAGES = {"cold_start": "cold start", "grpo": "GRPO"}

_RECORD = "quickstart.json"
_SECONDS = "seconds.json"
_RESULTS = ("results.json", "curves.png", "questions.png")
_BUDGET_MINUTES = 10.0  # What the step counts of the shipped configs take on two CPU cores.
_SHEET_ROWS = 4  # Questions of each task on the contact sheet.


@dataclass(frozen=True)
class Settings:
    """What makes one quick-start differ from another; a resumed one must agree.

    Args:
        minutes: Budget that the step counts are scaled to.
        seed: Seed of the weights, the training questions and the completions.
        images: Folder of further photos, or None.
        overrides: Options of every stage that differ from the shipped configs.
    """

    minutes: float
    seed: int
    images: str | None
    overrides: list[str] = field(default_factory=list)


def quickstart(
    minutes: float = _BUDGET_MINUTES,
    seed: int = 0,
    images: Path | None = None,
    out: Path = Path("runs/quickstart"),
    restart: bool = False,
    overrides: list[str] | None = None,
) -> None:
    """Train a small policy from scratch on drawn scenes and measure what it learned.

    Makes scenes, teaches a policy of 1 M parameters the form of the answers (cold start),
    trains LoRA adapters with GRPO, and evaluates both on scenes neither has seen. No network,
    no GPU. Run the same command again to go on after an interruption.

    Args:
        minutes: Rough training time on two CPU cores. Budgets are counted in steps, so a seed
            gives the same result however long they take.
        seed: Seed of the weights, the training questions and the completions.
        images: Folder of your own photos, added to the tasks that need no depth.
        out: Folder for everything the run writes.
        restart: Delete what `out` holds of an earlier quick-start and begin again.
        overrides: Options for both stages that change the shipped configs, written as for
            `spatial-ssrl fit`, such as `["--data.evaluation.test_questions=200"]`.
    """
    if minutes <= 0:
        raise ConfigError(f"minutes must be above 0, got {minutes}.")
    if images is not None:
        ImageFolder(images).prepare()  # Says what is wrong before minutes of drawing scenes.
    photos = None if images is None else str(images.resolve())
    settings = Settings(minutes, seed, photos, overrides or [])
    console = Console()
    _claim(out, settings, restart)
    os.environ["SPATIAL_SSRL_QUICKSTART"] = str(out)  # Where the shipped configs write.
    try:
        for number, stage in enumerate(STAGES, 1):
            console.rule(f"{number} of {len(STAGES)}: {STAGES[stage]}", align="left")
            _run_stage(stage, out, settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Stopped. Run the same command again to go on.") from None
    results = _report(out, settings)
    console.print(comparison_table(results))
    for name in _RESULTS:
        console.print(f"[green]wrote[/green] {out / name}")


def _claim(out: Path, settings: Settings, restart: bool) -> None:
    """Take a folder for this run, or find in it the same run begun earlier."""
    record = out / _RECORD
    # Without a record the folder is no quick-start's, and what it holds is not ours to delete.
    if restart and record.exists():
        for name in (*STAGES, "scenes", "held_out", "photos"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in (*_RESULTS, _SECONDS, _RECORD):
            (out / name).unlink(missing_ok=True)
    # A run that failed before its first checkpoint binds nobody to its settings.
    if record.exists() and any(_last(out / stage).exists() for stage in STAGES):
        earlier = json.loads(record.read_text(encoding="utf-8"))
        if earlier != asdict(settings):
            told = ", ".join(f"{name} {value}" for name, value in earlier.items())
            raise ConfigError(
                f"out: {str(out)!r} holds a quick-start with other settings ({told}); choose "
                "another folder with --out, or replace it with --restart true."
            )
        return
    try:
        write_json(record, asdict(settings))
    except OSError as error:
        raise ConfigError(
            f"out: {str(out)!r} cannot be written ({error.strerror}); choose another folder."
        ) from error


def _run_stage(stage: str, out: Path, settings: Settings) -> None:
    """Train and test one stage, from its last checkpoint if there is one."""
    folder = out / stage
    if (folder / "records.jsonl").exists():
        return
    arguments = ["fit", *stage_arguments(stage, out, settings)]
    if _last(folder).exists():
        arguments += ["--ckpt_path", str(_last(folder))]
    else:
        shutil.rmtree(folder, ignore_errors=True)
    started, handler = time.monotonic(), signal.getsignal(signal.SIGINT)
    try:
        cli = fit.run(arguments)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    except SystemExit as stop:  # How the Trainer leaves a test that Ctrl-C interrupts.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)  # The Trainer stops listening as it shuts down.
        _add_seconds(out, stage, time.monotonic() - started)


def _last(folder: Path) -> Path:
    """Return the checkpoint from which a stage goes on."""
    return folder / "checkpoints" / "last.ckpt"


def _add_seconds(out: Path, stage: str, spent: float) -> None:
    """Add to the time a stage took, over all sittings."""
    known = _seconds(out)
    write_json(out / _SECONDS, {**known, stage: round(known.get(stage, 0.0) + spent, 1)})


def _seconds(out: Path) -> dict[str, float]:
    path = out / _SECONDS
    known: dict[str, float] = {}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
    return known


def stage_arguments(stage: str, out: Path, settings: Settings) -> list[str]:
    """Return the options of `spatial-ssrl fit` that run one stage.

    Args:
        stage: Key of `STAGES`.
        out: Folder of the run.
        settings: Budget, seed, photos and overrides.
    """
    config = shipped_config(f"quickstart/{stage}.yaml")
    steps = scaled_steps(config, settings.minutes)
    arguments = [
        *("-c", str(config)),
        *("--seed_everything", str(settings.seed)),
        *("--data.seed", str(settings.seed)),
        *("--trainer.max_steps", str(steps)),
        *("--trainer.val_check_interval", str(max(1, steps // 5))),
        "--trainer.callbacks+=StopBetweenSteps",
    ]
    seeded = "--model.policy.init_args.seed" if stage == "cold_start" else "--model.seed"
    arguments += [seeded, str(settings.seed)]
    if settings.images is None:
        return [*arguments, *settings.overrides]
    photos = "--data.images.source"
    return [
        *arguments,
        *("--data.image_weights", "[0.7, 0.3]"),
        *settings.overrides,
        # Last, so that an override of `data.images` speaks of the drawn scenes.
        *("--data.images+", "CachedScenes"),
        *("--data.images.folder", str(out / "photos")),
        *(photos, "ImageFolder"),
        *(f"{photos}.folder", settings.images),
        *(f"{photos}.size", "64"),
        *(f"{photos}.square", "true"),
    ]


def scaled_steps(config: Path, minutes: float) -> int:
    """Return the steps of a stage for a budget, from its config's own steps."""
    return max(2, round(_steps(config) * minutes / _BUDGET_MINUTES))


def _steps(config: Path) -> int:
    steps: int = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["max_steps"]
    return steps


def _report(out: Path, settings: Settings) -> dict[str, Any]:
    """Write the results, the learning curves and the contact sheet."""
    records = {stage: read_records(out / stage / "records.jsonl") for stage in STAGES}
    results: dict[str, Any] = {
        **compare(records["cold_start"], records["grpo"]),
        "settings": asdict(settings),
        "steps": {stage: _steps(out / stage / "config.yaml") for stage in STAGES},
        "seconds": _seconds(out),
        "versions": {
            "spatial_ssrl": __version__,
            **{
                name: version(name)
                for name in ("torch", "transformers", "peft", "timm", "lightning")
            },
        },
    }
    write_json(out / "results.json", results)
    chances = {task: row["chance"] for task, row in results["tasks"].items()}
    draw_curves(
        {title: out / stage for stage, title in STAGES.items()}, chances, out / "curves.png"
    )
    arguments = stage_arguments("grpo", out, settings)
    _draw_answers(records["grpo"], fit.build_data(arguments), out / "questions.png")
    return results


def _draw_answers(records: list[AnswerRecord], data: Any, out: Path) -> None:
    """Draw the first held-out questions of each task with what the policy wrote."""
    data.prepare_data()
    questions = data.held_out_questions("test")
    by_uid = {record.uid: record for record in records}
    items = []
    for index in range(min(_SHEET_ROWS * len(questions.tasks), len(records))):
        question = questions[index]
        record = by_uid[question.uid]
        verdict = "right" if record.correct else "wrong"
        items.append(
            SheetItem(
                question,
                captions=(record.completion, verdict),
                verdict="right" if record.correct else "wrong",
            )
        )
    draw_sheet(items, out, _SHEET_ROWS, title="Held-out questions and the policy's answers")
