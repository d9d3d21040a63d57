"""The audit of gradients on networks small enough to see through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spatial_ssrl.core.errors import SelfCheckFailed
from spatial_ssrl.training.gradient_audit import GradientAudit, trainable_report


class Adapted(nn.Module):
    """A base layer with an adapter, a layer nobody reads, and one whose gradient may be cut."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(3, 3).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(3, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 3, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.spare = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.cut = cut

    def forward(self) -> Tensor:
        x = torch.tensor([1.0, -2.0, 0.5])
        scale = self.scale.detach() if self.cut else self.scale
        return (self.base(x) + self.lora_B["default"](self.lora_A["default"](x))) * scale

    def score(self) -> Tensor:
        with torch.no_grad():
            return self()


def stepped(model: Adapted, audit: GradientAudit, rate: float = 0.1, weight: float = 1.0) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    (weight * model().square().sum()).backward()
    audit.look()
    optimizer.step()
    optimizer.zero_grad()


def test_the_inner_factor_has_until_the_second_step() -> None:
    model = Adapted()
    audit = GradientAudit(model)
    stepped(model, audit)
    assert not audit.is_complete
    stepped(model, audit)
    assert audit.is_complete
    line = audit.verdict(model.score)
    assert line.startswith("Self-check: 3 of 5 trained tensors learn;")
    assert line.endswith("do not use spare.weight, spare.bias.")


def test_steps_that_move_nothing_do_not_count_against_a_factor() -> None:
    model = Adapted()
    del model.spare
    audit = GradientAudit(model)
    for _ in range(3):
        stepped(model, audit, rate=0.0)
    assert not audit.is_complete, "the outer factor is still zero"
    stepped(model, audit)
    stepped(model, audit)
    assert audit.is_complete
    assert audit.verdict(model.score) == "Self-check: 3 of 3 trained tensors had a gradient."


def test_steps_without_signal_tell_nothing() -> None:
    model = Adapted(cut=True)
    audit = GradientAudit(model)
    audit.look()
    for _ in range(3):
        stepped(model, audit, weight=0.0)
    assert not audit.is_complete


def test_a_lost_gradient_is_told_from_a_part_nobody_reads() -> None:
    model = Adapted(cut=True)
    audit = GradientAudit(model)
    stepped(model, audit)
    stepped(model, audit)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SelfCheckFailed, match=r"3 of 5 .* first 2 steps.* depend on scale\. "):
        audit.verdict(model.score)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_message_names_a_few() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList(torch.ones(2) for _ in range(8))
            self.live = nn.Parameter(torch.ones(2))

    model = Many()
    audit = GradientAudit(model)
    for _ in range(2):
        model.live.grad = torch.ones(2)
        audit.look()
    score: Callable[[], Tensor] = lambda: torch.zeros(1)  # noqa: E731
    assert "do not use parts.0, parts.1, parts.2, parts.3, parts.4 and 3 more." in audit.verdict(
        score
    )


def test_the_report_counts_by_place() -> None:
    model = nn.ModuleDict(
        {
            "visual": nn.Linear(4, 4),
            "multi_modal_projector": nn.Linear(4, 2).requires_grad_(False),
            "embed_tokens": nn.Embedding(5, 2),
            "layers": nn.Linear(2, 2, bias=False),
        }
    )
    assert trainable_report(model) == (
        "Training 34 of 44 weights (77.3 %): embeddings and head 10 in 1 tensors; "
        "language model 4 in 1 tensors; vision tower 20 in 2 tensors."
    )
