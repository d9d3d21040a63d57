"""Turns what jsonargparse says of a bad argument into one line with key, value and remedy."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from spatial_ssrl.core.errors import SpatialSSRLError

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)":?(?P<rest>.*)')
_OWNER = re.compile(r"Problem with given class_path '(?P<path>[^']+)':?(?P<rest>.*)")
# Said of a name that is no class; the wording is jsonargparse's and pinned by a test.
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (?P<name>.+)")
_NO_ATTRIBUTE = re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'")
_UNKNOWN_SETTING = re.compile(r"Option '(?P<name>[^']+)' is not accepted")
_UNKNOWN_OPTION = re.compile(
    r"(Subcommand '[^']+' does not accept option '|[Uu]nrecognized arguments: --)(?P<name>[^'=\s]+)"
)
_BARE_FILE = re.compile(r"[Uu]nrecognized arguments: (?P<name>\S+\.ya?ml)\b")
_MISSING = re.compile(r"the following arguments are required: (?P<names>.+)")
_TYPE = re.compile(
    r"Expected an? (<class '(?P<type>[^']+)'>|typing\.Literal\[(?P<choices>.*)\])"
    r"(\. Got value: (?P<value>.*))?"
)
_VALUE = re.compile(r"Given value: (?P<value>.*)")
_NOISE = re.compile(
    r"Does not validate against|Subtypes:|Errors:|Given value type:|Expected a path but|"
    r"Subclass types expect one of:|a class path \(str\)|a dict with"
)


class UsageError(SpatialSSRLError):
    """An argument or a config value that cannot be used; the message is one line."""


@dataclass(slots=True)
class _Reading:
    """What was found in a message, from the outside in.

    Args:
        keys: Keys on the way to the value that is wrong.
        owner: Import path of the class whose setting is wrong, or "".
        reasons: What is wrong, first alternative first.
        types: Names of the types that would have been right.
        value: The value, as text, or "" when it is not said.
        depth: Indentation of the first type or reason; lines further out speak of its parents.
    """

    keys: list[str] = field(default_factory=list)
    owner: str = ""
    reasons: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    value: str = ""
    depth: int | None = None


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Return one line that says which key is wrong, why, and what to write instead.

    Args:
        message: What jsonargparse reports, often a tree of alternatives over many lines.
        options: Names of the options the command takes, to suggest from.
    """
    reading = _read(message)
    key = ".".join(reading.keys)
    reason = reading.reasons[0] if reading.reasons else ""
    for pattern, describe in _DESCRIPTIONS:
        if match := pattern.search(reason):
            text = describe(match, reading, list(options))
            return f"{key}: {text}" if key else text
    if not reason and reading.types:
        reason = f"expected {' or '.join(reading.types)}, got {reading.value!r}."
    if not (reason and (reading.keys or reading.owner)):
        reason = reason if reading.types else " ".join(message.split())
    text = reason or " ".join(message.split())
    return f"{key}: {text}" if key else text


def is_users(error: BaseException) -> bool:
    """Whether an exception speaks of what the user gave rather than of a defect of ours."""
    if isinstance(error, SpatialSSRLError | OSError):
        return True
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return lightning is not None and isinstance(error, lightning.MisconfigurationException)


def one_line(error: BaseException) -> str:
    """Return the message of an exception without line breaks.

    An exception of a data worker carries the worker's whole trace; its last line is the cause.
    """
    text = str(error).strip()
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{str(error.filename)!r}: {error.strerror}."
    if "Original Traceback" in text:
        text = re.sub(r"^[\w.]+: ", "", text.splitlines()[-1].strip())
    return " ".join(text.split()) or type(error).__name__


def close_matches(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that look like `name`, ignoring case, the best first.

    Names that look much less like it than the best one are left out.
    """
    spellings = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), spellings, n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, name.lower(), word).ratio() for word in found]
    return [
        spellings[word]
        for word, ratio in zip(found, likeness, strict=True)
        if ratio > likeness[0] - 0.1
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean X or Y?", or "" when nothing known looks like `name`."""
    found = close_matches(name, known)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _read(message: str) -> _Reading:
    reading = _Reading()
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ").strip()
        indent = len(raw) - len(raw.lstrip())
        if reading.depth is not None and indent < reading.depth and not _VALUE.match(line):
            continue
        while line:
            line = _read_line(line, reading)
        if reading.depth is None and (reading.reasons or reading.types):
            reading.depth = indent
    return reading


def _read_line(line: str, reading: _Reading) -> str:
    """Note what one line says; return what is left of it to read."""
    settled = bool(reading.reasons or reading.types)
    if match := _KEY.match(line):
        if settled:
            return ""  # Another alternative: the first one went deepest.
        reading.keys.append(match["key"])
        return match["rest"].strip()
    if match := _OWNER.match(line):
        if not settled:
            reading.owner = match["path"]
        return match["rest"].strip()
    if match := _VALUE.match(line):
        reading.value = reading.value or match["value"]
    elif match := _TYPE.fullmatch(line):
        name = match["choices"] or match["type"].rpartition(".")[2].replace("NoneType", "null")
        if not reading.reasons and name not in reading.types:
            reading.types.append(name)
        reading.value = reading.value or match["value"] or ""
    elif not _NOISE.match(line):
        reading.reasons.append(line)
    return ""


def _unknown_class(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    name = match["name"].strip()
    meant = _class_for_key(name)
    hint = f" In YAML write the class name, {meant}." if meant else ""
    hint = hint or did_you_mean(name, _class_names())
    return f"no class is called {name!r}.{hint} `spatial-ssrl list` shows all names."


def _no_attribute(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    hint = did_you_mean(match["name"], _public_classes(match["module"]) + _class_names())
    return f"module {match['module']!r} has no class {match['name']!r}.{hint}"


def _unknown_setting(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    name, owner = match["name"], reading.owner.rpartition(".")[2]
    known = _settings(reading.owner)
    hint = did_you_mean(name, known) or (f" It takes: {', '.join(known)}." if known else "")
    return f"{owner or 'this command'} has no setting {name!r}.{hint}"


def _unknown_option(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    return f"there is no option {match['name']!r}.{did_you_mean(match['name'], options)}"


def _bare_file(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    return f"{match['name']!r} stands alone; a config file is given by -c {match['name']}."


def _missing(match: re.Match[str], reading: _Reading, options: list[str]) -> str:
    owner = reading.owner.rpartition(".")[2]
    names = [name.strip() for name in match["names"].split(",")]
    if owner:
        return f"{owner} needs a value for {' and '.join(names)}."
    names = [name.partition(".")[2] or name for name in names]
    return f"no value for {' and '.join(names)}; give it as an option or in a file: --config FILE."


_DESCRIPTIONS = (
    (_UNKNOWN_CLASS, _unknown_class),
    (_NO_ATTRIBUTE, _no_attribute),
    (_UNKNOWN_SETTING, _unknown_setting),
    (_UNKNOWN_OPTION, _unknown_option),
    (_BARE_FILE, _bare_file),
    (_MISSING, _missing),
)


def _class_for_key(key: str) -> str:
    """Return the class name behind a registry key, or "" when nothing has that key."""
    from spatial_ssrl.components import registries

    for registry in registries():
        for entry in registry.entries():
            if entry.key == key:
                return entry.cls.__name__
    return ""


def _class_names() -> list[str]:
    """Return the bare names YAML may use: registered classes, modules, data and callbacks."""
    from spatial_ssrl.components import UNREGISTERED, registries

    registered = [entry.cls.__name__ for reg in registries() for entry in reg.entries()]
    modules = (*UNREGISTERED, "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
    return registered + [name for module in modules for name in _public_classes(module)]


def _public_classes(module: str) -> list[str]:
    try:
        members = vars(importlib.import_module(module))
    except ImportError:
        return []
    return [name for name, value in members.items() if isinstance(value, type) and name[0] != "_"]


def _settings(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    return list(inspect.signature(cls).parameters)
