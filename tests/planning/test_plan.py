"""What a plan makes of a run before it rehearses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spatial_ssrl.planning.parts import ADAPTERS
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings


@pytest.mark.parametrize("targets", [None, "all-linear", ["q_proj", "qkv"], ".*visual.*qkv"])
def test_a_saved_adapter_is_as_large_as_its_file_says(
    targets: str | list[str] | None,
    plan_of: Callable[..., Planner],
    planned_model: str,
    tmp_path: Path,
) -> None:
    lora = LoraSettings(rank=3, target_modules=targets)
    policy = HFVisionLanguagePolicy(planned_model, lora=lora)
    policy.load()
    policy.save(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()
    planner = plan_of(adapter=tmp_path / "adapter")
    found = planner.predict().update.parts[ADAPTERS]
    assert found == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
