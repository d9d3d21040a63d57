"""Does a model say with the same probability what another one says? Asked by plain forwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import HFVisionLanguagePolicy, families
from spatial_ssrl.policies.image_packing import followed
from spatial_ssrl.prompts import worked_answer
from spatial_ssrl.tasks import CroppedInpainting, DepthOrder, FlippedPatch

# In float32 the order of sums moves log-probabilities by some 1e-6 in small models and 1e-4 in
# large ones; an adapter that is missing or scaled wrongly moves them by more than this.
TOLERANCE = 1e-3

_SIDE = 96  # pixels of a drawn scene; a whole picture costs no more than a prompt's text


@lru_cache(maxsize=1)
def questions() -> tuple[Question, ...]:
    """Return a question of three tasks each, about drawn scenes; one with several pictures."""
    scenes = SyntheticScenes(count=3, size=_SIDE)
    tasks = (FlippedPatch(), CroppedInpainting(), DepthOrder())
    return tuple(
        task.make(scenes.scene(number), rng_for(0, "export", number))
        for number, task in enumerate(tasks)
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A trained policy's log-probabilities of a few answers, to compare others with.

    Neither prompts nor caches are shared, and models compute their own positions, so that nothing
    of this library stands between the weights and the numbers.

    Args:
        prompts: One question each, with its worked answer as target.
        trained: Log-probability of each token of the answers, one after another, shape (tokens,),
            float32.
        tolerance: Largest difference allowed, in nats.
    """

    prompts: tuple[PromptBatch, ...]
    trained: Tensor
    tolerance: float

    @staticmethod
    def of(policy: HFVisionLanguagePolicy, tolerance: float) -> Comparison:
        """Ask a policy.

        Args:
            policy: The policy, loaded.
            tolerance: Largest difference allowed, above 0.
        """
        if not tolerance > 0:
            raise ConfigError(f"tolerance must be above 0, got {tolerance}.")
        collate = policy.collator(worked_answer)
        prompts = tuple(collate([question]) for question in questions())
        return Comparison(prompts, answer_logprobs(policy.model, prompts), tolerance)

    def logprobs(self, model: PreTrainedModel | PeftModel) -> Tensor:
        """Return the log-probabilities that a model gives the same tokens, shape (tokens,)."""
        return answer_logprobs(model, self.prompts)

    def difference(self, model: PreTrainedModel | PeftModel) -> float:
        """Return the largest difference between a model and the trained policy, in nats."""
        return float((self.logprobs(model) - self.trained).abs().max())

    def check(
        self, model: PreTrainedModel | PeftModel, what: str, expected: Tensor | None = None
    ) -> float:
        """Return the largest difference between a model and what is expected of it, in nats.

        Args:
            model: The model.
            what: What to call it in a message, as the beginning of a sentence.
            expected: Shape (tokens,), float32; None takes those of the trained policy.

        Raises:
            ConfigError: If it is above the tolerance.
        """
        wanted = self.trained if expected is None else expected
        difference = float((self.logprobs(model) - wanted).abs().max())
        if not difference <= self.tolerance:  # A NaN is no agreement.
            raise ConfigError(
                f"{what} would not be the trained policy: log-probabilities of {len(wanted)} "
                f"answer tokens differ by up to {difference:.2g}, more than tolerance = "
                f"{self.tolerance:g}. Nothing was written."
            )
        return difference


@torch.no_grad()
def answer_logprobs(model: PreTrainedModel | PeftModel, prompts: tuple[PromptBatch, ...]) -> Tensor:
    """Return the log-probability of each token of answers, by the model's own forward.

    Args:
        model: A transformers model, with adapters or without.
        prompts: One question each, with its answer as target.

    Returns:
        Of all answers one after another, shape (tokens,), float32.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    known = families.accepted_inputs(cast(PreTrainedModel, base))
    return torch.cat([_logprobs(model, prompt, known) for prompt in prompts])


def _logprobs(model: nn.Module, prompt: PromptBatch, known: frozenset[str]) -> Tensor:
    assert prompt.targets is not None
    answer, length = prompt.targets[0], prompt.targets.shape[1]
    ids = torch.cat([prompt.input_ids, prompt.targets], dim=1)
    inputs = followed(prompt, known, length)
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs)
    scores: Tensor = output.logits[0, -length - 1 : -1].float().log_softmax(dim=-1)
    return scores.gather(1, answer[:, None])[:, 0]
