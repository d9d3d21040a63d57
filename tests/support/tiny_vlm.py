"""A TinyVLM that tests can see through, and questions to ask it."""

from __future__ import annotations

from typing import Any

import torch

from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import TinyVLM
from support.tiny_models import random_question


def loud_policy(**settings: Any) -> TinyVLM:
    """Return a loaded policy of two layers, weights so large that a misread token shows."""
    defaults: dict[str, Any] = {"image_size": 32, "hidden_size": 32, "layers": 2, "heads": 2}
    policy = TinyVLM(**(defaults | settings))
    policy.load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "language_model.layers" in name and parameter.dim() > 1:
                parameter.normal_(std=0.3, generator=generator)
    return policy


def mixed_questions() -> list[Question]:
    """Return questions of one, three and two pictures and of mixed length."""
    return [
        random_question(1, "Which patch?", seed=1),
        random_question(3, "Order them from the nearest to the farthest. Such as 1,2,3.", seed=2),
        random_question(2, "", seed=3),
    ]
