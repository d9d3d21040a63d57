"""Layers that take the short way, against those of PyTorch and transformers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_vl import modeling_qwen3_vl

from spatial_ssrl.policies.quick_layers import (
    PatchConv2d,
    PatchConv3d,
    QuickRMSNorm,
    quicken_layers,
)

MODELS = (
    modeling_llama,
    modeling_mistral,
    modeling_qwen2,
    modeling_qwen2_vl,
    modeling_qwen2_5_vl,
    modeling_qwen3,
    modeling_qwen3_vl,
)
# Each has one for its language model, by a name that is not the same in all releases.
NORMS = [
    next(found for name, found in vars(model).items() if name.endswith("RMSNorm"))
    for model in MODELS
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_those_of_transformers(norm: type[nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = norm(40, eps=1e-5)
    plain.weight.data.normal_(1, 0.5)
    plain = plain.to(dtype)
    quick = copy.deepcopy(plain)
    quicken_layers(quick)
    assert isinstance(quick, QuickRMSNorm)
    assert isinstance(quick, norm)
    inputs = [(3 * torch.randn(2, 7, 40)).to(dtype).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    wanted, found = plain(inputs[0]), quick(inputs[1])
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, atol=2e-7, rtol=1e-6)
    upstream = torch.randn(wanted.shape).to(dtype)
    wanted.backward(upstream)
    found.backward(upstream)
    loose = {"atol": 1e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.05}
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **loose)
    torch.testing.assert_close(quick.weight.grad, plain.weight.grad, **loose)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv3d])
def test_patches_are_multiplied(kind: type[nn.Conv2d | nn.Conv3d], bias: bool) -> None:
    torch.manual_seed(0)
    size = (4, 6) if kind is nn.Conv2d else (2, 4, 6)
    plain = kind(3, 5, kernel_size=size, stride=size, bias=bias)
    quick = copy.deepcopy(plain)
    quicken_layers(quick)
    assert type(quick) in (PatchConv2d, PatchConv3d)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    for shape in (size, tuple(2 * side for side in size)):  # Of patches, and of whole pictures.
        pixels = torch.randn(7, 3, *shape)
        wanted, found = plain(pixels), quick(pixels)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
        for layer, out in ((plain, wanted), (quick, found)):
            layer.zero_grad()
            out.square().sum().backward()
        torch.testing.assert_close(quick.weight.grad, plain.weight.grad, atol=1e-4, rtol=1e-5)


def test_other_layers_are_left_alone() -> None:
    others = nn.Sequential(
        nn.Conv2d(3, 5, 4, stride=2),
        nn.Conv2d(3, 5, 3, stride=3, padding=1),
        nn.Conv2d(4, 6, 2, stride=2, groups=2),
        nn.Conv2d(3, 5, 2, stride=2, dilation=2),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
    )
    before = [type(module) for module in others]
    quicken_layers(others)
    assert [type(module) for module in others] == before
