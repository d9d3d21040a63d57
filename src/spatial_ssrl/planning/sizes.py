"""Sizes of memory as people write them, and how much of a card a plan uses."""

from __future__ import annotations

import re
from dataclasses import dataclass

from spatial_ssrl.core.errors import ConfigError

_SIZE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[KMGT]?)(i?B)?\s*", re.I)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

# Share of a card that a plan leaves free. The driver and a display take their part of what a card
# is named after before a run begins (torch finds about 23.6 GiB on one of 24 GB), and the overheads
# that a plan adds to tensors are assumed, not measured.
MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Card:
    """The memory of a card, as a plan uses it.

    Args:
        size: Bytes it is named after.
        margin: Share of them that is left free, in [0, 1).

    Raises:
        ConfigError: If the margin is out of range.
    """

    size: int
    margin: float = MARGIN

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise ConfigError(
                f"margin must be in [0, 1), got {self.margin:g}; 0.05 leaves 5 % of the card free."
            )

    @property
    def usable(self) -> int:
        """Bytes that a run may need, overheads of the card included."""
        return int(self.size * (1 - self.margin))


def memory_size(text: str, name: str = "gpu") -> int:
    """Return bytes of a size such as "24GB" or "16 GiB".

    Cards are named after powers of 1,024: "24GB" and "24GiB" are the same.

    Args:
        text: A number and a unit from B to TiB; GB when there is none.
        name: What to call it in an error.

    Raises:
        ConfigError: If it is no size, or nothing.
    """
    match = _SIZE.fullmatch(text)
    unit = "" if match is None else match["prefix"].upper()
    if match is not None and re.fullmatch(r"\s*[\d.]+\s*", text):
        unit = "G"
    size = 0 if match is None else int(float(match["number"]) * 1024 ** _POWERS[unit])
    if size < 1:
        raise ConfigError(f"{name}: {text!r} is no size of memory; write it as 24GB or 16GiB.")
    return size


def share(text: str, name: str = "margin") -> float:
    """Return a share such as "0.05".

    Raises:
        ConfigError: If it is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name}: {text!r} is no share; write it as 0.05.") from None
