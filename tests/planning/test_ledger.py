"""Bytes that are alive, by part and at the peak."""

from __future__ import annotations

import torch

from spatial_ssrl.planning.ledger import Ledger, Peak


def floats(count: int) -> torch.Tensor:
    return torch.empty(count, device="meta")


def test_a_storage_counts_until_its_last_view_is_gone() -> None:
    ledger = Ledger()
    tensor = floats(10)
    ledger.watch(tensor)
    view = tensor[3:]
    ledger.watch(view)
    assert ledger.total == 40
    del tensor
    assert ledger.total == 40
    del view
    assert (ledger.total, ledger.peak.total) == (0, 40)


def test_what_the_graph_keeps_counts() -> None:
    ledger = Ledger()
    weight = torch.nn.Parameter(floats(4))
    product = weight * 2
    out = product.exp()  # Keeps its result for the backward pass.
    ledger.watch(out)
    total = out.sum()
    del out
    assert ledger.total == 16
    del total
    assert ledger.total == 0


def test_the_peak_remembers_what_it_was_made_of() -> None:
    ledger = Ledger()
    ledger.enter("first", "weights")
    kept = floats(100)
    ledger.watch(kept)
    with ledger.during("activations"):
        passing = floats(50)
        ledger.watch(passing)
    del passing
    more = floats(10)
    ledger.watch(more)
    assert ledger.peak.total == 600
    assert {part: size for part, size in ledger.peak.parts.items() if size} == {
        "weights": 400,
        "activations": 200,
    }
    ledger.assign(more, "optimiser")
    assert ledger.live["optimiser"] == 40
    assert ledger.live["weights"] == 400


def test_a_moment_keeps_its_highest_peak() -> None:
    ledger = Ledger()
    for size in (5, 20, 10):
        ledger.enter("again", "part")
        tensor = floats(size)
        ledger.watch(tensor)
        del tensor
        ledger.enter("between", "part")
    assert ledger.moments["again"] == Peak(80, {"part": 80})
    ledger.spike(1000)
    assert (ledger.peak.total, ledger.total) == (1000, 0)


def test_allocations_are_rounded_up() -> None:
    ledger = Ledger(granularity=512)
    tensors = [floats(1), floats(128), floats(129)]
    for tensor in tensors:
        ledger.watch(tensor)
    assert ledger.total == 512 + 512 + 1024


def test_what_goes_unnoticed_counts_only_if_it_stays() -> None:
    ledger = Ledger()
    with ledger.unnoticed():
        large, small = floats(1000), floats(10)
        ledger.watch(large)
        ledger.watch(small)
        del large
    assert (ledger.peak.total, ledger.total) == (0, 40)


def test_what_lies_elsewhere_is_counted_no_longer() -> None:
    ledger = Ledger()
    kept, other = floats(10), floats(5)
    for tensor in (kept, other):
        ledger.watch(tensor)
    ledger.leave_out(kept)
    ledger.watch(kept.view(2, 5))
    assert ledger.total == 20
    del tensor, kept, other
    assert ledger.total == 0
