"""Which scenes are held out from training, decided by their names alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spatial_ssrl.images import ImageSource

_SMALL = 100


@dataclass(frozen=True)
class HashSplit:
    """Holds a scene out when its name hashes below `share` or is one of `names`.

    Args:
        share: Share of all names that is held out, in (0, 1).
        names: Names held out whatever their hash.
    """

    share: float
    names: frozenset[str]

    def __call__(self, source_id: str) -> bool:
        """Return whether a scene is held out."""
        return _fraction(source_id) < self.share or source_id in self.names


@dataclass(frozen=True)
class Except:
    """Admits what `held_out` does not name or hold out.

    Args:
        held_out: What is not admitted.
    """

    held_out: HashSplit | frozenset[str]

    def __call__(self, source_id: str) -> bool:
        """Return whether a scene may be trained on."""
        if isinstance(self.held_out, frozenset):
            return source_id not in self.held_out
        return not self.held_out(source_id)


def names_of(sources: Iterable[ImageSource]) -> frozenset[str]:
    """Return the names of all scenes of some sources."""
    return frozenset(source.source_id(i) for source in sources for i in range(len(source)))


def split_sources(sources: Iterable[ImageSource], share: float) -> HashSplit:
    """Return a split that holds out at least one scene of each source, unless it has but one."""
    small = [source for source in sources if 2 <= len(source) <= _SMALL]
    return HashSplit(
        share, frozenset(_spared(names_of([source]), share) for source in small) - {""}
    )


def split_names(names: Sequence[str], share: float) -> HashSplit:
    """Return a split that holds out at least one of `names`, unless there is but one."""
    few = frozenset(names)
    spared = _spared(few, share) if 2 <= len(few) <= _SMALL else ""
    return HashSplit(share, frozenset({spared}) - {""})


def _spared(names: frozenset[str], share: float) -> str:
    """Return the name to hold out of a few names none of which hashes below `share`, or ""."""
    first = min(names, key=_fraction)
    return first if _fraction(first) >= share else ""


def _fraction(source_id: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(source_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
