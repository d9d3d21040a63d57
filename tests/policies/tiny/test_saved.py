"""A TinyVLM comes back from its folder as it was, ready for adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import LoraSettings, TinyVLM


def test_a_saved_policy_computes_the_same(tmp_path: Path) -> None:
    policy = TinyVLM(seed=3)
    policy.load()
    policy.save(tmp_path / "policy")
    again = TinyVLM(model=tmp_path / "policy", lora=LoraSettings(rank=2))
    again.load()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    question = Question("u", "flipped_patch", (image,), "<image>Which?", "1", "text")
    with torch.no_grad():
        hidden, back = (p.read(p.collator()([question])).hidden for p in (policy, again))
    torch.testing.assert_close(back, hidden, atol=1e-5, rtol=1e-5)
