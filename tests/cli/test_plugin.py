"""A package outside the repository adds a task; a config names it; it trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from support.plugin import write_plugin

if TYPE_CHECKING:
    from conftest import RunFile

TESTS = Path(__file__).parents[1]


def test_a_task_from_outside_trains_by_its_bare_class_name(run_file: RunFile) -> None:
    write_plugin(run_file.folder)
    run_file.set("data.init_args.tasks", ["FlippedPatch", "CountStripes"])
    run_file.set("trainer.log_every_n_steps", 1)
    done = subprocess.run(
        [sys.executable, "-m", "spatial_ssrl", "fit", "-c", run_file.write()],
        env=os.environ | {"PYTHONPATH": f"{run_file.folder}{os.pathsep}{TESTS}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (run_file.folder / "run").rglob("metrics.csv")
    header, *rows = path.read_text().splitlines()
    assert "train/accuracy/count_stripes" in header
    assert len(rows) == 2
    (path,) = (run_file.folder / "run").rglob("config.yaml")
    tasks = yaml.safe_load(path.read_text())["data"]["init_args"]["tasks"]
    assert tasks[1] == {"class_path": "stripes_plugin.CountStripes", "init_args": {"most": 4}}
