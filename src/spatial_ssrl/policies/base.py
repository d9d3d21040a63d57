"""The policy backbone contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache, DynamicCache

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.registry import Registry
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.group_cache import GroupCache
from spatial_ssrl.policies.sampling import SamplingSettings

if TYPE_CHECKING:
    from spatial_ssrl.policies.fixed_step import FixedStep

Trained = Literal["adapters", "pretrained", "scratch"]
"""What learns: adapters, every weight of a pretrained model, or a model that knows nothing."""

Collator = Callable[[Sequence[Question]], PromptBatch]
"""Turns questions into a prompt batch; picklable, so that data workers can hold it."""

Preparer = Callable[[Question], Question]
"""Makes a question fit what a policy can read, or raises SceneRejected; picklable too."""


@dataclass(frozen=True, slots=True)
class ReadState:
    """What a policy keeps of the rows it has read so far: enough to continue any of them.

    Rows are prompts at first; `select` repeats, drops or reorders them, which is how one
    reading of a prompt serves its whole group. Gradients flow through it.

    Args:
        cache: Keys and values of R rows, T positions.
        mask: True on real tokens, shape (R, T), bool; rows are left padded.
        position: Position of the next token of each row, shape (R,), int64.
        hidden: Last hidden state of each row's last token, shape (R, d).
    """

    cache: Cache
    mask: Tensor
    position: Tensor
    hidden: Tensor

    def select(self, rows: Tensor) -> ReadState:
        """Return the state of rows `rows`, shape (R',), int64, which may repeat.

        Gradients of repeated rows add up in one order: the backward pass of plain indexing adds
        them atomically from several threads, which makes two equal runs differ.
        """
        if isinstance(self.cache, GroupCache):
            return self._with(self.cache.select(rows), rows)
        cache = DynamicCache()
        layers: list[Any] = self.cache.layers  # Any: typed as a union most of which has no keys
        for index, layer in enumerate(layers):
            cache.update(
                layer.keys.index_select(0, rows), layer.values.index_select(0, rows), index
            )
        return self._with(cache, rows)

    @staticmethod
    def keeping_prompts_once(states: Sequence[ReadState]) -> ReadState:
        """Return what these states have read, rows being prompts, each to be kept only once.

        For sampling: gradients do not flow through what continues it.
        """
        longest = max(state.mask.shape[1] for state in states)
        masks = [pad(state.mask, (longest - state.mask.shape[1], 0)) for state in states]
        return ReadState(
            cache=GroupCache.of([state.cache for state in states]),
            mask=torch.cat(masks),
            position=torch.cat([state.position for state in states]),
            hidden=torch.cat([state.hidden for state in states]),
        )

    def _with(self, cache: Cache, rows: Tensor) -> ReadState:
        return replace(
            self,
            cache=cache,
            mask=self.mask[rows],
            position=self.position[rows],
            hidden=self.hidden.index_select(0, rows),
        )


class PolicyBackbone(nn.Module, ABC):
    """A vision-language model that can be sampled from, scored and adapted.

    The constructor stores settings only; `load` brings the weights, so that configs parse and
    components are listed without any.

    Attributes:
        shares_prompts: Whether scoring reads each prompt once per group; False repeats it for
            each completion, for models that sharing does not hold for.
        tokens: What sampling and scoring have read since it was last set; only ever added to,
            so whoever logs it takes differences or sets it back.
    """

    shares_prompts: bool = True
    tokens: TokenCount = TokenCount()

    @abstractmethod
    def load(self) -> None:
        """Load or build weights, processor and adapters; does nothing the second time.

        Raises:
            ConfigError: If the model or its processor cannot be had; says what was looked for
                and where.
        """

    @property
    def trained(self) -> Trained:
        """What training changes, known before `load`; default learning rates go by it."""
        return "pretrained"

    @abstractmethod
    def collator(self, answer_of: Callable[[Question], str] | None = None) -> Collator:
        """Return the picklable collator of this policy's processor; needs no weights.

        Args:
            answer_of: Picklable function that gives the completion to learn from (cold start);
                its text and the end token become `targets`. None leaves `targets` out.
        """

    def preparer(
        self, answer_of: Callable[[Question], str] | None = None, new_tokens: int = 0
    ) -> Preparer | None:
        """Return what fits questions to what this policy can read, or None if it reads all.

        Args:
            answer_of: As in `collator`; its text must fit too.
            new_tokens: Tokens a sampled completion may have.
        """
        return None

    @abstractmethod
    def read(self, prompts: PromptBatch) -> ReadState:
        """Run the vision tower and the language model over each prompt once."""

    @abstractmethod
    def read_on(self, state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        """Continue rows that were read with further tokens.

        Args:
            state: What was read so far, R rows. Consumed: its cache may be extended in place.
            tokens: Next tokens of each row, right padded, shape (R, K), int64.
            mask: True on real tokens, shape (R, K), bool.

        Returns:
            The state after the tokens, and the last hidden state at each of them, (R, K, d).
        """

    @property
    def keeps_prompts_once(self) -> bool:
        """Whether states made `for_sampling` keep a prompt once, however many rows continue it."""
        return False

    def for_sampling(self, states: Sequence[ReadState]) -> ReadState:
        """Return a state that continues as these do, without gradient, token by token.

        Args:
            states: What was read, rows being prompts. Where `keeps_prompts_once` is true there
                may be several, whose rows follow one another; otherwise there is one.
        """
        (state,) = states
        return state

    @property
    def has_fixed_steps(self) -> bool:
        """Whether there are steps of decoding that can be recorded: see `fixed_step`."""
        return False

    def fixed_step(self, state: ReadState, room: int) -> FixedStep:
        """Return a step of decoding that can be recorded, such as by a CUDA graph.

        Args:
            state: Made `for_sampling`, or selected from such a one.
            room: Tokens of completions there is to be room for.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fixed steps.")

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, shape (..., V), float32, from hidden states (..., d).

        Media placeholders are -inf: they can never be sampled, on any engine.
        """

    @abstractmethod
    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> Tensor:
        """Return the log-probability of each completion token, shape (N, C), float32.

        The prompt and the vision tower run once per group. 0 on padding. Carries gradients
        when they are enabled.

        Args:
            prompts: B prompts.
            rollouts: Their completions, N = B * G rows.
            sampling: The distribution asked about: that of sampling, whose temperature and
                limits change probabilities. 0 counts as temperature 1.
        """

    def tokens_read(self, prompts: Sequence[int], completions: Sequence[Sequence[int]]) -> int:
        """Return the tokens that `logprobs` reads in one pass, padding included.

        Args:
            prompts: Length of each question's prompt.
            completions: Length of each distinct completion of each question.
        """
        count = sum(len(group) for group in completions)
        return count * (max(prompts) + max(max(group) for group in completions))

    @abstractmethod
    def select(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        """Return the prompts of questions `rows`, in that order, with their share of images.

        Rows need not be neighbours: an update leaves out groups that carry no signal.
        """

    def slice(self, prompts: PromptBatch, start: int, stop: int) -> PromptBatch:
        """Return the prompts of questions [start, stop), with their share of packed images."""
        return self.select(prompts, range(start, stop))

    @abstractmethod
    def decode(self, tokens: Tensor, mask: Tensor) -> tuple[str, ...]:
        """Return the text of each row of tokens, (N, C), special tokens left out."""

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Width of `logits`."""

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """Tokens that stand for pictures or frame them; empty unless a policy names them."""
        return ()

    @property
    @abstractmethod
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens any of which ends a completion."""

    @abstractmethod
    def reference(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is what it was as RL began; no second model."""

    @abstractmethod
    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name, for checkpoints."""

    @abstractmethod
    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `trainable_state` returned; raises on missing or unexpected names."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the adapter (PEFT layout) or the whole model, and the processor.

        Takes the place of a policy saved there earlier, in one go; refuses anything else.
        """

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter alone (PEFT layout) into an empty folder, beside each checkpoint.

        Asked for only where "adapters" are `trained`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no adapter to save.")


POLICIES: Registry[PolicyBackbone] = Registry(PolicyBackbone, "policy")
