"""One shard of a curated set: a parquet file that is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated.encoding import decode
from spatial_ssrl.data.curated.plan import SetPlan
from spatial_ssrl.data.curated.rows import content_digest, features, to_row
from spatial_ssrl.data.dataset import QuestionDataset

DATA = "data"
PARTIAL = ".partial"

_RECORD = b"spatial_ssrl"
# Reading one question decodes the pictures of its group of rows only if asked to, but reads all
# their bytes: few rows keep random access cheap, and memory while writing small.
_GROUP = 8
_REPEATED = ("task", "answer_kind", "licence", "choices.list.element")


@dataclass
class ShardRecord:
    """What a shard holds, counted while it was made; stored in the shard itself.

    Args:
        fingerprint: Of the plan it belongs to.
        number: Which shard of the set.
        questions: Number of questions.
        content: Hash of every question in order, 32 hex digits.
        answers: How often each answer of each task is right.
        rejections: How often each reason refused a scene or draw, by task.
        unreadable: How often each broken file was met, by message.
        licences: Questions by licence.
    """

    fingerprint: str
    number: int
    questions: int = 0
    content: str = ""
    answers: dict[str, dict[str, int]] = field(default_factory=dict)
    rejections: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)


def shard_path(folder: Path, number: int, shards: int) -> Path:
    """Return the file of a shard in the folder of its set."""
    return folder / DATA / f"train-{number:05d}-of-{shards:05d}.parquet"


class ShardMaker:
    """Makes shards of a plan, one at a time; picklable, for worker processes.

    Args:
        plan: What to make, its sources prepared.
        folder: Folder of the set.
    """

    def __init__(self, plan: SetPlan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self._streams: list[QuestionDataset] | None = None

    def __call__(self, number: int) -> int:
        """Write a shard and return its number of questions.

        Memory holds a few questions at a time, whatever the size of the shard.

        Raises:
            SpatialSSRLError: If a task makes no question of many scenes.
            ConfigError: If the file cannot be written.
        """
        target = shard_path(self.folder, number, self.plan.shards)
        partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
        try:
            record = self._write(number, partial)
            partial.replace(target)
        except OSError as error:
            raise ConfigError(
                f"out: {str(target)!r} cannot be written ({error.strerror or error}); make room or "
                "choose another folder. The shards that are there are whole: run again to go on."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
        return record.questions

    def _write(self, number: int, partial: Path) -> ShardRecord:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = features().arrow_schema
        record = ShardRecord(self.plan.fingerprint, number)
        digest = hashlib.blake2b(digest_size=16)
        with partial.open("wb") as sink:
            # No statistics: they would repeat whole pictures; no dictionary for them either.
            with pq.ParquetWriter(
                sink, schema, use_dictionary=list(_REPEATED), write_statistics=False
            ) as writer:
                rows: list[dict[str, Any]] = []
                for question in self._questions(number, record):
                    row = to_row(question, self.plan.encoding)
                    rows.append(row)
                    digest.update(content_digest(row, self._shown(question, row)))
                    if len(rows) == _GROUP:
                        writer.write_table(pa.Table.from_pylist(rows, schema))
                        rows = []
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                record.content = digest.hexdigest()
                text = json.dumps(asdict(record), ensure_ascii=False, sort_keys=True)
                writer.add_key_value_metadata({_RECORD: text.encode()})
            sink.flush()
            os.fsync(sink.fileno())
        return record

    def _shown(self, question: Question, row: dict[str, Any]) -> Sequence[npt.NDArray[np.uint8]]:
        """Return the pictures as a reader will see them."""
        if self.plan.encoding.kind == "png":
            return question.images
        return [decode(image["bytes"]) for image in row["images"]]

    def _questions(self, number: int, record: ShardRecord) -> Iterator[Question]:
        """Make the questions of a shard, and count them."""
        if self._streams is None:
            self._streams = self.plan.streams()
        for stream in self._streams:
            stream.rejections.clear()
            stream.unreadable.clear()
        for part, place in self.plan.shard(number):
            question = self._streams[part][place]
            record.questions += 1
            _count(record.answers.setdefault(question.task, {}), question.answer)
            _count(record.licences, question.licence)
            yield question
        for stream in self._streams:
            for (task, reason), count in stream.rejections.items():
                _count(record.rejections.setdefault(task, {}), reason, count)
            for message, count in stream.unreadable.items():
                _count(record.unreadable, message, count)


def read_record(path: Path) -> ShardRecord | None:
    """Return the record stored in a shard, or None if the file is no whole shard of a set.

    Raises:
        OSError: If the file is missing or cannot be opened.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stored = pq.read_metadata(path).metadata or {}
        return ShardRecord(**json.loads(stored[_RECORD]))
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def _count(counts: dict[str, int], name: str, times: int = 1) -> None:
    counts[name] = counts.get(name, 0) + times


def add_counts(counts: dict[str, int], more: dict[str, int]) -> None:
    """Add the counts of `more` to `counts`."""
    for name, times in more.items():
        _count(counts, name, times)
