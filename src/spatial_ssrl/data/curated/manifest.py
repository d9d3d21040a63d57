"""What a curated set is and holds, as one JSON file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.curated.plan import FORMAT, SetPlan
from spatial_ssrl.data.curated.shards import DATA, PARTIAL, add_counts, read_record, shard_path

MANIFEST = "manifest.json"
CARD = "README.md"

_MANY_ANSWERS = 100


def opening(plan: SetPlan) -> dict[str, Any]:
    """Return the manifest of a set that is not finished."""
    return {"complete": False, "fingerprint": plan.fingerprint, **plan.identity}


def closing(plan: SetPlan, folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished set, from the records in its shards.

    It depends on the plan and the shards only: not on time, machine or the number of workers.

    Raises:
        ConfigError: If a shard is missing or broken.
    """
    answers: dict[str, dict[str, int]] = {}
    rejections: dict[str, dict[str, int]] = {}
    unreadable: dict[str, int] = {}
    licences: dict[str, int] = {}
    shards = []
    content = hashlib.blake2b(digest_size=16)
    for number in range(plan.shards):
        path = shard_path(folder, number, plan.shards)
        record = read_record(path) if path.exists() else None
        if record is None:
            raise ConfigError(f"out: {str(path)!r} is missing or broken; delete it and run again.")
        for counts, more in ((answers, record.answers), (rejections, record.rejections)):
            for task, found in more.items():
                add_counts(counts.setdefault(task, {}), found)
        add_counts(unreadable, record.unreadable)
        add_counts(licences, record.licences)
        content.update(bytes.fromhex(record.content))
        shards.append(
            {
                "file": f"{DATA}/{path.name}",
                "questions": record.questions,
                "bytes": path.stat().st_size,
                "content": record.content,
            }
        )
    return {
        "complete": True,
        "content": content.hexdigest(),
        "questions": plan.questions,
        "distinct_questions": _distinct(folder, plan),
        "tasks": {
            task: {
                "questions": sum(found.values()),
                "answers": _spread(found),
                "rejections": _sorted(rejections.get(task, {})),
            }
            for task, found in sorted(answers.items())
        },
        "unreadable": _sorted(unreadable),
        "left_out": _left_out(plan),
        "licences": _sorted(licences),
        "shards": shards,
        "fingerprint": plan.fingerprint,
        **plan.identity,
    }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a set, or None if the folder has none.

    Raises:
        ConfigError: If it cannot be read, or was written by a later version of this library.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        layout = int(manifest["format"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} is not the manifest of a curated set: {error}."
        ) from error
    if layout > FORMAT:
        raise ConfigError(
            f"{str(folder)!r} is a curated set of layout {layout}, newer than this library reads "
            f"({FORMAT}); update spatial-ssrl."
        )
    return manifest


def write_whole(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    fresh = path.with_name(path.name + PARTIAL)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def as_text(manifest: dict[str, Any]) -> str:
    """Return a manifest as the text of its file."""
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def difference(found: dict[str, Any], plan: SetPlan) -> str:
    """Return the first thing in which a manifest differs from a plan, as "key: there, here"."""
    return _difference(found, json.loads(json.dumps(opening(plan))), "") or "its fingerprint"


def _difference(there: Any, here: Any, key: str) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        names = [name for name in (*here, *there) if name not in ("complete", "fingerprint")]
        if not key:
            names = [name for name in names if name in here]
        pairs = [(f"{key}.{name}".strip("."), there.get(name), here.get(name)) for name in names]
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = [(f"{key}[{i}]", *pair) for i, pair in enumerate(zip(there, here, strict=True))]
    else:
        return "" if there == here else f"{key} is {_short(there)} there and {_short(here)} here"
    return next(filter(None, (_difference(one, two, name) for name, one, two in pairs)), "")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _distinct(folder: Path, plan: SetPlan) -> int:
    """Count different questions; 8 bytes a question, unlike the questions themselves, fit."""
    import pyarrow.parquet as pq

    names = []
    for number in range(plan.shards):
        table = pq.read_table(shard_path(folder, number, plan.shards), columns=["uid"])
        hashed = (
            hashlib.blake2b(uid.encode(), digest_size=8).digest()
            for uid in table.column("uid").to_pylist()
        )
        names.append(np.frombuffer(b"".join(hashed), dtype=np.uint64))
    return len(np.unique(np.concatenate(names)))


def _spread(answers: dict[str, int]) -> dict[str, int] | dict[str, Any]:
    """Return every answer with its count, or a summary where there are very many."""
    if len(answers) <= _MANY_ANSWERS:
        return dict(sorted(answers.items()))
    counts = sorted(answers.values())
    return {"different": len(counts), "least": counts[0], "most": counts[-1]}


def _sorted(counts: dict[str, int]) -> dict[str, int]:
    """Return counts, the largest first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _left_out(plan: SetPlan) -> dict[str, dict[str, str]]:
    """Return the files each source left out, with the reasons, by part and source."""
    found = {}
    for number, part in enumerate(plan.parts):
        for place, source in enumerate(part.images):
            if files := dict(source.left_out()):
                found[f"parts[{number}].images[{place}] ({type(source).__name__})"] = files
    return found
