"""The short way through a LoRA layer against PEFT's own, and when it is not taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from spatial_ssrl.policies import LoraSettings
from spatial_ssrl.policies.adapters import add_adapter
from spatial_ssrl.policies.lora_linear import PlainLoraLinear, quicken
from support.tiny_models import tiny_model, tiny_processor


def adapted(short: bool, dtype: torch.dtype = torch.float32, **lora: object) -> PeftModel:
    """Return two adapted layers of equal random weights, by the short way or by PEFT's."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).to(dtype)
    settings = {"r": 2, "lora_alpha": 3, "target_modules": ["0", "2"]} | lora
    model = get_peft_model(network, LoraConfig(**settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    if short:
        quicken(model)
    return model


def run(model: PeftModel, inputs: Tensor) -> list[Tensor]:
    inputs = inputs.clone().requires_grad_()
    output = model(inputs)
    (output.float() * torch.linspace(-1, 2, output.numel()).view(output.shape)).sum().backward()
    assert inputs.grad is not None
    return [output.detach(), inputs.grad] + [
        parameter.grad for parameter in model.parameters() if parameter.grad is not None
    ]


def assert_same(short: PeftModel, long: PeftModel, inputs: Tensor) -> None:
    found, wanted = run(short, inputs), run(long, inputs)
    assert len(found) == len(wanted) >= 6
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Linear]:
    """The layers that went PEFT's way."""
    found: list[Linear] = []
    forward = Linear.forward

    def watched(self: Linear, *args: object, **kwargs: object) -> Tensor:
        found.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", watched)
    return found


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (1, 1, 6)])
def test_outputs_and_gradients_are_those_of_peft(
    shape: tuple[int, ...], calls: list[Linear]
) -> None:
    short, long = adapted(short=True), adapted(short=False)
    inputs = torch.randn(shape)
    run(short, inputs)
    assert not calls
    short.zero_grad()
    assert_same(short, long, inputs)


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    model.merge_adapter()
    yield
    model.unmerge_adapter()


@pytest.mark.parametrize("case", ["disabled", "merged", "autocast", "dropout"])
def test_whatever_is_not_ordinary_goes_the_way_of_peft(case: str, calls: list[Linear]) -> None:
    models = [
        adapted(short, lora_dropout=0.5 if case == "dropout" else 0.0) for short in (True, False)
    ]
    outputs = []
    for model in models:
        inside: AbstractContextManager[object] = {
            "disabled": model.disable_adapter,
            "merged": lambda model=model: merged(model),
            "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
            "dropout": nullcontext,
        }[case]()
        calls.clear()
        with inside, torch.no_grad():
            torch.manual_seed(1)
            outputs.append(model.train()(torch.ones(7, 6)))
        assert len(calls) == 2
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_hooks_on_the_parts_of_an_adapter_are_called(part: str) -> None:
    model = adapted(short=True)
    called = []
    for name, module in model.named_modules():
        if name.endswith(f"0.{part}.default"):
            module.register_forward_hook(lambda *_: called.append(True))
    model(torch.randn(4, 6))
    assert called == [True]


def test_dropout_that_sleeps_does_not_matter(calls: list[Linear]) -> None:
    short, long = (adapted(way, lora_dropout=0.5).eval() for way in (True, False))
    assert_same(short, long, torch.randn(4, 6))
    assert {type(layer) for layer in calls} == {Linear}


def test_adapters_in_float32_over_bfloat16_are_left_to_peft(calls: list[Linear]) -> None:
    short, long = (adapted(way, torch.bfloat16) for way in (True, False))
    for model in (short, long):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
    assert_same(short, long, torch.randn(4, 6).bfloat16())
    assert len(calls) == 4


def test_variants_keep_their_own_class() -> None:
    model = adapted(short=True, use_dora=True)
    assert not any(isinstance(module, PlainLoraLinear) for module in model.modules())


def test_policies_take_the_short_way() -> None:
    model = add_adapter(tiny_model(tiny_processor()), LoraSettings(rank=2))
    kinds = {type(module) for module in model.modules() if isinstance(module, Linear)}
    assert kinds == {PlainLoraLinear}
