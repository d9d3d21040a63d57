"""Scenes of another source, rendered once and read from disk."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.cache_files import Manifest, open_arrays, read_manifest, write_cache

_STALE_S = 3600.0


@IMAGE_SOURCES.register("cached_scenes")
class CachedScenes(ImageSource):
    """Scenes of another source, rendered once by `prepare` and then read from disk.

    The cache is believed only if it was finished and made from the same settings of the source;
    anything else is made again. To notice a source that draws differently under the same
    settings, the first and the last scene are drawn and compared as well; files that change in
    the middle of a folder are not noticed, so delete the cache after replacing photos.

    Scenes must all be of one size. A scene that cannot be read stays unreadable. When the source
    has no depth, none is stored: to mix drawn scenes with photos, cache the drawn ones and join
    them with the photos by `ConcatSources`, not the other way round.

    Args:
        source: Where scenes come from. Its constructor's arguments must be kept as attributes of
            the same names, since they identify the cache.
        folder: Where the cache is kept, a folder of its own; `~` is expanded.
        processes: How many processes render; null takes one per available core.

    Raises:
        ConfigError: If `processes` is below 1.
    """

    def __init__(
        self, source: ImageSource, folder: Path | str, processes: int | None = None
    ) -> None:
        if processes is not None and processes < 1:
            raise ConfigError(f"processes must be at least 1 or null, got {processes}.")
        self.source = source
        self.folder = Path(folder)
        self.processes = processes
        self.has_depth = source.has_depth
        self._manifest: Manifest | None = None
        self._arrays: tuple[Any, Any] | None = None  # Memory maps, opened where they are used.

    def __len__(self) -> int:
        return len(self.source)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}

    def prepare(self) -> None:
        """Render every scene of the source unless the cache already holds them.

        Raises:
            ConfigError: If scenes differ in size, the folder cannot be written, or the source
                cannot be identified.
        """
        self.source.prepare()
        fingerprint = fingerprint_of(self.source)
        root = self.folder.expanduser()
        manifest = read_manifest(root, fingerprint)
        if manifest is None:
            manifest = write_cache(self.source, root, fingerprint, self.processes or _cores())
            _remove_others(root, fingerprint)
        self._manifest, self._arrays = manifest, None

    def scene(self, index: int) -> Scene:
        """Read scene `index` from disk.

        Raises:
            ConfigError: If `prepare` was not called.
            SceneUnreadable: If the source could not decode it.
        """
        manifest = self._believed()
        name = self.source_id(index)
        if index in manifest.unreadable:
            raise SceneUnreadable(manifest.unreadable[index])
        if self._arrays is None:
            self._arrays = open_arrays(self.folder.expanduser(), manifest)
        images, depths = self._arrays
        return Scene(
            image=np.array(images[index]),
            source_id=name,
            depth=None if depths is None else np.array(depths[index]),
            depth_unit="metre" if manifest.in_metres[index] else "relative",
            licence=manifest.licences[index],
        )

    def source_id(self, index: int) -> str:
        """Return the name of scene `index`.

        Raises:
            IndexError: If there is no such scene.
        """
        names = self._believed().source_ids
        if not 0 <= index < len(names):
            raise IndexError(f"scene {index} is out of range: there are {len(names)} scenes.")
        return names[index]

    def left_out(self) -> Mapping[str, str]:
        """Return what the cached source left out."""
        return self.source.left_out()

    def _believed(self) -> Manifest:
        if self._manifest is None:
            root = self.folder.expanduser()
            self._manifest = read_manifest(root, fingerprint_of(self.source))
            if self._manifest is None:
                raise ConfigError(
                    f"folder {str(root)!r} holds no finished cache of this source; call prepare() "
                    "once, on one process, before scenes are asked for."
                )
        return self._manifest


def fingerprint_of(source: ImageSource) -> str:
    """Return a hash of the settings of a source and of its first and last scene.

    Raises:
        ConfigError: If the source does not keep its constructor's arguments, or one of them has
            no stable text form.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps([len(source), settings_of(source)], sort_keys=True).encode())
    for index in sorted({0, len(source) - 1} if len(source) else ()):
        try:
            scene = source.scene(index)
        except SceneUnreadable as error:
            digest.update(str(error).encode())
            continue
        digest.update(f"{scene.source_id} {scene.image.shape} {scene.depth_unit}".encode())
        digest.update(scene.image.tobytes())
        digest.update(b"" if scene.depth is None else scene.depth.tobytes())
    return digest.hexdigest()


def settings_of(source: ImageSource) -> dict[str, Any]:
    """Return the class and the constructor's arguments of a source, fit for JSON.

    Raises:
        ConfigError: If an argument is not kept as an attribute or has no stable text form.
    """
    cls = type(source)
    settings: dict[str, Any] = {"class": f"{cls.__module__}.{cls.__qualname__}"}
    for name in list(inspect.signature(cls.__init__).parameters)[1:]:
        if not hasattr(source, name):
            raise ConfigError(
                f"{cls.__name__} cannot be cached: keep its argument {name!r} as self.{name}, so "
                "that the cache can tell whether it was made with the same settings."
            )
        settings[name] = _plain(getattr(source, name), f"{cls.__name__}.{name}")
    return settings


def _plain(value: object, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if isinstance(value, ImageSource):
        return settings_of(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), where)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which cannot identify a cache; use numbers, text, "
        "paths, sources, or lists of them."
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _remove_others(root: Path, fingerprint: str) -> None:
    """Delete arrays of caches that are no longer believed, and what interrupted runs left."""
    for path in root.iterdir():
        is_partial = path.name.endswith(".partial")
        is_array = path.suffix == ".npy" and path.name.startswith(("images-", "depth-"))
        # A young partial file may belong to a run that is still rendering.
        stale = is_partial and time.time() - path.stat().st_mtime > _STALE_S
        if stale or (is_array and fingerprint not in path.name):
            path.unlink(missing_ok=True)
