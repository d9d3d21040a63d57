"""Which model a run began from: its name, its revision and its licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, try_to_load_from_cache


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is known of a base model without asking anyone.

    Args:
        name: Hub id or folder; "" for a model built from scratch.
        revision: Commit of the hub repository in the cache, else the revision asked for, else "".
        licence: As its card states it; "" when there is no card here, or none in it.
    """

    name: str
    revision: str = ""
    licence: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the name is a folder of this machine."""
        return bool(self.name) and Path(self.name).expanduser().is_dir()

    @property
    def shown(self) -> str:
        """The name for others to read: folders of this machine without the way to them."""
        return Path(self.name).name if self.is_local else self.name


def base_of(policy_settings: Mapping[str, Any], moved: str | None = None) -> BaseModel:
    """Return the base model of a policy.

    Args:
        policy_settings: Class path and arguments of the policy in a saved config.
        moved: Where the base model is now, if not where the config says.
    """
    arguments = policy_settings.get("init_args") or {}
    name = str(moved or arguments.get("model") or "")
    wanted = None if moved else arguments.get("revision")
    if not name:
        return BaseModel("")
    found = _file(name, "config.json", wanted)
    is_cached = found is not None and not Path(name).expanduser().is_dir()
    revision = found.parent.name if found is not None and is_cached else (wanted or "")
    return BaseModel(name, revision, _licence(_file(name, "README.md", wanted)))


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """Return a file of a model in its folder or in the cache of the hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:  # Neither a folder nor a name that the hub allows.
        return None
    return Path(found) if isinstance(found, str) else None


def _licence(card: Path | None) -> str:
    if card is None:
        return ""
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (ValueError, OSError, yaml.YAMLError):  # A card without a header, or with a broken one.
        return ""
    stated = data.get("license") or ""
    return str(data.get("license_name") or stated) if stated == "other" else str(stated)
