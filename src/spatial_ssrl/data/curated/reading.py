"""Curated sets, and sets of other projects, as questions by number."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated.manifest import read_manifest
from spatial_ssrl.data.curated.shapes import facts_of, question_from

T = TypeVar("T")

_OPEN_FILES = 32
_GROUPS = 4
_BATCH = 32
_FACTS = ("images", "task", "source_id", "extra_info")
_SHAPES = (
    {"problem", "answer", "images"},
    {"prompt", "answer", "images"},
    {"prompt", "reward_model", "images"},
    {"messages", "images"},
)


class CuratedQuestions:
    """The questions of a set on disk, by number; pictures are decoded when asked for.

    Reads what `make_set` wrote, the reference's parquet files, TRL's and verl's conversations
    and LLaMA-Factory's ShareGPT files (`.json`, `.jsonl`); see `question_from` for what is
    inferred where a shape says less. Objects can be pickled, for data workers.

    Args:
        path: Folder of a set, folder of parquet files, or one file.
        image_folder: Folder to which the paths of pictures are relative, where files name
            pictures by path; by default the folder of the file, then the one above it.

    Raises:
        ConfigError: If there is no set, it is not finished, or its columns are not known.
    """

    def __init__(self, path: Path | str, image_folder: Path | str | None = None) -> None:
        self.path = Path(path).expanduser()
        self.image_folder = image_folder
        self.manifest = read_manifest(self.path) if self.path.is_dir() else None
        if self.manifest is not None and not self.manifest["complete"]:
            raise ConfigError(
                f"{str(self.path)!r} is a curated set that is not finished; run `spatial-ssrl "
                "curate` again with the same settings to go on."
            )
        self.files = _files(self.path)
        self._json = self.files[0].suffix != ".parquet"
        self._groups: list[tuple[int, int]] = []  # File and row group of each group of rows.
        self._ends = np.zeros(0, dtype=np.int64)
        self._begin()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Question:
        """Return question `index`, in [0, len(self)).

        Raises:
            IndexError: If there is no such question.
            SceneUnreadable: If a picture is missing or broken, or the row makes no question.
        """
        row, file = self._row(index)
        default = [file.parent, file.parent.parent]
        return question_from(row, [Path(self.image_folder)] if self.image_folder else default)

    def encoded(self, index: int) -> list[bytes]:
        """Return the pictures of question `index` as stored; empty where files name them only."""
        images = self._row(index)[0].get("images") or []
        content = [image.get("bytes") if isinstance(image, dict) else image for image in images]
        return [picture for picture in content if isinstance(picture, bytes)]

    def _row(self, index: int) -> tuple[dict[str, Any], Path]:
        """Return a row and the file it stands in."""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} is out of range: there are {len(self)}.")
        group = int(np.searchsorted(self._ends, index, side="right"))
        number, inner = self._groups[group]
        start = int(self._ends[group - 1]) if group else 0
        rows = _cached(self._tables, group, _GROUPS, lambda: self._read(number, inner))
        row = rows[index - start] if self._json else rows.slice(index - start, 1).to_pylist()[0]
        return row, self.files[number]

    def __iter__(self) -> Iterator[Question]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict(), "_tables": OrderedDict()}

    def facts(self) -> list[tuple[str, str]]:
        """Return task and source id of every question; no picture is decoded."""
        import pyarrow.parquet as pq

        found: list[tuple[str, str]] = []
        for number, file in enumerate(self.files):
            if self._json:
                found += map(facts_of, self._read(number, 0))
            elif {"task", "source_id"} <= set(self._open(number).schema_arrow.names):
                table = pq.read_table(file, columns=["task", "source_id"])
                columns = (table.column(name).to_pylist() for name in ("task", "source_id"))
                found += list(zip(*columns, strict=True))
            else:
                names = [name for name in _FACTS if name in self._open(number).schema_arrow.names]
                for batch in self._open(number).iter_batches(_BATCH, columns=names):
                    found += map(facts_of, batch.to_pylist())
        return found

    def _begin(self) -> None:
        """Look at every file once: its columns and how many rows its groups hold."""
        self._opened: OrderedDict[int, Any] = OrderedDict()
        self._tables: OrderedDict[int, Any] = OrderedDict()
        sizes = []
        for number, file in enumerate(self.files):
            if self._json:
                rows = self._read(number, 0)
                _check_columns(file, set(rows[0]) if rows else set())
                counts = [len(rows)]
            else:
                opened = self._open(number)
                _check_columns(file, set(opened.schema_arrow.names))
                counts = [
                    opened.metadata.row_group(group).num_rows
                    for group in range(opened.metadata.num_row_groups)
                ]
            self._groups += [(number, group) for group in range(len(counts))]
            sizes += counts
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))

    def _open(self, number: int) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        def opened() -> Any:
            try:
                return pq.ParquetFile(self.files[number])
            except (pa.ArrowInvalid, OSError) as error:
                raise ConfigError(
                    f"{str(self.files[number])!r} cannot be read as parquet: {error}"
                ) from error

        return _cached(self._opened, number, _OPEN_FILES, opened)

    def _read(self, number: int, group: int) -> Any:
        """Return a group of rows: a table, or a list of what a JSON file holds."""
        if not self._json:
            # Few rows gain nothing from threads, and data workers may be forked.
            return self._open(number).read_row_group(group, use_threads=False)
        file = self.files[number]
        try:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".jsonl":
                return [json.loads(line) for line in text.splitlines() if line.strip()]
            rows = json.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{str(file)!r} cannot be read as JSON: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ConfigError(f"{str(file)!r} must hold a list of conversations.")
        return rows


def _files(path: Path) -> list[Path]:
    if path.is_file() and path.suffix in (".parquet", ".json", ".jsonl"):
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"{str(path)!r} is neither a folder nor a .parquet, .json or .jsonl file; name a "
            "curated set."
        )
    files = sorted(path.glob("data/*.parquet")) or sorted(path.glob("*.parquet"))
    if not files:
        raise ConfigError(
            f"{str(path)!r} holds no .parquet file, neither in data/; name a curated set."
        )
    return files


def _check_columns(file: Path, names: set[str]) -> None:
    if "conversations" in names:
        names = names | {"messages"}
    if not any(shape <= names for shape in _SHAPES):
        raise ConfigError(
            f"{str(file)!r} has the columns {', '.join(sorted(names)) or '(none)'}; a set has "
            "problem, answer and images; prompt, answer (or reward_model) and images; or messages "
            "and images."
        )


def _cached(cache: OrderedDict[int, T], key: int, size: int, make: Callable[[], T]) -> T:
    """Return what is kept under `key`, made if it is not; the longest unused goes first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > size:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]
