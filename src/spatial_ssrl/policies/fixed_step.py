"""One step of decoding over tensors that stay where they are, as recording it asks for."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spatial_ssrl.policies import families
from spatial_ssrl.policies.base import ReadState
from spatial_ssrl.policies.cache_argument import CACHE
from spatial_ssrl.policies.group_cache import GroupCache, GroupLayer, attending_to_groups


class _FixedLayer(GroupLayer):
    """Keys and values of one layer, in memory that has room for a known number of tokens.

    Args:
        layer: What was read so far.
        room: Tokens of completions there is room for.
        place: How many of them were said, shape (1,), int64; where the next one goes.
    """

    def __init__(self, layer: GroupLayer, room: int, place: Tensor) -> None:
        keys, values = (_with_room(said, layer.length, room) for said in layer.said)
        super().__init__(layer.prompt_keys, layer.prompt_values, layer.members, keys, values)
        self.place = place

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write what rows say next, (R, H, 1, d); return all there is room for."""
        for said, new in zip(self.said, (key_states, value_states), strict=True):
            said.index_copy_(2, self.place, new.to(said.dtype))
        return self.for_attention(self.said_keys[:]), self.said_values


class FixedStep:
    """A step in which every row says one token, without one shape or address that changes.

    Calling it advances all rows on the device, with nothing decided on the host: the same
    operations on the same memory each time. Keys that are not said yet are hidden by a mask, so
    attention reads the whole room; what it finds is the same.

    Args:
        network: The model; see `can_be_fixed`.
        state: What R rows have read so far, prompts kept once. Left as it is.
        room: Tokens of completions there is to be room for, more than were said.

    Attributes:
        tokens: What the rows say next, shape (R, 1), int64; to be written into.
        hidden: Last hidden state of each row, shape (R, d); written by a call.
    """

    def __init__(self, network: PreTrainedModel, state: ReadState, room: int) -> None:
        layers = [cast(GroupLayer, layer) for layer in state.cache.layers]
        rows, seen = state.mask.shape
        prompt = int(layers[0].prompt_keys.shape[2])
        device = state.mask.device
        self._network = network
        self._inner = families.inner_model(network)
        self._place = torch.tensor([seen - prompt], device=device)
        self._column = torch.tensor([seen], device=device)
        self._position = state.position.clone()
        self._seen = torch.zeros(rows, 1, 1, prompt + room, dtype=torch.bool, device=device)
        self._seen[:, 0, 0, :seen] = state.mask
        members = cast(GroupCache, state.cache).members
        self._cache = GroupCache(
            [_FixedLayer(layer, room, self._place) for layer in layers], members
        )
        self._prompt = prompt
        self.room = room
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.hidden = state.hidden.clone()

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.tokens)

    def __call__(self) -> None:
        """Let each row say its token of `tokens`."""
        self._seen.index_fill_(-1, self._column, True)
        with attending_to_groups(self._network, self._cache):
            output = self._inner(
                input_ids=self.tokens,
                # Of four dimensions: models take it as it is.
                attention_mask=self._seen,
                position_ids=families.along_axes(self._inner, self._position.unsqueeze(1)),
                use_cache=True,
                **{CACHE: self._cache},
            )
        self.hidden.copy_(output.last_hidden_state[:, 0])
        for counter in (self._position, self._place, self._column):
            counter.add_(1)

    def kept(self) -> tuple[Tensor, ...]:
        """Return copies of what a call changes, but for keys and values, for `restore`.

        Returns:
            What counts the tokens, then `hidden`.
        """
        return tuple(tensor.clone() for tensor in self._changing())

    def restore(self, kept: tuple[Tensor, ...]) -> None:
        """Undo the calls since `kept`: keys and values they wrote are hidden, then overwritten."""
        for tensor, before in zip(self._changing(), kept, strict=True):
            tensor.copy_(before)

    def state(self, said: int) -> ReadState:
        """Return what the rows have read, `said` tokens of completions among it."""
        layers = [cast(GroupLayer, layer) for layer in self._cache.layers]
        kept = [
            GroupLayer(
                layer.prompt_keys,
                layer.prompt_values,
                layer.members,
                *(part[:, :, :said] for part in layer.said),
            )
            for layer in layers
        ]
        return ReadState(
            cache=GroupCache(kept, self._cache.members),
            mask=self._seen[:, 0, 0, : self._prompt + said],
            position=self._position,
            hidden=self.hidden,
        )

    def _changing(self) -> tuple[Tensor, ...]:
        return self._position, self._place, self._column, self._seen, self.hidden


def can_be_fixed(network: PreTrainedModel) -> bool:
    """Return whether all layers see all that was said, as the mask of a `FixedStep` has it."""
    text = network.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return getattr(text, "sliding_window", None) is None
    return set(kinds) == {"full_attention"}


def _with_room(said: Tensor, length: int, room: int) -> Tensor:
    """Return keys or values (R, H, S, d), of which `length` count, in memory for `room`."""
    rows, heads, _, size = said.shape
    # Zeros: what is hidden weighs nothing, but nothing times infinity is not a number.
    roomy = said.new_zeros(rows, heads, room, size)
    roomy[:, :, :length] = said[:, :, :length]
    return roomy
