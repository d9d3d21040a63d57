"""Components in words: what a manifest says of the sources and tasks of a set."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import Any

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.images import IMAGE_SOURCES, ImageSource
from spatial_ssrl.tasks import TASKS, PretextTask


def described(component: ImageSource | PretextTask) -> dict[str, Any]:
    """Return the class and the constructor's arguments of a component, as a config writes them.

    Raises:
        ConfigError: If the component does not keep an argument as an attribute of its name, or
            an argument has no form that JSON can store.
    """
    cls = type(component)
    arguments: dict[str, Any] = {}
    for name in inspect.signature(cls).parameters:
        if not hasattr(component, name):
            raise ConfigError(
                f"{cls.__name__} cannot be named in a manifest: keep its argument {name!r} as "
                f"self.{name}."
            )
        arguments[name] = _plain(getattr(component, name), f"{cls.__name__}.{name}")
    return {"class_path": _name(component), "init_args": arguments}


def scenes_digest(source: ImageSource) -> str:
    """Return a hash of a source's size and of its first and last scene, to tell it again."""
    digest = hashlib.blake2b(str(len(source)).encode(), digest_size=8)
    for index in sorted({0, len(source) - 1}):
        digest.update(source.source_id(index).encode())
        try:
            scene = source.scene(index)
        except SceneUnreadable as error:
            digest.update(str(error).encode())
            continue
        digest.update(repr(scene.image.shape).encode() + scene.image.tobytes())
        digest.update(b"" if scene.depth is None else scene.depth.tobytes())
    return digest.hexdigest()


def _name(component: ImageSource | PretextTask) -> str:
    """Return the bare class name of a registered component, else its import path."""
    cls = type(component)
    registry: Any = IMAGE_SOURCES if isinstance(component, ImageSource) else TASKS
    if any(entry.cls is cls for entry in registry.entries()):
        return cls.__name__
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: object, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, ImageSource | PretextTask):
        return described(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), f"{where}.{name}") for name in names}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which a manifest cannot store; use numbers, text, "
        "paths, components, or lists of them."
    )
