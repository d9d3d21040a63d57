from __future__ import annotations

import os

# No test may reach for the network; set before anything imports the hub client.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Models here are so small that a second thread costs more than it brings: with another process
# on the machine, tests took eight times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Qwen2.5-VL with its real processor."""
    from support.tiny_models import write_tiny

    return write_tiny(tmp_path_factory.mktemp("models") / "tiny-qwen2.5-vl")
