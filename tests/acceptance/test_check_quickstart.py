"""The check of a quick-start's results passes what is good and names what is not."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spatial_ssrl.evaluation.report import compare
from spatial_ssrl.training import AnswerRecord

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("check", ROOT / ".ci" / "check_quickstart.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)

Change = Callable[[dict[str, Any]], None]


def answers(share: float) -> list[AnswerRecord]:
    """Return a thousand answers a task, `share` of them right."""
    return [
        AnswerRecord(
            uid=f"{task}-{number}",
            task=task,
            chance=0.25,
            correct=number < 1000 * share,
            completion="",
            answer="A",
            parsed="A",
            reward=1.0,
            truncated=False,
        )
        for task in sorted(check.TASKS)
        for number in range(1000)
    ]


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return compare(answers(0.5), answers(0.6)) | {"seconds": {"grpo": 1.0}}


def row(task: str, part: str, **values: object) -> Change:
    return lambda results: results["tasks"][task][part].update(values)


def flat(*tasks: str) -> Change:
    def change(results: dict[str, Any]) -> None:
        for task in tasks:
            results["tasks"][task]["gain"]["ci95"] = [-1.0, 11.0]

    return change


def test_a_good_result_passes(
    good: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(good))
    assert check.main(path) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    good_enough = copy.deepcopy(good)
    flat("depth_order", "flipped_patch")(good_enough)
    assert check.missed_bars(good_enough) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda results: results["tasks"].pop("depth_order"), "there must be five"),
        (lambda results: results["tasks"]["depth_order"].update(n=999), "999 questions"),
        (row("depth_order", "grpo", ci95=[0.29, 0.61]), "depth_order: after GRPO only 4.0 points"),
        (row("depth_order", "gain", points=-8, ci95=[-9, -7]), "depth_order: lost 8.0 points"),
        (row("depth_order", "gain", points=9.0), "is not the difference"),
        (flat("depth_order", "flipped_patch", "shuffled_patches"), "2 tasks gained; 3 must"),
        (lambda results: results["mean"]["gain"].update(points=2.9), "mean gain is 2.9 points"),
    ],
)
def test_each_bar_is_named(
    good: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Change,
    said: str,
) -> None:
    results = copy.deepcopy(good)
    change(results)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert check.main(path) == 1
    assert said in capsys.readouterr().err
