"""What a curated set holds, and which of its questions lie in which shard."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

from spatial_ssrl import __version__
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.curated.describe import described, scenes_digest
from spatial_ssrl.data.curated.encoding import ImageEncoding
from spatial_ssrl.data.dataset import QuestionDataset
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import PretextTask

FORMAT = 1
"""Version of the layout of a set; a reader refuses a higher one."""

_BLOCK = 100
_VERSIONED = ("numpy", "scipy", "pillow", "datasets", "pyarrow")


@dataclass(frozen=True)
class SetPart:
    """A number of questions from a mix of tasks on some sources.

    Args:
        images: Where the scenes of this part come from.
        tasks: The tasks to mix.
        count: Number of questions.
        task_weights: Share of each task, any positive scale; equal by default.
        image_weights: Share of each source, any positive scale; by default in proportion to
            their numbers of scenes.

    Raises:
        ConfigError: If `count` is below 1.
    """

    images: list[ImageSource]
    tasks: list[PretextTask]
    count: int
    task_weights: list[float] | None = None
    image_weights: list[float] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be at least 1 question, got {self.count}.")


@dataclass(frozen=True)
class SetPlan:
    """A curated set before it is made: every question is a function of this and its number.

    The questions of all parts are mixed evenly: among the first n questions of the set, each
    part has its share of n, rounded.

    Args:
        parts: What the set is made of, at least one part.
        seed: Names the questions; another seed draws others.
        shard_questions: Questions in a shard; only the last one may hold fewer.
        encoding: How pictures are stored.

    Raises:
        ConfigError: If there is no part, or `shard_questions` is below 1.
    """

    parts: Sequence[SetPart]
    seed: int = 0
    shard_questions: int = 200
    encoding: ImageEncoding = field(default_factory=ImageEncoding)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts is empty; name at least one part of the set.")
        if self.shard_questions < 1:
            raise ConfigError(
                f"shard_questions must be at least 1 question, got {self.shard_questions}."
            )

    @property
    def questions(self) -> int:
        """Number of questions of the set."""
        return sum(part.count for part in self.parts)

    @property
    def shards(self) -> int:
        """Number of shards of the set."""
        return -(-self.questions // self.shard_questions)

    def prepare(self) -> None:
        """Let every source do its slow one-time work, each once."""
        for source in {
            id(source): source for part in self.parts for source in part.images
        }.values():
            source.prepare()

    def streams(self) -> list[QuestionDataset]:
        """Return the questions of each part.

        Raises:
            ConfigError: If a source is empty, weights do not fit, or a task lacks depth.
        """
        return [
            QuestionDataset(
                part.images,
                part.tasks,
                self.seed,
                stream=f"curate/{number}",
                block=min(_BLOCK, part.count),
                task_weights=part.task_weights,
                image_weights=part.image_weights,
            )
            for number, part in enumerate(self.parts)
        ]

    def shard(self, number: int) -> list[tuple[int, int]]:
        """Return the questions of a shard in order, each as its part and its number in it."""
        first = number * self.shard_questions
        last = min(first + self.shard_questions, self.questions)
        counts = [part.count for part in self.parts]
        starts, ends = apportion(counts, first), apportion(counts, last)
        members = [
            (_place(place, counts[part]), part, place)
            for part, (start, end) in enumerate(zip(starts, ends, strict=True))
            for place in range(start, end)
        ]
        return [(part, place) for _, part, place in sorted(members)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting that the questions depend on, as a config writes them."""
        return {
            "parts": [
                {
                    "images": [described(source) for source in part.images],
                    "tasks": [described(task) for task in part.tasks],
                    "count": part.count,
                    "task_weights": part.task_weights,
                    "image_weights": part.image_weights,
                }
                for part in self.parts
            ],
            "seed": self.seed,
            "shard_questions": self.shard_questions,
            "encoding": {"kind": self.encoding.kind, "quality": self.encoding.quality},
        }

    @cached_property
    def sources(self) -> list[list[dict[str, Any]]]:
        """Size and identity of the sources of each part, after `prepare`."""
        return [
            [{"scenes": len(source), "digest": scenes_digest(source)} for source in part.images]
            for part in self.parts
        ]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Whatever decides the bytes of the set: settings, sources, versions, layout."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "sources": self.sources,
            "versions": versions(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of `identity`, 24 hex digits."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what questions and their bytes depend on."""
    return {"spatial-ssrl": __version__, **{name: version(name) for name in _VERSIONED}}


def apportion(counts: Sequence[int], total: int) -> list[int]:
    """Share out the first `total` of all items among groups in proportion to their counts.

    This is the method of Webster and Sainte-Laguë, which never takes back what a smaller total
    gave: item n of a group with c items stands at (n + 1/2) / c of the way, and the first
    `total` places win; of equal places, the group named first.

    Args:
        counts: Items of each group.
        total: How many items are taken, at most the sum of `counts`.
    """
    # Below this point of the way items are sure to be among the first; the few others follow
    # one by one.
    sure = max(0.0, (total - len(counts)) / sum(counts))
    shares = [math.floor(count * sure + 0.5) for count in counts]
    for _ in range(total - sum(shares)):
        nearest = min(
            range(len(counts)), key=lambda group: (_place(shares[group], counts[group]), group)
        )
        shares[nearest] += 1
    return shares


def _place(number: int, count: int) -> float:
    return (number + 0.5) / count
