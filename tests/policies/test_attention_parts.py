"""Attention in two parts, against one softmax over all keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor

from spatial_ssrl.policies.attention_parts import (
    as_on_other_devices,
    attend,
    attend_to_prompts_and_rows,
    hidden_where,
    merged,
)
from spatial_ssrl.policies.members import Members

HEADS, SHARED, SIZE, SCALE = 4, 2, 8, 0.3


def one_softmax(query: Tensor, key: Tensor, value: Tensor, unseen: Tensor) -> Tensor:
    """Return what queries (A, n, d) find among keys (H, S, d), n, S of them unseen."""
    repeats = len(query) // len(key)
    key, value = key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0)
    scores = SCALE * query @ key.transpose(1, 2)
    return scores.masked_fill(unseen, float("-inf")).softmax(-1) @ value


@pytest.mark.parametrize("device", [nullcontext, as_on_other_devices])
def test_two_parts_are_one_softmax(device: Callable[[], AbstractContextManager[None]]) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, SHARED, count, SIZE) for count in (5, 9, 9))
    unseen = torch.rand(3, 1, 5, 9) < 0.4
    unseen[..., -1] = False
    unseen[0, :, :, :4] = True  # Of the first, nothing of one part is seen.
    added = hidden_where(unseen)
    with device():
        parts = [
            attend(query, key[:, :, piece], value[:, :, piece], added[..., piece], SCALE)
            for piece in (slice(0, 4), slice(4, 9))
        ]
    found = merged(*parts[0], *parts[1])
    for batch in range(3):
        wanted = one_softmax(query[batch], key[batch], value[batch], unseen[batch])
        torch.testing.assert_close(found[batch], wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_elsewhere_half_precision_is_not_rounded_any_further(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, SHARED, n, SIZE).to(dtype) for n in (3, 6, 6))
    added = hidden_where(torch.rand(2, 1, 3, 6) < 0.3)
    scores = SCALE * query.double() @ key.double().transpose(2, 3) + added
    with as_on_other_devices():
        out, sums = attend(query, key, value, added, SCALE)
    assert out.dtype == sums.dtype == torch.float32
    torch.testing.assert_close(sums.double(), scores.logsumexp(-1), atol=1e-6, rtol=1e-6)
    wanted = scores.softmax(-1) @ value.double()
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_mixed_states(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, SHARED, count, SIZE, dtype=dtype) for count in (3, 6, 6))
    exact = attend(query.float(), key.float(), value.float(), None, SCALE)
    for states in ((query, key, value), (query.float(), key.float(), value)):
        out, sums = attend(*states, None, SCALE)
        torch.testing.assert_close(out.float(), exact[0], atol=5e-3, rtol=1e-2)
        torch.testing.assert_close(sums, exact[1], atol=5e-3, rtol=1e-2)


# Rows of three prompts: as many each, not as many, out of order, and none of the second.
@pytest.mark.parametrize("prompt", [[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2], [2, 0, 1, 0], [0, 2, 2]])
@pytest.mark.parametrize("masked", ["nothing", "padding", "window"])
def test_rows_find_what_one_softmax_finds_and_so_do_gradients(
    prompt: list[int], masked: str
) -> None:
    torch.manual_seed(0)
    rows, length, width = len(prompt), 7, 5
    shapes = [(rows, HEADS, width), (3, SHARED, length), (3, SHARED, length)]
    shapes += [(rows, SHARED, width)] * 2
    states = [torch.randn(*shape, SIZE, dtype=torch.float64) for shape in shapes]
    before = torch.zeros(rows, 1, 1 if masked == "padding" else width, length, dtype=torch.bool)
    if masked != "nothing":
        before |= torch.rand(before.shape) < 0.5
    if masked == "window":
        before[0, :, -1] = True  # The last token of a row is too far from all of its prompt.
    own = torch.ones(width, width, dtype=torch.bool).triu(1).expand(rows, 1, -1, -1)
    members = Members.of(torch.tensor(prompt), 3)

    def in_parts(*states: Tensor) -> Tensor:
        query, *keys = states
        masks = None if masked == "nothing" else hidden_where(before)
        return attend_to_prompts_and_rows(
            query, (keys[0], keys[1]), (keys[2], keys[3]), members,
            (masks, hidden_where(own)), SCALE,
        )  # fmt: skip

    def in_one(*states: Tensor) -> Tensor:
        query, key, value, row_key, row_value = states
        unseen = torch.cat([before.expand(-1, -1, width, -1), own], dim=-1)
        found = [
            one_softmax(
                query[row],
                torch.cat([key[prompt[row]], row_key[row]], dim=1),
                torch.cat([value[prompt[row]], row_value[row]], dim=1),
                unseen[row],
            )
            for row in range(rows)
        ]
        return torch.stack(found)

    upstream = torch.randn(rows, HEADS, width, SIZE, dtype=torch.float64)
    results = []
    for way in (in_parts, in_one):
        leaves = [state.clone().requires_grad_() for state in states]
        out = way(*leaves)
        out.backward(upstream)
        results.append([out, *(leaf.grad for leaf in leaves)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-8)
