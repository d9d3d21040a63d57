"""Products in float32 on a device without CUDA: their values here, what is done for them there."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.policies import wide_products
from spatial_ssrl.policies.wide_products import is_wide, wide_on, wide_product
from support.fake_cuda import fake_cuda

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def on_nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do as a PyTorch built for CUDA does, whatever these tests run with."""
    monkeypatch.setattr(wide_products, "_devices", {"cuda"})


@pytest.mark.parametrize("foreseen", [False, True])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
@pytest.mark.parametrize("batches", [(), (2,), (2, 3)])
def test_products_are_those_in_float64(
    batches: tuple[int, ...], dtype: torch.dtype, foreseen: bool
) -> None:
    torch.manual_seed(0)
    one, other = torch.randn(*batches, 4, 64).to(dtype), torch.randn(*batches, 64, 5).to(dtype)
    with wide_on("cpu" if foreseen else "cuda"):
        assert is_wide(one, other) == (foreseen and dtype in HALVES)
        found = wide_product(one, other)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), one.double() @ other.double(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("batches", [(), (2, 3)])
def test_nothing_is_converted_on_cuda(batches: tuple[int, ...], dtype: torch.dtype) -> None:
    with fake_cuda() as calls:
        one = torch.empty(*batches, 4, 8, dtype=dtype, device="cuda")
        # Of memory with room for more, as keys that were said are.
        other = torch.empty(*batches, 9, 8, dtype=dtype, device="cuda")[..., :5, :]
        assert is_wide(one, other)  # Tried on first use, which is not what is counted.
        calls.noted.clear()
        found = wide_product(one, other.transpose(-1, -2))
        assert (found.shape, found.dtype) == ((*batches, 4, 5), torch.float32)
        assert found.device.type == "cuda"
        assert ("bmm.dtype" if batches else "mm.dtype") in calls.names()
        floats = [t for call in calls.noted for t in call.made if t.dtype == torch.float32]
        assert all(tensor.numel() == found.numel() for tensor in floats)
        storage = other.untyped_storage()._cdata
        halves = [t for call in calls.noted for t in call.made if t.dtype == dtype]
        known = {storage, one.untyped_storage()._cdata}
        assert {tensor.untyped_storage()._cdata for tensor in halves} <= known


@pytest.mark.parametrize("kinds", [HALVES, (torch.float32, torch.bfloat16), (torch.float32,) * 2])
def test_other_types_are_converted(kinds: tuple[torch.dtype, torch.dtype]) -> None:
    with fake_cuda() as calls:
        one, other = (torch.empty(4, 4, dtype=dtype, device="cuda") for dtype in kinds)
        assert wide_product(one, other).dtype == torch.float32
        assert "mm.default" in calls.names()
        assert "mm.dtype" not in calls.names()


@pytest.mark.parametrize("error", [RuntimeError("not supported"), TypeError("out_dtype")])
def test_cards_and_releases_without_them_convert(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*args: object, **kwargs: object) -> object:
        raise error

    wide_products._has_them.cache_clear()
    with fake_cuda() as calls, monkeypatch.context() as patch:
        one = torch.empty(4, 4, dtype=torch.bfloat16, device="cuda")
        patch.setattr(torch, "mm", refusing)
        assert not is_wide(one, one)
        assert wide_product(one, one).dtype == torch.float32
        assert "mm.default" in calls.names()
    wide_products._has_them.cache_clear()


def test_sums_in_float16_have_no_float32_results() -> None:
    one = torch.ones(2, 2, dtype=torch.float16)
    settings = torch.backends.cuda.matmul
    with wide_on("cpu"):
        assert is_wide(one, one)
        settings.allow_fp16_accumulation = True
        try:
            assert not is_wide(one, one)
            assert is_wide(one.bfloat16(), one.bfloat16())
        finally:
            settings.allow_fp16_accumulation = False


def test_memory_is_foreseen_without_converted_copies() -> None:
    one = torch.empty(4, 8, dtype=torch.bfloat16, device="meta")
    with wide_on("meta"):
        found = wide_product(one, one.t())
    assert (found.shape, found.dtype, found.is_meta) == ((4, 4), torch.float32, True)
