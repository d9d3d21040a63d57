"""Each notebook is made from its script, is small, and runs from top to bottom."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from nbformat import read

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SCRIPTS = sorted((NOTEBOOKS / "src").glob("*.py"))

every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_notebooks", NOTEBOOKS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_notebook_has_a_script() -> None:
    assert [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))] == [
        script.stem for script in SCRIPTS
    ]
    assert len(SCRIPTS) >= 2


@every_notebook
def test_it_is_what_its_script_says(script: Path, build: ModuleType) -> None:
    notebook = read(NOTEBOOKS / f"{script.stem}.ipynb", 4)
    assert build.cells(notebook) == build.cells(build.from_script(script))


@every_notebook
def test_it_is_small_and_was_run(script: Path, build: ModuleType) -> None:
    path = NOTEBOOKS / f"{script.stem}.ipynb"
    assert path.stat().st_size < build.LIMIT_BYTES
    code = [cell for cell in read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "/tmp" not in path.read_text()


@every_notebook
def test_it_runs(script: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPATIAL_SSRL_NOTEBOOK_BUDGET", "0.01")
    done = build.run(build.from_script(script), timeout_s=300)
    kinds = [output.output_type for cell in done.cells for output in cell.get("outputs", [])]
    assert "execute_result" in kinds
    assert "error" not in kinds
