"""Every kind of component in one place: which package holds it, and under which registry.

Naming the kinds imports nothing heavy; the registries themselves live in packages some of
which need torch, so they are imported when asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from spatial_ssrl.core.plugins import load_plugins
from spatial_ssrl.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of component and where its registry is.

    Args:
        word: Name of the subpackage, which is what the command line calls the kind ("tasks").
        registry: Name of the registry in `spatial_ssrl.<word>.base` ("TASKS").
        title: What the components are, for a reader who has not seen one.
    """

    word: str
    registry: str
    title: str

    @property
    def package(self) -> str:
        """Import path of the subpackage that holds the built-in components."""
        return f"spatial_ssrl.{self.word}"

    @property
    def module(self) -> str:
        """Import path of the module that holds the registry."""
        return f"{self.package}.base"

    def load(self) -> Registry[Any]:
        """Import the family and return its registry, built-in components registered."""
        # Any: registries of unlike components stand in one tuple.
        registry: Registry[Any] = getattr(importlib.import_module(self.module), self.registry)
        return registry


FAMILIES = (
    Family("images", "IMAGE_SOURCES", "image sources: where pictures and depth come from"),
    Family("tasks", "TASKS", "pretext tasks: how a question is made from a picture"),
    Family("verifiers", "VERIFIERS", "verifiers: how a completion is rewarded"),
    Family("policies", "POLICIES", "policies: the vision-language models that are trained"),
    Family("rollout", "ROLLOUTS", "rollout engines: how completions are sampled"),
    Family("algorithms", "ALGORITHMS", "algorithms: how rewards become a loss"),
)

# Named in YAML by class name too, though nothing looks them up by key.
UNREGISTERED = (
    "spatial_ssrl.data",
    "spatial_ssrl.training",
    "spatial_ssrl.training.callbacks",
    "spatial_ssrl.evaluation",
)


def registries() -> tuple[Registry[Any], ...]:
    """Return every registry, built-in components registered; imports torch."""
    return tuple(family.load() for family in FAMILIES)


def import_everything() -> None:
    """Import every built-in component and plug-in, so that YAML can use bare class names."""
    registries()
    for module in UNREGISTERED:
        importlib.import_module(module)
    load_plugins()
