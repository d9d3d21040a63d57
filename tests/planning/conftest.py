"""A tiny run to plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.tasks import FlippedPatch
from spatial_ssrl.training import RLModule, UpdateSettings
from support.tiny_models import write_tiny


@pytest.fixture(scope="session")
def planned_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("planned") / "model"))


@pytest.fixture
def plan_of(planned_model: str) -> Callable[..., Planner]:
    """Return what plans a run on a CPU, where what it needs is that of its tensors."""

    def plan_of(
        batch_size: int = 4,
        group_size: int = 4,
        max_new_tokens: int = 64,
        batch_tokens: int | None = None,
        micro_batch_size: int = 4,
        micro_batch_tokens: int | None = None,
        **policy: Any,
    ) -> Planner:
        module = RLModule(
            HFVisionLanguagePolicy(planned_model, lora=LoraSettings(rank=4), **policy),
            GRPO(),
            InProcess(batch_tokens),
            group_size=group_size,
            sampling=SamplingSettings(max_new_tokens=max_new_tokens),
            update=UpdateSettings(
                micro_batch_size=micro_batch_size,
                micro_batch_tokens=micro_batch_tokens,
                self_check=False,
            ),
        )
        data = PretextDataModule(
            images=[ImageFolder("nowhere", size=96)], tasks=[FlippedPatch()], batch_size=batch_size
        )
        return Planner(module, data, cuda=False)

    return plan_of


@pytest.fixture
def planner(plan_of: Callable[..., Planner]) -> Planner:
    return plan_of()
