"""`spatial-ssrl list`: tables of what is registered.

Answering must not take the seconds that importing torch takes, so built-in components are read
from the source files by `ast`, and only plug-ins, when there are any, are imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from spatial_ssrl.components import FAMILIES, Family
from spatial_ssrl.core import plugins
from spatial_ssrl.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Args:
        key: Registry key.
        name: Class name, which is what YAML uses.
        origin: "spatial_ssrl", or the distribution of a plug-in.
        summary: First line of the class docstring.
    """

    key: str
    name: str
    origin: str
    summary: str


def list_components(kind: str | None = None) -> None:
    """Show what is registered: tasks, verifiers, policies, algorithms and the rest.

    Args:
        kind: One kind only: images, tasks, verifiers, policies, rollout or algorithms.
    """
    families = FAMILIES if kind is None else (_family(kind),)
    plugins.load_plugins()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n\n".join(_table(family, rows(family), width) for family in families))
    for name, reason in plugins.failures().items():
        print(f"plug-in {name!r} failed to load: {reason}", file=sys.stderr)


def rows(family: Family) -> list[Row]:
    """Return the rows of one kind, sorted by key, loaded plug-ins included."""
    found = built_in_rows(family)
    if (module := sys.modules.get(family.module)) is not None:
        # A plug-in that registers a component has imported that component's registry.
        found += [
            Row(entry.key, entry.cls.__name__, entry.origin, entry.summary)
            for entry in getattr(module, family.registry).entries()
            if entry.is_plugin
        ]
    return sorted(found, key=lambda row: row.key)


def built_in_rows(family: Family) -> list[Row]:
    """Return the rows of the built-in components of one kind, read from their source."""
    spec = importlib.util.find_spec("spatial_ssrl")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = (path for folder in folders for path in Path(folder, family.word).rglob("*.py"))
    return [row for path in files for row in _rows_in(path, family.registry)]


def _rows_in(path: Path, registry: str) -> list[Row]:
    source = path.read_text(encoding="utf-8")
    if f"@{registry}.register" not in source:
        return []
    return [
        Row(key, node.name, "spatial_ssrl", (ast.get_docstring(node) or "").partition("\n")[0])
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for key in _keys(node, registry)
    ]


def _keys(node: ast.ClassDef, registry: str) -> list[str]:
    return [
        decorator.args[0].value
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and ast.unparse(decorator.func) == f"{registry}.register"
        and isinstance(decorator.args[0], ast.Constant)
        and isinstance(decorator.args[0].value, str)
    ]


def _family(kind: str) -> Family:
    words = {family.word: family for family in FAMILIES}
    asked = kind.lower().rstrip("s")
    for word, family in words.items():
        if asked in (word.rstrip("s"), word.removesuffix("ies") + "y"):
            return family
    close = difflib.get_close_matches(kind.lower(), words, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"kind {kind!r} is unknown; {hint}choose from {', '.join(words)}.")


def _table(family: Family, found: list[Row], width: int | None) -> str:
    head = f"{family.word} ({family.title})"
    if not found:
        return f"{head}\n  none"
    key_width = max(len(row.key) for row in found)
    name_width = max(len(row.name) for row in found)
    lines = [head]
    for row in found:
        mark = "" if row.origin == "spatial_ssrl" else f" [plug-in: {row.origin}]"
        lines.append(
            f"  {row.name:<{name_width}}  {row.key:<{key_width}}  {row.summary}{mark}"[:width]
        )
    return "\n".join(lines)
