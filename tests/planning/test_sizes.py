"""Sizes of memory as people write them."""

from __future__ import annotations

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.sizes import Card, memory_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 2**30),
        ("24 GiB", 24 * 2**30),
        ("24", 24 * 2**30),
        ("24gb", 24 * 2**30),
        ("1.5G", 3 * 2**29),
        ("512MiB", 2**29),
        ("8388608 KiB", 2**33),
        ("1TB", 2**40),
        ("1024B", 1024),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "12 PB", "GB", "1,5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as 24GB"):
        memory_size(text)


@pytest.mark.parametrize(("margin", "usable"), [(0, 2000), (0.05, 1900), (0.5, 1000)])
def test_a_card_is_used_up_to_its_margin(margin: float, usable: int) -> None:
    assert Card(2000, margin).usable == usable


@pytest.mark.parametrize("margin", [-0.1, 1, 5, float("nan")])
def test_margins_out_of_range(margin: float) -> None:
    with pytest.raises(ConfigError, match=r"margin must be in \[0, 1\)"):
        Card(2000, margin)
