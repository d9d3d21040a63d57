"""Makes the notebooks from the scripts in `src` and runs them.

Usage: python notebooks/build.py [--check] [NAME ...]

Without `--check` every notebook (or those named, such as 02_add_a_task) is written and run. With
it nothing is written or run; it fails if a notebook's cells are not those of its script.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbclient
from nbformat import NotebookNode, read, write

HERE = Path(__file__).parent
LIMIT_BYTES = 500_000


def from_script(script: Path) -> NotebookNode:
    """Return a script as a notebook without outputs, the same at every call."""
    notebook = jupytext.read(script)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    return notebook


def run(notebook: NotebookNode, timeout_s: int = 900) -> NotebookNode:
    """Run a notebook in a folder of its own kernel; raises on the first cell that fails."""
    client = nbclient.NotebookClient(notebook, timeout=timeout_s, kernel_name="python3")
    done: NotebookNode = client.execute(cwd=str(HERE))
    for cell in done.cells:
        cell.metadata = {}  # Times of execution would differ at every run.
    return done


def cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Return what a reader sees of a notebook before it runs."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def main(args: list[str]) -> int:
    """Write or check the notebooks; return the exit code."""
    names = [arg for arg in args if not arg.startswith("--")]
    failed = 0
    for script in sorted((HERE / "src").glob("*.py")):
        if names and script.stem not in names:
            continue
        target = HERE / f"{script.stem}.ipynb"
        if "--check" in args:
            same = target.exists() and cells(read(target, 4)) == cells(from_script(script))
            print(f"{target.name}: {'as its script' if same else 'differs; run build.py'}")
            failed += not same
            continue
        write(run(from_script(script)), target)
        size = target.stat().st_size
        print(f"{target.name}: {size // 1000} KB")
        failed += size > LIMIT_BYTES
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
