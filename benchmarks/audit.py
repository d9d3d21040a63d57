"""Audit what the shipped tasks give away: answers, repetitions and blind guessers.

Run with `OMP_NUM_THREADS=1 python benchmarks/audit.py [--questions 1000] [--photos FOLDER]
[--only NAME] [--output benchmarks/audit.json]`. Each part is written when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from spatial_ssrl.core.files import write_json
from spatial_ssrl.data import QuestionDataset
from spatial_ssrl.data.audit import audit, facts_of, feature_sets, tables
from spatial_ssrl.images import ImageFolder, ImageSource, SyntheticScenes
from spatial_ssrl.tasks import (
    CroppedInpainting,
    DepthOrder,
    FlippedPatch,
    PretextTask,
    RelativePosition,
    ShuffledPatches,
)

FIVE = (ShuffledPatches, FlippedPatch, CroppedInpainting, DepthOrder, RelativePosition)


def parts(photos: Path | None) -> dict[str, tuple[ImageSource, Sequence[PretextTask]]]:
    """Return what is audited: pictures and tasks, by name."""
    drawn = SyntheticScenes(count=1_000_000, size=96)
    found: dict[str, tuple[ImageSource, Sequence[PretextTask]]] = {
        "varied": (drawn, [task() for task in FIVE]),
        "terse": (drawn, [task(wording="terse") for task in FIVE]),
        "matched": (drawn, [CroppedInpainting(mix="matched")]),
    }
    if photos is not None:
        folder = ImageFolder(photos, size=512)
        found["photos"] = folder, [ShuffledPatches(), FlippedPatch(), CroppedInpainting()]
    return found


def measure(
    source: ImageSource, tasks: Sequence[PretextTask], count: int, with_candidates: bool
) -> dict[str, Any]:
    """Return the audit of `count` questions a task, with the CPU time it took."""
    source.prepare()
    questions = QuestionDataset([source], tasks, seed=0, stream="audit", block=len(tasks))
    sets, started = feature_sets() if with_candidates else {}, time.process_time()
    facts = [facts_of(questions[number], sets) for number in range(count * len(tasks))]
    found = audit(facts, questions.rejections)
    settings = {
        type(task).__name__: {name: str(value) for name, value in task.settings().items()}
        for task in tasks
    }
    spent = round(time.process_time() - started, 1)
    for table in tables(found):
        Console(width=130).print(table)
    return {"task_settings": settings, "cpu_s": spent, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1000, help="questions a task")
    parser.add_argument("--photos", type=Path, help="folder of photos, audited as well")
    parser.add_argument("--only", help="one part: varied, terse, matched or photos")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    for name, (source, tasks) in parts(options.photos).items():
        if options.only not in (None, name):
            continue
        # Terse questions show the same pictures as varied ones: their candidates are known.
        found = measure(source, tasks, options.questions, with_candidates=name != "terse")
        stamp = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {
                package: version(package)
                for package in ("spatial-ssrl", "numpy", "scipy", "torch", "pillow")
            },
            "command": f"python benchmarks/audit.py --questions {options.questions} --only {name}"
            + (" --photos FOLDER" if name == "photos" else ""),
        }
        known = json.loads(options.output.read_text()) if options.output.exists() else {}
        write_json(options.output, {**known, name: {**stamp, **found}})


if __name__ == "__main__":
    main()
