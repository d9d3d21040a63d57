"""Tables of pictures from the Hugging Face hub or from disk, opened or copied from a stream."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spatial_ssrl.core.errors import ConfigError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Origin:
    """What identifies a table.

    Args:
        dataset: Hub id, folder, or parquet files.
        config: Name of the variant of a hub set, or None.
        split: Name of the split.
        revision: Commit, tag or branch of a hub set, or None.
    """

    dataset: str
    config: str | None
    split: str
    revision: str | None

    @property
    def name(self) -> str:
        """Short name for scenes, without the place on this machine."""
        local = self._is_local()
        name = Path(self.dataset).expanduser().resolve().name if local else self.dataset
        return "/".join(part for part in (name, self.config, self.split) if part)

    def _is_local(self) -> bool:
        return Path(self.dataset).expanduser().exists() or self.dataset.endswith(".parquet")

    def load(self, streaming: bool) -> Any:
        """Return the table, or a stream of its rows.

        Raises:
            ConfigError: If there is no such set, split or revision, or it cannot be reached.
        """
        import datasets

        if not self._is_local():
            self._check_hub_id()
            return self._loaded(
                self.dataset, name=self.config, revision=self.revision, streaming=streaming
            )
        path = Path(self.dataset).expanduser()
        if not any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            files = _parquet_files(path)
            return self._loaded("parquet", data_files=files, split="train", streaming=streaming)
        try:
            table = datasets.load_from_disk(str(path))
        except Exception as error:  # Broken files raise many kinds of error.
            raise self._failure(error) from error
        if isinstance(table, dict):
            if self.split not in table:
                raise ConfigError(
                    f"split {self.split!r} is not in {self.dataset!r}; it has {', '.join(table)}."
                )
            table = table[self.split]
        if not streaming:
            return table
        stream = table.to_iterable_dataset()
        stream.info.license = table.info.license  # Which `datasets` leaves behind.
        return stream

    def licence(self, table: Any) -> str:
        """Return the licence that a set states for all of its pictures, "" if it states none."""
        stated = str(getattr(table.info, "license", None) or "")
        if stated or self._is_local():
            return stated
        try:
            import huggingface_hub

            info = huggingface_hub.HfApi().dataset_info(self.dataset, revision=self.revision)
            stated = getattr(info.card_data, "license", None) or ""
        # The card is a kindness; the pictures are there without it.
        except Exception:  # noqa: BLE001
            return ""
        return stated if isinstance(stated, str) else ", ".join(map(str, stated))

    def _check_hub_id(self) -> None:
        if not _HUB_ID.fullmatch(self.dataset):
            raise ConfigError(
                f"dataset {self.dataset!r} is no folder or parquet file here, nor an id of the "
                "hub such as owner/name."
            )
        if self.revision is None:
            raise ConfigError(
                f"dataset {self.dataset!r} is no folder here, so it is taken as an id of the hub, "
                "which needs a revision: a set there can change under its name, and the same seed "
                "would then make other questions. Give a commit hash or tag, or main to accept "
                "that."
            )

    def _loaded(self, path: str, **settings: Any) -> Any:
        import datasets

        try:
            return datasets.load_dataset(path, **{"split": self.split, **settings})
        except Exception as error:  # The network, the hub and the set's files raise many kinds.
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ConfigError:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        asked = ", ".join(f"{key}={value!r}" for key, value in asdict(self).items() if value)
        return ConfigError(
            f"{asked} cannot be loaded ({type(error).__name__}: {cause}); check the spelling, the "
            "network, and for a set with restricted access that you are logged in, or give a "
            "folder written by save_to_disk."
        )


def copy_path(folder: Path, origin: Origin, limit: int, columns: Sequence[str | None]) -> Path:
    """Return where the copy of the first rows of a stream is kept."""
    identity = json.dumps([asdict(origin), limit, list(columns)], sort_keys=True)
    digest = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
    return folder / f"rows-{digest}.arrow"


def write_copy(rows: Any, path: Path, limit: int, licence: str) -> None:
    """Copy the first rows of a stream, pictures as the bytes they are stored in.

    The copy is put in place last and in one step, so that an interrupted one is made again. No
    more than a hundred rows are held in memory.

    Args:
        rows: Stream with its pictures undecoded.
        path: Where the copy goes; its folder is made.
        limit: How many rows are copied at most.
        licence: Licence that the set states for all of its pictures.

    Raises:
        ConfigError: If the stream breaks off or the folder cannot be written.
    """
    from datasets import Image
    from datasets.arrow_writer import ArrowWriter

    pictures = [name for name, kind in rows.features.items() if isinstance(kind, Image)]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = ArrowWriter(features=rows.features, path=str(partial), writer_batch_size=_BATCH)
        for row in rows.take(limit):
            fetched = {name: _with_bytes(row[name]) for name in pictures}
            writer.write(rows.features.encode_example({**row, **fetched}))
        writer.finalize()
        writer.stream.close()
        path.with_suffix(".json").write_text(json.dumps({"licence": licence}))
        partial.replace(path)
    except Exception as error:  # The network, the hub and the disk raise many kinds of error.
        raise ConfigError(
            f"the stream could not be copied to {str(path.parent)!r} ({type(error).__name__}: "
            f"{error}); check the network and the disk, and prepare again."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_copy(path: Path) -> tuple[Any, str]:
    """Return a finished copy and the licence of its set.

    Raises:
        ConfigError: If it was not made.
    """
    import datasets

    if not path.is_file():
        raise ConfigError(
            f"stream_to {str(path.parent)!r} holds no finished copy of this set; call prepare() "
            "once, on one process, before scenes are asked for."
        )
    record = json.loads(path.with_suffix(".json").read_text())
    return datasets.Dataset.from_file(str(path)), str(record["licence"])


def picture_bytes(cell: Any) -> bytes | None:
    """Return the content of a picture file from a table's cell, None where there is none."""
    if not isinstance(cell, dict):
        return None
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if not cell.get("path"):
        return None
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return bytes(file.read())


def _with_bytes(cell: Any) -> Any:
    data = picture_bytes(cell)
    return None if data is None else {"bytes": data, "path": None}


def _parquet_files(path: Path) -> list[str]:
    found = path.rglob("*.parquet") if path.is_dir() else path.parent.glob(path.name)
    files = sorted(str(file) for file in found if file.suffix == ".parquet")
    if not files:
        raise ConfigError(
            f"dataset {str(path)!r} holds no parquet files and was not written by save_to_disk; "
            "give a folder or file pattern that does."
        )
    return files
