"""Third-party components, found by entry point and loaded on the first look-up."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

GROUP = "spatial_ssrl.plugins"

_log = logging.getLogger(__name__)
_loaded = False
_failures: dict[str, str] = {}
_loading: str | None = None


def load_plugins() -> None:
    """Import each module named under the `spatial_ssrl.plugins` entry-point group, once.

    A plug-in that fails is recorded and logged; it never stops a run. The environment
    variable `SPATIAL_SSRL_PLUGINS=0` turns loading off.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True
    if os.environ.get("SPATIAL_SSRL_PLUGINS") == "0":
        return
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        _load(point)


def failures() -> Mapping[str, str]:
    """Return the reason each broken plug-in failed, by entry-point name."""
    return dict(_failures)


def distribution_being_loaded() -> str | None:
    """Return the distribution whose plug-in module is being imported now, if any."""
    return _loading


def _load(point: EntryPoint) -> None:
    global _loading
    _loading = point.dist.name if point.dist is not None else point.name
    try:
        importlib.import_module(point.module)
    # A stranger's module may raise anything; ours must go on.
    except Exception as error:  # noqa: BLE001
        _failures[point.name] = f"{type(error).__name__}: {error}"
        _log.warning("Plug-in %r failed to load: %s", point.name, _failures[point.name])
    finally:
        _loading = None
