from __future__ import annotations

from pathlib import Path

# Imported before any test captures output: its log handler keeps the stream it finds.
import lightning.pytorch  # noqa: F401
import pytest

from support.run_files import RunFile


@pytest.fixture
def run_file(tmp_path: Path) -> RunFile:
    """A config of two RL steps."""
    return RunFile(tmp_path)
