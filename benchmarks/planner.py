"""Predicted against measured peak memory: three families, LoRA, QLoRA and full fine-tuning.

    python benchmarks/planner.py            # goes on where it was stopped
    python benchmarks/planner.py --afresh

On a CPU, by the records of PyTorch's allocator. Models have 5 to 30 M random weights, prompts
several hundred tokens. Results go to benchmarks/planner.json.
"""

from __future__ import annotations

import datetime
import itertools
import json
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import transformers
from compared_memory import ADAPTATIONS, predicted_and_measured
from small_models import FAMILIES, question, write

from spatial_ssrl.core.files import write_json
from spatial_ssrl.planning import Step

RESULTS = Path(__file__).with_suffix(".json")
# Several passes of two questions: vision, caches, logits and gradients all count.
STEP = Step(questions=4, group_size=4, completion=64, micro_batch=2)


def compare(
    folder: Path, adaptation: str, step: Step, checkpointing: bool
) -> dict[str, dict[str, float]]:
    """Return predicted and measured peaks of a model in a folder, in MiB, and their ratios."""
    questions = [question(f"question {number}") for number in range(step.questions)]
    policy = ADAPTATIONS[adaptation] | {"gradient_checkpointing": checkpointing}
    with tempfile.TemporaryDirectory() as scratch:
        predicted, measured = predicted_and_measured(folder, policy, step, questions, Path(scratch))
    found = {}
    for stage, peak in (("sampling", predicted.sampling), ("update", predicted.update)):
        assert peak is not None
        found[stage] = {
            "predicted_mib": round(peak.total / 2**20, 2),
            "measured_mib": round(measured[stage] / 2**20, 2),
            "ratio": round(peak.total / measured[stage], 3),
        }
    return found


def main() -> None:
    """Compare what was not compared yet, print and write."""
    warnings.filterwarnings("ignore")
    afresh = "--afresh" in sys.argv or not RESULTS.exists()
    rows: list[dict[str, Any]] = [] if afresh else json.loads(RESULTS.read_text())["results"]
    known = {(row["family"], row["adaptation"], row["gradient_checkpointing"]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        for case in itertools.product(FAMILIES, ADAPTATIONS, (False, True)):
            if case in known:
                continue
            family, adaptation, checkpointing = case
            folder = Path(scratch, family)
            if not folder.exists():
                write(folder, family)
            row = {
                "family": family,
                "adaptation": adaptation,
                "gradient_checkpointing": checkpointing,
                **compare(folder, adaptation, STEP, checkpointing),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_json(RESULTS, _summary(rows))
    summary = _summary(rows)
    print(f"ratios from {summary['lowest_ratio']} to {summary['highest_ratio']}")


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ratios = [row[stage]["ratio"] for row in rows for stage in ("sampling", "update")]
    return {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bitsandbytes": bitsandbytes.__version__,
        "step": asdict(STEP),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
        "results": rows,
    }


if __name__ == "__main__":
    main()
