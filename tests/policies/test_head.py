from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from spatial_ssrl.planning.ghosts import Ghosts
from spatial_ssrl.planning.ledger import Ledger
from spatial_ssrl.policies import head as module
from spatial_ssrl.policies import wide_products
from spatial_ssrl.policies.head import float32_logits
from spatial_ssrl.policies.wide_products import wide_on
from support.fake_cuda import fake_cuda

WIDTH, VOCABULARY = 6, 11


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> nn.Linear:
    """A head whose weights are read in blocks of four rows, the last one shorter."""
    monkeypatch.setattr(module, "_WEIGHTS_PER_BLOCK", 4 * WIDTH)
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, dtype=request.param)


@pytest.fixture(params=["in blocks", "at once"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """The product of the forward pass as on a CPU and as on CUDA, but for the kernel."""
    with wide_on("cpu" if request.param == "at once" else "cuda"):
        yield


def in_float64(head: nn.Linear, hidden: Tensor) -> Tensor:
    assert head.bias is not None
    return hidden.double() @ head.weight.double().t() + head.bias.double()


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
@pytest.mark.parametrize("wide", [False, True])
def test_logits_are_not_rounded_to_the_precision_of_the_weights(
    head: nn.Linear, shape: tuple[int, ...], wide: bool, way: None
) -> None:
    hidden = torch.randn(*shape, WIDTH, dtype=torch.float32 if wide else head.weight.dtype)
    logits = float32_logits(head, hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), in_float64(head, hidden), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_gradients_are_those_of_the_whole_product(
    head: nn.Linear, trained: bool, way: None
) -> None:
    head.requires_grad_(trained)
    hidden = torch.randn(5, WIDTH, requires_grad=True)
    weights = torch.randn(5, VOCABULARY)
    inputs = [hidden, head.weight, head.bias] if trained else [hidden]
    found = torch.autograd.grad((float32_logits(head, hidden) * weights).sum(), inputs)
    expected = torch.autograd.grad((in_float64(head, hidden) * weights).sum(), inputs)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_gradients_of_hidden_states_in_half_precision(head: nn.Linear, way: None) -> None:
    hidden = torch.randn(5, WIDTH, dtype=head.weight.dtype, requires_grad=True)
    weights = torch.randn(5, VOCABULARY)
    inputs = [hidden, head.weight]
    found = torch.autograd.grad((float32_logits(head, hidden) * weights).sum(), inputs)
    expected = torch.autograd.grad((in_float64(head, hidden) * weights).sum(), inputs)
    assert [tensor.dtype for tensor in found] == [head.weight.dtype] * 2
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
    # Each is rounded once, at the end.
    exact = (weights @ head.weight.detach().float()).to(head.weight.dtype)
    torch.testing.assert_close(found[0], exact, atol=0, rtol=torch.finfo(exact.dtype).eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_weight_is_converted_on_cuda(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_products, "_devices", {"cuda"})
    with fake_cuda() as calls:
        head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype, device="cuda")
        hidden = torch.empty(2, 3, WIDTH, dtype=dtype, device="cuda")
        calls.noted.clear()
        logits = float32_logits(head, hidden)
        assert (logits.shape, logits.dtype) == ((2, 3, VOCABULARY), torch.float32)
        assert "mm.dtype" in calls.names()
        assert "_to_copy.default" not in calls.names()
        calls.noted.clear()
        # Hidden states that are more precise are not rounded to the weights' type.
        assert float32_logits(head, hidden.float()).shape == logits.shape
        assert "mm.dtype" not in calls.names()
        assert all(
            t.dtype == torch.float32 for c in calls.noted if c.name == "mm.default" for t in c.given
        )


def test_no_copy_of_the_weights_waits_for_the_backward_pass(head: nn.Linear) -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        float32_logits(head, torch.randn(5, WIDTH, requires_grad=True)).sum()
    assert any(tensor.data_ptr() == head.weight.data_ptr() for tensor in kept)
    assert not any(tensor.numel() > 5 * WIDTH and tensor.dtype == torch.float32 for tensor in kept)


def test_a_head_in_float32_is_applied_as_it_is() -> None:
    torch.manual_seed(0)
    head, hidden = nn.Linear(WIDTH, VOCABULARY), torch.randn(3, WIDTH)
    assert torch.equal(float32_logits(head, hidden), head(hidden))


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (4, 4 * (2 * 4 + 4 * 64 + 2 * 4)),  # Logits, one block, and their product.
        (8, 4 * (2 * 8 + 2 * 4 * 64)),  # A block is made while the one before is there.
        (27, 4 * (2 * 27 + 2 * 4 * 64)),
    ],
)
def test_without_numbers_some_blocks_take_the_memory_of_all(
    vocabulary: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WEIGHTS_PER_BLOCK", 4 * 64)
    ledger = Ledger()
    with Ghosts(ledger), torch.no_grad():
        head = nn.Linear(64, vocabulary, bias=False, dtype=torch.bfloat16)
        hidden = torch.randn(2, 64)
        before = ledger.total
        float32_logits(head, hidden)
        assert ledger.peak.total - before == expected
        starts = [place.start for place, _ in module._blocks(head.weight)]
    assert starts == {4: [0], 8: [0, 4], 27: [0, 4, 24]}[vocabulary]
