"""The one registry: an index over component classes, by key and by class name."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Generic, TypeVar

from spatial_ssrl.core import plugins
from spatial_ssrl.core.errors import RegistryError

T = TypeVar("T")
C = TypeVar("C", bound=type)

_KEY = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_OWN_PACKAGE = "spatial_ssrl"


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One registered class.

    Args:
        key: Stable lower_snake name, written to data files, logs and reports.
        cls: The class; its bare name is what YAML uses.
        origin: "spatial_ssrl", or the distribution that supplies the class.
    """

    key: str
    cls: type[T]
    origin: str

    @property
    def class_path(self) -> str:
        """Shortest import path under which the class can be reached."""
        return _shortest_path(self.cls)

    @property
    def summary(self) -> str:
        """First line of the class's own docstring, or "" when there is none."""
        return inspect.cleandoc(self.cls.__doc__ or "").partition("\n")[0]

    @property
    def source(self) -> tuple[Path, int]:
        """File and line where the class is defined."""
        return Path(inspect.getsourcefile(self.cls) or "?"), inspect.getsourcelines(self.cls)[1]

    @property
    def is_plugin(self) -> bool:
        """Whether another distribution supplies the class."""
        return self.origin != _OWN_PACKAGE


class Registry(Generic[T]):
    """Names the classes of one kind of component; it never builds or configures them.

    Registering proves that a class can be named in YAML by its bare name: it subclasses the
    base, is public, concrete and importable, and no other class of the kind has that name.
    Plug-ins are loaded on the first look-up, not on import.

    Args:
        base: Abstract base every registered class must subclass.
        kind: What the classes are, in the singular, for messages ("task").
    """

    def __init__(self, base: type[T], kind: str) -> None:
        self.base = base
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, key: str) -> Callable[[C], C]:
        """Return a decorator that registers a class under `key`.

        Args:
            key: Stable lower_snake name, such as "depth_order". Never change a released key.

        Raises:
            RegistryError: If the key is malformed or taken, or if the class is abstract,
                private, local, of another base, or shares its name with a registered class.
        """
        if not _KEY.fullmatch(key):
            raise RegistryError(
                f"{self.kind} key {key!r} must be lower_snake, such as 'depth_order'."
            )

        def decorate(cls: C) -> C:
            self._check(key, cls)
            self._entries[key] = Entry(key, cls, _origin_of(cls))
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """Return the class with this key or bare class name.

        Raises:
            RegistryError: If nothing has that name; the message lists close matches, every
                key, and each plug-in that failed to load.
        """
        entry = self._find(name)
        if entry is None:
            raise RegistryError(self.explain_unknown(name))
        return entry.cls

    def key_of(self, obj: T | type[T]) -> str:
        """Return the key of a registered class, of an instance, or of its nearest ancestor.

        Raises:
            RegistryError: If neither the class nor an ancestor is registered.
        """
        cls = obj if isinstance(obj, type) else type(obj)
        plugins.load_plugins()
        for ancestor in cls.__mro__:
            for entry in self._entries.values():
                if entry.cls is ancestor:
                    return entry.key
        raise RegistryError(
            f"{cls.__name__} is not a registered {self.kind}; put the `register` decorator of "
            f'the registry of {self.base.__name__} on it, as in @TASKS.register("its_key").'
        )

    def entries(self) -> tuple[Entry[T], ...]:
        """Return every entry, plug-ins included, sorted by key."""
        plugins.load_plugins()
        return tuple(self._entries[key] for key in sorted(self._entries))

    def suggest(self, name: str) -> list[str]:
        """Return up to three registered keys or class names close to `name`, ignoring case."""
        names = {
            spelling.lower(): spelling
            for entry in self.entries()
            for spelling in (entry.key, entry.cls.__name__)
        }
        close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
        return [names[match] for match in close]

    def explain_unknown(self, name: str) -> str:
        """Return the message for a name nobody registered: close matches, keys, broken plug-ins."""
        parts = [f"Unknown {self.kind} {name!r}."]
        if close := self.suggest(name):
            parts.append(f"Did you mean {' or '.join(close)}?")
        parts.append(f"Known: {', '.join(entry.key for entry in self.entries()) or 'none'}.")
        for plugin, reason in plugins.failures().items():
            parts.append(f"Plug-in {plugin!r} failed to load: {reason}.")
        return " ".join(parts)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (entry.key for entry in self.entries())

    def __len__(self) -> int:
        return len(self.entries())

    def _find(self, name: str) -> Entry[T] | None:
        for entry in self.entries():
            if name in (entry.key, entry.cls.__name__):
                return entry
        return None

    def _check(self, key: str, cls: type) -> None:
        where = f"{cls.__module__}.{cls.__qualname__}"
        if not issubclass(cls, self.base):
            raise RegistryError(f"{where} must subclass {self.base.__name__} to be a {self.kind}.")
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
            raise RegistryError(f"{where} is abstract; implement {missing} before registering it.")
        if "<locals>" in cls.__qualname__:
            raise RegistryError(
                f"{where} is defined inside a function; move it to the top of a module so that "
                "YAML can name it."
            )
        if any(
            part.startswith("_") and part != "__main__" for part in _shortest_path(cls).split(".")
        ):
            raise RegistryError(
                f"{where} is private; give the class and a module it is exported from names "
                "without a leading underscore so that YAML can name it."
            )
        for entry in self._entries.values():
            same = (entry.cls.__module__, entry.cls.__qualname__) == (
                cls.__module__,
                cls.__qualname__,
            )
            if same and entry.key == key:
                continue  # A notebook cell or a reload defines the same class again.
            if entry.key == key or entry.cls.__name__ == cls.__name__:
                held = f"{entry.cls.__module__}.{entry.cls.__qualname__}"
                raise RegistryError(
                    f"{self.kind} {key!r} ({where}) clashes with {entry.key!r} ({held}); "
                    "choose another key and class name."
                )


def _origin_of(cls: type) -> str:
    package = cls.__module__.partition(".")[0]
    if package == _OWN_PACKAGE:
        return _OWN_PACKAGE
    supplier = plugins.distribution_being_loaded()
    if supplier is not None:
        return supplier
    return (packages_distributions().get(package) or [package])[0]


def _shortest_path(cls: type) -> str:
    import sys

    parts = cls.__module__.split(".")
    for length in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:length]))
        if module is not None and getattr(module, cls.__name__, None) is cls:
            return ".".join([*parts[:length], cls.__name__])
    return f"{cls.__module__}.{cls.__qualname__}"
