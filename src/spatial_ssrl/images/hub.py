"""Pictures of Hugging Face data sets, on the hub or on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.hub_rows import HubColumns, PictureFit, decode_row
from spatial_ssrl.images.hub_tables import Origin, copy_path, read_copy, write_copy


@IMAGE_SOURCES.register("hub_images")
class HubImages(ImageSource):
    """Pictures of a Hugging Face data set, in the order of its rows, with depth if it has any.

    A set is an id of the hub, a folder written by `save_to_disk`, or parquet files on disk. A
    set on the hub is downloaded whole by `prepare`, into the cache of the `datasets` library,
    unless `stream_to` is given. Scenes are asked for in any order, which a stream cannot serve;
    so a streamed set is read once, by `prepare`, and its first `limit` rows are copied as they
    are to a file in the folder `stream_to`, from which scenes are then read. A finished copy is
    used again for the same settings; delete it after changing files on disk.

    Rows without a picture are left out and named by `left_out`; a picture that cannot be decoded
    raises `SceneUnreadable` when it is asked for. `source_id` is the name of the set, its config
    and split, and the number of the row.

    Args:
        dataset: Id such as `owner/name`, folder, or parquet file or pattern; `~` is expanded.
            What exists on disk is never looked for on the hub.
        split: Split of a set on the hub or of a saved dictionary of splits. Parquet files are
            all taken.
        config: Variant of a set on the hub that has several.
        revision: Commit or tag of a set on the hub. It must be given, since a set there can
            change under its name and the same seed would then make other questions; `main`
            accepts that.
        columns: Which columns are read.
        limit: Take the first rows only, at most this many.
        stream_to: Folder for the copy of a streamed set; null does not stream.
        fit: What is done to every picture.

    Raises:
        ConfigError: If `limit` is below 1, or missing for a stream.
    """

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        config: str | None = None,
        revision: str | None = None,
        columns: HubColumns = HubColumns(),  # noqa: B008 - frozen.
        limit: int | None = None,
        stream_to: Path | str | None = None,
        fit: PictureFit = PictureFit(),  # noqa: B008 - frozen.
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1 row or null, got {limit}.")
        if stream_to is not None and limit is None:
            raise ConfigError("stream_to needs a limit: how many rows of the stream to copy.")
        self.dataset = dataset
        self.split = split
        self.config = config
        self.revision = revision
        self.columns = columns
        self.limit = limit
        self.stream_to = None if stream_to is None else Path(stream_to)
        self.fit = fit
        self.has_depth = columns.depth is not None
        self._origin = Origin(dataset, config, split, revision)
        self._table: Any = None
        self._image = ""
        self._licence = ""
        self._rows: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._empty: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows with a picture.

        Raises:
            ConfigError: If the set cannot be loaded, has no such columns or no picture, or is
                streamed and was not prepared.
        """
        self._opened()
        return len(self._rows)

    def prepare(self) -> None:
        """Download or stream the set, and check that one picture can be decoded.

        Raises:
            ConfigError: If the set cannot be loaded, has no such columns, or has no picture
                that can be decoded.
        """
        copy = self._copy()
        if copy is not None and not copy.is_file():
            stream = self._origin.load(streaming=True)
            rows = _undecoded(stream, self._kept(stream))
            write_copy(rows, copy, self.limit or 0, self._origin.licence(stream))
        cause = ""
        for index in range(len(self)):
            try:
                self.scene(index)
            except SceneUnreadable as error:
                cause = cause or str(error)
            else:
                return
        raise ConfigError(f"dataset {self.dataset!r} holds no readable picture: {cause}")

    def scene(self, index: int) -> Scene:
        """Decode the picture of row `index`, counted without rows that have none.

        Raises:
            SceneUnreadable: If it, or its depth, cannot be decoded.
        """
        name = self.source_id(index)
        row = self._opened()[int(self._rows[index])]
        image, depth = decode_row(row, name, self._image, self.columns, self.fit)
        licence = self._licence if self.columns.licence is None else row[self.columns.licence]
        unit = self.columns.depth_unit
        return Scene(image, name, depth, unit, "" if licence is None else str(licence))

    def source_id(self, index: int) -> str:
        """Return the name of the set and the row of scene `index`.

        Raises:
            IndexError: If there is no such scene.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} is out of range: there are {len(self)}.")
        return f"{self._origin.name}/{self._rows[index]}"

    def left_out(self) -> Mapping[str, str]:
        """Return the rows that have no picture."""
        self._opened()
        return {f"{self._origin.name}/{row}": "no picture" for row in self._empty}

    def _copy(self) -> Path | None:
        if self.stream_to is None or self.limit is None:
            return None
        columns = (self.columns.image, self.columns.depth, self.columns.licence)
        return copy_path(self.stream_to.expanduser(), self._origin, self.limit, columns)

    def _opened(self) -> Any:
        # Kept once opened, and pickled along as the paths of its files, so that workers do not
        # ask the hub again.
        if self._table is None:
            copy = self._copy()
            if copy is None:
                table = self._origin.load(streaming=False)
                self._licence = self._origin.licence(table)
                table = table.select(range(min(self.limit or len(table), len(table))))
            else:
                table, self._licence = read_copy(copy)
            names = self._kept(table)
            self._image = names[0]
            table = _undecoded(table, names)
            has_picture = _has_picture(table, self._image)
            self._rows = np.flatnonzero(has_picture)
            self._empty = tuple(int(row) for row in np.flatnonzero(~has_picture))
            if not self._rows.size:
                raise ConfigError(
                    f"dataset {self.dataset!r} has no picture in column {self._image!r} of its "
                    f"{len(table)} rows."
                )
            self._table = table
        return self._table

    def _kept(self, table: Any) -> list[str]:
        """Return the columns that are read, the picture's first."""
        from datasets import Image as ImageFeature

        kinds = dict(table.features or {})
        asked = [self.columns.image, self.columns.depth, self.columns.licence]
        for name in asked:
            if name is not None and name not in kinds:
                raise ConfigError(
                    f"dataset {self.dataset!r} has no column {name!r}; it has {', '.join(kinds)}."
                )
        pictures = [
            name
            for name, kind in kinds.items()
            if isinstance(kind, ImageFeature) and name != self.columns.depth
        ]
        if self.columns.image is None and len(pictures) != 1:
            raise ConfigError(
                f"dataset {self.dataset!r} has {len(pictures)} columns of pictures among "
                f"{', '.join(kinds) or 'none known'}; name one as columns.image."
            )
        return [name for name in (self.columns.image or pictures[0], *asked[1:]) if name]


def _undecoded(table: Any, names: list[str]) -> Any:
    """Return only the named columns, pictures as the bytes of their files."""
    from datasets import Image as ImageFeature

    table = table.select_columns(list(dict.fromkeys(names)))
    for name in names:
        if name == names[0] or isinstance(table.features[name], ImageFeature):
            table = table.cast_column(name, ImageFeature(decode=False))
    return table


def _has_picture(table: Any, name: str) -> npt.NDArray[np.bool_]:
    """Return which rows have a picture, without reading any."""
    import pyarrow.compute as pc

    parts = [np.empty(0, bool)]
    for batch in table.select_columns([name]).with_format("arrow").iter(1000):
        cells = batch.column(name).combine_chunks()
        inside = pc.or_(
            pc.is_valid(pc.struct_field(cells, "bytes")),
            pc.is_valid(pc.struct_field(cells, "path")),
        )
        parts.append(np.asarray(pc.and_(pc.is_valid(cells), inside)))
    return np.concatenate(parts)
