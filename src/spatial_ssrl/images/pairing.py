"""Finds the files of a folder that belong together, by patterns with named fields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.tree import files_below

_TOKEN = re.compile(r"\{(\w+)\}|\*\*/|\*|\?|[^{}*?]+|.", re.DOTALL)
_GLOB = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the expression that relative posix paths must match in full.

    Args:
        pattern: A path in which `*` and `?` stay within a folder, `**/` is any folders, and
            `{name}` is any text, folders included. The same field twice must hold the same text.

    Raises:
        ConfigError: If a brace does not belong to a field.
    """
    parts, seen = [], set()
    for token in _TOKEN.finditer(pattern):
        text, field = token.group(0), token.group(1)
        if field is not None:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>.+)")
            seen.add(field)
        elif text in ("{", "}"):
            raise ConfigError(
                f"pattern {pattern!r} has a stray {text!r}; write a field as {{name}}."
            )
        else:
            parts.append(_GLOB.get(text) or re.escape(text))
    return re.compile("".join(parts))


def matching(patterns: Mapping[str, str]) -> None:
    """Check that patterns can be matched with each other.

    Args:
        patterns: Pattern by the name of its setting.

    Raises:
        ConfigError: If they do not all have the same fields.
    """
    fields = {name: set(compile_pattern(text).groupindex) for name, text in patterns.items()}
    (first, expected), *others = fields.items()
    for name, found in others:
        if found != expected:
            raise ConfigError(
                f"{first} {patterns[first]!r} and {name} {patterns[name]!r} must have the same "
                "fields in braces, such as {name}, or none at all."
            )


def find_groups(root: Path, patterns: Mapping[str, str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the files that belong together, and the files that are alone.

    With fields, files belong together when all fields hold the same text. Without, the sorted
    lists are matched in order and must be of equal length.

    Args:
        root: Folder to search.
        patterns: Pattern by the name of its setting, for messages.

    Returns:
        One tuple of relative posix paths per group, in the order of `patterns`, sorted; and the
        files of the first pattern that have no partner, sorted.

    Raises:
        ConfigError: If a pattern matches nothing, the counts differ, or a match is ambiguous.
    """
    visible = files_below(root)
    found = {
        name: match_names(visible, compile_pattern(text), f"{name} {text!r}")
        for name, text in patterns.items()
    }
    for name, matches in found.items():
        if not matches:
            raise ConfigError(
                f"{name} {patterns[name]!r} matches no file in {str(root)!r}; "
                "patterns are relative to the folder."
            )
    first, *_ = found.values()
    if not compile_pattern(next(iter(patterns.values()))).groupindex:
        _check_counts(root, patterns, found)
        return list(zip(*(matches.values() for matches in found.values()), strict=True)), []
    groups = join_matches(list(found.values()))
    if not groups:
        raise ConfigError(
            f"no two files in {str(root)!r} that match {' and '.join(patterns.values())} agree "
            f"in their fields; for example {next(iter(first.values()))} has no partner."
        )
    # `{name}.png` also matches the depth of `{name}_depth.png`, which misses no partner.
    taken = {path for group in groups for path in group}
    return groups, sorted(set(first.values()) - taken)


def match_names(
    names: Iterable[str],
    pattern: re.Pattern[str],
    label: str,
    remedy: str = "replace its wildcards by fields in braces",
) -> dict[tuple[str, ...], str]:
    """Return matching paths by the text of their groups, or by themselves without groups.

    Named groups count in the order of their names, so that patterns may hold them in any order.

    Args:
        names: Relative posix paths.
        pattern: Expression that a path must match in full.
        label: What to call the pattern in a message.
        remedy: What to do when two paths have the same text, for the message.

    Raises:
        ConfigError: If two paths have the same text in all groups.
    """
    found: dict[tuple[str, ...], str] = {}
    fields: list[str] | list[int] = sorted(pattern.groupindex) or list(range(1, pattern.groups + 1))
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        key = tuple(match.group(field) for field in fields) or (name,)
        if key in found:
            raise ConfigError(
                f"{label} matches both {found[key]} and {name} with the same fields; {remedy}."
            )
        found[key] = name
    return found


def join_matches(found: Sequence[Mapping[tuple[str, ...], str]]) -> list[tuple[str, ...]]:
    """Return one tuple of paths for each key that all of `found` have, in its order."""
    first, *others = found
    return [
        (path, *(other[key] for other in others))
        for key, path in first.items()
        if all(key in other for other in others)
    ]


def _check_counts(
    root: Path, patterns: Mapping[str, str], found: Mapping[str, Mapping[tuple[str, ...], str]]
) -> None:
    if len({len(matches) for matches in found.values()}) > 1:
        counts = ", ".join(f"{patterns[name]!r}: {len(found[name])}" for name in found)
        raise ConfigError(
            f"patterns match different numbers of files in {str(root)!r} ({counts}); use a "
            "field such as {name} in each so that files are matched by name."
        )
