"""The rollout engine contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.registry import Registry
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings


class RolloutEngine(ABC):
    """Samples groups of completions from a policy."""

    @abstractmethod
    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        """Sample `group_size` completions of each prompt.

        Args:
            policy: The policy to sample from, loaded.
            prompts: B prompts.
            group_size: Completions per prompt, G.
            sampling: Length limit, temperature, limits on tokens, stop texts.
            seed: Names the draw: equal seeds, prompts and weights give equal completions. A
                question's completions do not depend on which others it is sampled with.
        """


ROLLOUTS: Registry[RolloutEngine] = Registry(RolloutEngine, "rollout engine")
