"""The exceptions a caller can act on."""

from __future__ import annotations


class SpatialSSRLError(Exception):
    """Base of every error this library raises on purpose."""


class RegistryError(SpatialSSRLError, LookupError):
    """A component name that is unknown, taken, or cannot be registered."""


class ConfigError(SpatialSSRLError, ValueError):
    """A setting that cannot work; the message names the key, the value and the remedy."""


class SceneRejected(SpatialSSRLError):
    """A scene or draw from which no question with a unique answer can be made.

    Args:
        reason: Short, stable sentence without numbers, so that reasons can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SceneUnreadable(SpatialSSRLError):
    """A file that cannot be decoded into a scene; the message names the file and the cause."""


class SelfCheckFailed(SpatialSSRLError):
    """A fit would compute something else than it should; says what, where and by how much."""


class PolicyNotLoaded(SpatialSSRLError):
    """A policy was used before `load()`."""


class NotFinite(SpatialSSRLError):
    """A reward, loss or gradient that is NaN or infinite.

    The message names the step, the question and what to do.
    """
