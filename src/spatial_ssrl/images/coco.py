"""Photos of a COCO data set, with the licence of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.photo_files import PhotoFiles


@IMAGE_SOURCES.register("coco")
class CocoImages(PhotoFiles):
    """Photos that a COCO annotation file lists, sorted by file name; no depth.

    Only the parts `images` and `licenses` of the file are used, so that any of its annotation
    files will do (the smallest of a split is read fastest). Photos are read as `ImageFolder`
    reads them. Files that are listed but missing or broken are left out with one warning and
    named by `left_out`; photos under a licence that is not asked for are not looked at. The
    licence of a scene is its name and address in the file, or "" where the file states none.
    `source_id` is the `file_name`.

    Args:
        folder: Folder that holds the photos, such as `val2017`; `~` is expanded.
        annotations: Annotation file, such as `annotations/captions_val2017.json`.
        licences: Take only photos under these, each an id, a name or an address as the file
            gives it; null takes all.
        limit: Take at most this many photos, the first in the order of their names.
        size: Scale photos down so that the longer side is at most this, in pixels; null keeps
            their sizes.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        trim_frame: Whether to cut off uniform black or white frames; see `find_frame`.

    Raises:
        ConfigError: If `limit` or `size` is below 1, `square` is set without `size`, or
            `licences` is an empty list.
    """

    def __init__(
        self,
        folder: Path | str,
        annotations: Path | str,
        licences: list[int | str] | None = None,
        limit: int | None = None,
        size: int | None = None,
        square: bool = False,
        trim_frame: bool = False,
    ) -> None:
        if licences is not None and not licences:
            raise ConfigError("licences is an empty list; name at least one, or null for all.")
        super().__init__(folder, limit, size, square, trim_frame)
        self.annotations = Path(annotations)
        self.licences = licences
        self._licences: dict[str, str] = {}

    def _licence_of(self, name: str) -> str:
        return self._licences[name]

    def _candidates(self) -> list[str]:
        path = self.annotations.expanduser()
        content = _read(path)
        known = {entry["id"]: _text(entry) for entry in _entries(path, content, "licenses", "id")}
        wanted = None if self.licences is None else _ids(path, content, self.licences)
        licences = {
            str(entry["file_name"]): known.get(entry.get("license"), "")
            for entry in _entries(path, content, "images", "file_name")
            if wanted is None or entry.get("license") in wanted
        }
        if not licences:
            asked = "" if wanted is None else f" under licences {self.licences}"
            raise ConfigError(f"annotations {str(path)!r} lists no image{asked}.")
        for name in licences:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ConfigError(
                    f"annotations {str(path)!r} names {name!r}, which is outside of the folder; "
                    "file names must be relative to it."
                )
        self._licences = licences
        return sorted(licences)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"annotations {str(path)!r} cannot be read ({error.strerror}); give a COCO "
            "annotation file."
        ) from error
    except ValueError as error:
        raise ConfigError(f"annotations {str(path)!r} is not JSON: {error}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ConfigError(
            f"annotations {str(path)!r} has no list 'images'; give a COCO annotation file."
        )
    return content


def _entries(
    path: Path, content: Mapping[str, Any], part: str, key: str
) -> Sequence[Mapping[str, Any]]:
    """Return the entries of one part of the file, after checking that they have a key."""
    entries: Sequence[Mapping[str, Any]] = content.get(part) or []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or key not in entry:
            raise ConfigError(f"annotations {str(path)!r}: {part}[{number}] has no {key!r}.")
    return entries


def _text(licence: Mapping[str, Any]) -> str:
    """Return the name of a licence and its address, whichever it has."""
    parts = [str(licence.get("name") or ""), str(licence.get("url") or "")]
    return ", ".join(part for part in parts if part)


def _ids(path: Path, content: Mapping[str, Any], licences: Sequence[int | str]) -> set[Any]:
    """Return the ids of licences that are given by id, name or address."""
    wanted = set()
    entries = _entries(path, content, "licenses", "id")
    for licence in licences:
        found = {
            entry["id"]
            for entry in entries
            if licence in (entry["id"], str(entry["id"]), entry.get("name"), entry.get("url"))
        }
        if not found:
            known = "; ".join(f"{entry['id']} {_text(entry)}" for entry in entries)
            raise ConfigError(
                f"licences names {licence!r}, which {str(path)!r} does not list; it lists: {known}."
            )
        wanted |= found
    return wanted
