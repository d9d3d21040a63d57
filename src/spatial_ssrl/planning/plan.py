"""What a run needs, and how much larger it may be."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import TypeAlias

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.planning.known import find_model
from spatial_ssrl.planning.ledger import Peak
from spatial_ssrl.planning.prediction import Prediction, Predictor
from spatial_ssrl.planning.questions import LargestQuestion, largest_question
from spatial_ssrl.planning.rehearsal import Rehearsal, Step, unloaded_twin
from spatial_ssrl.planning.second_process import SecondProcess, can_have_second_process
from spatial_ssrl.planning.source import GhostSource
from spatial_ssrl.policies.adapters import LoraSettings
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.policies.lora_targets import ALL_LINEAR, as_expression
from spatial_ssrl.policies.pixel_budget import PixelBudget
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.training import PolicyModule, RLModule

# What a card holds besides tensors, which cannot be rehearsed. Assumptions, not measurements.
CUDA_CONTEXT = 600 * 2**20  # driver, kernels and the workspaces of libraries
FRAGMENTATION = 0.05  # share of all tensors that the allocator reserves and cannot use

# Rank of an adapter that is not there yet, on all linear layers: as the cold start that comes with
# the library makes it.
_RANK = 128

# Tokens of a worked answer of the cold start.
_WORKED_ANSWER = 256


@dataclass(frozen=True, slots=True)
class Overheads:
    """Memory of a card that is not that of tensors.

    Args:
        context: Bytes of the CUDA context.
        fragmentation: Bytes that are reserved and not used.
    """

    context: int
    fragmentation: int

    @staticmethod
    def of(tensors: int, cuda: bool) -> Overheads:
        """Return what is assumed beside so many bytes of tensors."""
        return Overheads(CUDA_CONTEXT, int(FRAGMENTATION * tensors)) if cuda else Overheads(0, 0)

    @property
    def total(self) -> int:
        """Both, in bytes."""
        return self.context + self.fragmentation


_Asked: TypeAlias = tuple[Step, int | None]

_Second: TypeAlias = SecondProcess[_Asked, Peak | None]


class Planner:
    """Predicts the memory of a run and of runs like it.

    Args:
        module: The run, its policy not loaded.
        data: Its data.
        processes: How many share each batch.
        cuda: Whether it runs on a card: 4-bit weights are then multiplied in bfloat16, and the
            overheads of a card are added.
        two_processes: Whether a copy of this process may rehearse sampling while updates are
            rehearsed here; only where that is safe. Predictions are the same.

    Raises:
        ConfigError: If the policy cannot be rehearsed, or its model's sizes are not at hand.
    """

    def __init__(
        self,
        module: PolicyModule,
        data: PretextDataModule,
        processes: int = 1,
        cuda: bool = True,
        two_processes: bool = False,
    ) -> None:
        policy = module.policy
        if not isinstance(policy, HFVisionLanguagePolicy):
            raise ConfigError(
                f"model.policy is a {type(policy).__name__}; plan knows transformers models only."
            )
        self.module, self.data, self.cuda = unloaded_twin(module), data, cuda
        twin = self.module.policy
        assert isinstance(twin, HFVisionLanguagePolicy)
        self.policy = twin
        settings = self.policy.quantization
        if cuda and settings is not None and settings.compute_dtype == "auto":
            self.policy.quantization = replace(settings, compute_dtype="bfloat16")
        self.source: GhostSource | None = None
        self.assumed: tuple[str, ...] = ()
        if self.policy.source:
            source, self.assumed = find_model(policy._source())
            self.source = source
            twin._source = lambda: source  # type: ignore[method-assign]
        self.assumed += _adapter_taken_as_fresh(self.policy)
        self.question = self._largest(self.policy.max_pixels)
        self.assumed += self.question.assumed
        self.step = _step_of(self.module, -(-data.batch_size // processes))
        self._predictor = self._new_predictor()
        self._two_processes = two_processes
        self._second: _Second | None = None
        self._known: dict[tuple[Step, int | None], Prediction] = {}
        self._prompts: dict[int, PromptBatch] = {}
        self._switched: dict[str, Planner] = {}

    @property
    def largest_picture(self) -> int:
        """Pixels of the largest picture of the question, as the data give it."""
        images = self.question.prompt.questions[0].images
        return max(int(image.shape[0] * image.shape[1]) for image in images)

    @property
    def picture(self) -> int:
        """Most pixels of a picture as the policy scales it."""
        return min(self.largest_picture, self.policy.max_pixels or self.largest_picture)

    def prompt(self, max_pixels: int | None = None) -> PromptBatch:
        """Return the largest question, alone.

        Args:
            max_pixels: Bound of pictures, in place of the policy's.
        """
        if max_pixels is None:
            return self.question.prompt
        if max_pixels not in self._prompts:
            self._prompts[max_pixels] = self._largest(max_pixels).prompt
        return self._prompts[max_pixels]

    def predict(self, step: Step | None = None, max_pixels: int | None = None) -> Prediction:
        """Return the peaks of a step; by default of that which the run takes.

        Args:
            step: How large it is.
            max_pixels: Bound of pictures, in place of the policy's.
        """
        step = step or self.step
        known = self._known.get((step, max_pixels))
        if known is None:
            known = self._predicted(step, max_pixels)
            self._known[step, max_pixels] = known
        return known

    def _predicted(self, step: Step, max_pixels: int | None) -> Prediction:
        second = self._second_process()
        if second is None:
            return self._predictor.predict(self.prompt(max_pixels), step)
        second.ask((step, max_pixels))
        update = self._predictor.update(self.prompt(max_pixels), step)
        try:
            sampling = second.answer()
        except EOFError:
            self._second, self._two_processes = None, False
            sampling = self._sampling((step, max_pixels))
        return Prediction(sampling, update)

    def _sampling(self, asked: _Asked) -> Peak | None:
        step, max_pixels = asked
        return self._predictor.sampling(self.prompt(max_pixels), step)

    def _second_process(self) -> _Second | None:
        """Return what rehearses sampling, all of it, so that it finds what it did before."""
        wanted = self._two_processes and self.rehearsal.samples
        if self._second is None and wanted and can_have_second_process():
            self._second = SecondProcess(self._sampling)
        return self._second

    def switched_on(self, setting: str) -> Planner:
        """Return a planner of the run with a setting of its policy on.

        Args:
            setting: Such as `gradient_checkpointing`.
        """
        if setting not in self._switched:
            other = copy.copy(self)
            other.module = unloaded_twin(self.module)
            policy = other.module.policy
            assert isinstance(policy, HFVisionLanguagePolicy)
            setattr(policy, setting, True)
            other.policy, other._known, other._switched = policy, {}, {}
            other._predictor, other._second = other._new_predictor(), None
            self._switched[setting] = other
        return self._switched[setting]

    def needed(self, prediction: Prediction) -> int:
        """Return the bytes a card must have."""
        return self.needed_at(prediction.peak)

    def needed_at(self, peak: Peak) -> int:
        """Return the bytes a card must have at one peak."""
        return peak.total + Overheads.of(peak.total, self.cuda).total

    @property
    def rehearsal(self) -> Rehearsal:
        """The run with few layers."""
        return self._predictor.base

    def _new_predictor(self) -> Predictor:
        return Predictor(self.module, self.source, self.cuda)

    def _largest(self, max_pixels: int | None) -> LargestQuestion:
        policy = unloaded_twin(self.module).policy
        assert isinstance(policy, HFVisionLanguagePolicy)
        if max_pixels != policy.max_pixels:
            least = None if policy.min_pixels is None else min(policy.min_pixels, max_pixels or 0)
            policy._processor, policy._pixels = None, PixelBudget(least or None, max_pixels)
        collate = policy.collator(getattr(self.module, "answer_of", None))
        return largest_question(self.data, collate)


def _step_of(module: PolicyModule, questions: int) -> Step:
    learns = isinstance(module, RLModule)
    rollout = module.rollout
    return Step(
        questions=questions,
        group_size=module.group_size if isinstance(module, RLModule) else 1,
        completion=module.sampling.max_new_tokens if learns else _WORKED_ANSWER,
        micro_batch=min(module.update.micro_batch_size, questions),
        micro_batch_tokens=module.update.micro_batch_tokens,
        batch_tokens=rollout.batch_tokens if isinstance(rollout, InProcess) else None,
    )


def _adapter_taken_as_fresh(policy: HFVisionLanguagePolicy) -> tuple[str, ...]:
    """Let a policy that starts from a saved adapter have one as large; say how large."""
    if policy.adapter is None:
        return ()
    path = policy.adapter / "adapter_config.json"
    settings = policy.lora or LoraSettings(rank=_RANK, target_modules=ALL_LINEAR)
    if path.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        layers = as_expression(saved["target_modules"])
        settings = replace(settings, rank=int(saved["r"]), target_modules=layers)
        said = f"adapter: rank {settings.rank}, of {policy.adapter}"
    else:
        said = f"adapter: {policy.adapter} is not there yet; rank {settings.rank} is assumed"
    policy.adapter, policy.lora = None, settings
    return (said,)
