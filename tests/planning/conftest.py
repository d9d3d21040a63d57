"""A tiny run to plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings
from spatial_ssrl.tasks import FlippedPatch
from spatial_ssrl.training import RLModule, UpdateSettings
from support.tiny_models import write_tiny


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """Return a planner of a run on a CPU: what it needs is that of its tensors."""
    folder = write_tiny(tmp_path / "model")
    module = RLModule(
        HFVisionLanguagePolicy(str(folder), lora=LoraSettings(rank=4)),
        GRPO(),
        group_size=4,
        sampling=SamplingSettings(max_new_tokens=64),
        update=UpdateSettings(micro_batch_size=4, self_check=False),
    )
    data = PretextDataModule(
        images=[ImageFolder("nowhere", size=96)], tasks=[FlippedPatch()], batch_size=4
    )
    return Planner(module, data, cuda=False)
