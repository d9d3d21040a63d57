"""Code on ghosts: whole numbers keep their values, fractions take no memory, both are counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from spatial_ssrl.planning.ghosts import Ghosts
from spatial_ssrl.planning.ledger import Ledger


def test_whole_numbers_are_real_and_fractions_are_not() -> None:
    with Ghosts(Ledger()):
        ids = torch.arange(6).view(2, 3) + 1
        hidden = torch.randn(2, 3, 4)
        count = torch.full((3,), 7, dtype=torch.long, device=hidden.device)
        like = torch.ones_like(hidden, dtype=torch.bool)
        kept = (ids > 2).nonzero()
        assert hidden.is_meta
        assert ids.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert count.tolist() == [7, 7, 7]
        assert like.all()
        assert kept.shape == (4, 2)
        assert hidden.device.type == "cpu"


def test_real_masks_choose_among_ghosts() -> None:
    with Ghosts(Ledger()):
        hidden = torch.zeros(4, 8)
        mask = torch.tensor([True, False, True, True])
        assert hidden[mask].shape == (3, 8)
        hidden[mask] = 1.0
        assert hidden.masked_fill(~mask[:, None], 0.0).shape == (4, 8)
        assert hidden.index_select(0, torch.tensor([3, 3])).shape == (2, 8)


def test_what_ghosts_would_decide_is_taken_for_usable() -> None:
    with Ghosts(Ledger()):
        logits = torch.randn(3, 100)
        assert logits.argmax(-1).tolist() == [0, 0, 0]
        assert float(logits.norm()) == 1.0
        assert logits.sort(dim=-1).indices.shape == (3, 100)


def test_memory_is_that_of_the_operations() -> None:
    ledger = Ledger()
    with Ghosts(ledger):
        layer = nn.Linear(100, 50, bias=False)
        assert ledger.total == 100 * 50 * 4
        x = torch.zeros(10, 100)
        out = layer(x).relu()
        # The input, the weight, and the output, which is all that its gradient needs.
        assert ledger.total == 4 * (5000 + 1000 + 500)
        assert ledger.peak.total == 4 * (5000 + 1000 + 500 + 500)
        torch.autograd.backward(out.sum())
        assert layer.weight.grad is not None
        assert layer.weight.grad.shape == (50, 100)
    del out
    assert ledger.total == 4 * (5000 + 1000 + 5000)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_keeps_no_scores(masked: bool) -> None:
    ledger = Ledger()
    with Ghosts(ledger):
        query = torch.zeros(1, 2, 300, 16, requires_grad=True)
        mask = torch.zeros(1, 1, 300, 300) if masked else None
        before = ledger.total
        out = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        # The output, and one number for each query and head.
        assert ledger.peak.total - before == 4 * (2 * 300 * 16 + 2 * 300)
        torch.autograd.backward(out.sum())
        assert query.grad is not None


def test_layers_are_computed_again() -> None:
    """A hundred activations are alive at once without recomputation, one or two with it."""

    def peak(again: bool) -> int:
        ledger = Ledger()
        with Ghosts(ledger):
            layers = nn.Sequential(*[nn.Sequential(*[nn.Tanh() for _ in range(10)])] * 10)
            x = torch.zeros(1000, requires_grad=True)
            out = x
            for layer in layers:
                out = checkpoint(layer, out, use_reentrant=False) if again else layer(out)
            torch.autograd.backward(out.sum())
            assert x.grad is not None
        return ledger.peak.total // 4000

    assert peak(again=False) in range(101, 105)
    assert peak(again=True) in range(20, 25)


def test_nothing_is_left_changed() -> None:
    attention = functional.scaled_dot_product_attention
    with pytest.raises(ZeroDivisionError), Ghosts(Ledger()):
        raise ZeroDivisionError
    assert functional.scaled_dot_product_attention is attention
    assert torch.empty(1, device="meta").device.type == "meta"
    assert not torch.zeros(1).is_meta


def test_there_is_one_thread_meanwhile() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Ghosts(Ledger()):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_is_made_again_is_new_and_as_before() -> None:
    """What operations make is looked up the second time."""
    ledger = Ledger()
    with Ghosts(ledger):
        made = [torch.zeros(100) for _ in range(2)]
        assert ledger.total == 2 * 400
        numbers = [torch.arange(5, device=made[0].device) for _ in range(2)]
        numbers[0] += 1
        assert [entry.tolist() for entry in numbers] == [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4]]
        assert torch.zeros(3, dtype=torch.float16).dtype is torch.float16
        assert torch.zeros(3, dtype=torch.uint8).tolist() == [0, 0, 0]
        assert torch.zeros(3, 2).shape == (3, 2)


def test_inference_mode_counts_the_same() -> None:
    """There PyTorch hands over whole operations, some of which return what they were given."""

    def peak(mode: type) -> tuple[int, int]:
        ledger = Ledger()
        with Ghosts(ledger), mode():
            x = torch.zeros(10, 100)
            out = functional.dropout(functional.linear(x, torch.zeros(50, 100)), training=False)
            out = out.to(torch.float32).reshape(5, 100).to(out.device)
            assert float(out.sum().item()) == 1.0
        return ledger.peak.total, ledger.total

    assert peak(torch.inference_mode) == peak(torch.no_grad)
    assert peak(torch.no_grad)[0] == 4 * (1000 + 5000 + 500)
