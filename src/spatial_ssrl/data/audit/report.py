"""An audit of questions: what it found as a record, and as tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.audit.blind import baselines
from spatial_ssrl.data.audit.distributions import uniformity
from spatial_ssrl.data.audit.duplicates import find_duplicates
from spatial_ssrl.data.audit.facts import Facts


@dataclass(frozen=True)
class AuditSettings:
    """When an audit raises its hand.

    Args:
        folds: Parts the scenes are split into for blind baselines, at least 2.
        margin: Part of one by which a baseline's interval must lie above chance to be called
            a shortcut.
        p: Answers are called uneven when evenness would be this improbable.
        distance: Bits of 256 by which the pictures of near-duplicates differ at most.
        seed: Names the split of the scenes and the fits.
    """

    folds: int = 5
    margin: float = 0.03
    p: float = 0.001
    distance: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}.")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"margin must be in [0, 1), got {self.margin}.")


def audit(
    facts: Sequence[Facts],
    rejections: Mapping[tuple[str, str], int],
    settings: AuditSettings = AuditSettings(),
    begun: Callable[[str], None] = lambda task: None,
) -> dict[str, Any]:
    """Look for what is wrong with a set of questions.

    Args:
        facts: The questions.
        rejections: How often each task, by registry key, refused a scene for each reason.
        settings: When to raise a hand.
        begun: Called with the name of each task before its turn.

    Returns:
        `questions`; `tasks`, one record a task (a task with several kinds of answers, such as
        grids of several sizes, has one a kind); `findings`, a sentence for each uneven
        distribution, shortcut and repeated question; and `settings`. JSON-able.

    Raises:
        ConfigError: If there is no question.
    """
    if not facts:
        raise ConfigError("there is no question to audit; raise count.")
    tasks: dict[str, dict[str, Any]] = {}
    for name, members in _by_task(facts).items():
        begun(name)
        tasks[name] = _task(members, rejections, settings)
    return {
        "questions": len(facts),
        "tasks": tasks,
        "findings": [
            line for name, task in tasks.items() for line in _findings(name, task, settings)
        ],
        "settings": asdict(settings),
    }


def _by_task(facts: Iterable[Facts]) -> dict[str, list[Facts]]:
    groups: dict[tuple[str, tuple[str, ...]], list[Facts]] = {}
    for one in facts:
        groups.setdefault((one.task, one.space), []).append(one)
    spaces = Counter(task for task, _ in groups)
    return {
        task if spaces[task] == 1 else f"{task} ({len(space)} {_noun(members[0])})": members
        for (task, space), members in sorted(groups.items(), key=_rank)
    }


def _rank(group: tuple[tuple[str, tuple[str, ...]], list[Facts]]) -> tuple[object, ...]:
    (task, space), _ = group
    return task, len(space), space


def _noun(one: Facts) -> str:
    return "items" if one.kind == "order" else "answers"


def _task(
    facts: Sequence[Facts], rejections: Mapping[tuple[str, str], int], settings: AuditSettings
) -> dict[str, Any]:
    first, answers = facts[0], [one.answer for one in facts]
    even = uniformity(answers, first.space, first.kind == "order") if first.space else None
    twice = find_duplicates(
        [one.uid for one in facts], answers, [one.look for one in facts], settings.distance
    )
    refused = {reason: count for (task, reason), count in rejections.items() if task == first.task}
    return {
        "questions": len(facts),
        "scenes": len({one.scene for one in facts}),
        "chance": float(np.mean([one.chance for one in facts])),
        "answers": None if even is None else asdict(even),
        "baselines": [
            asdict(found)
            for found in baselines(facts, settings.folds, settings.seed, settings.margin)
        ],
        "pictures": _pictures(facts),
        "duplicates": asdict(twice),
        "rejections": dict(sorted(refused.items(), key=lambda item: (-item[1], item[0]))),
    }


def _pictures(facts: Sequence[Facts]) -> dict[str, Any]:
    """Return least, median and largest side and marker, in pixels."""
    shorter = [min(one.size) for one in facts]
    markers = [one.marker for one in facts if one.marker is not None]
    return {
        "per_question": sorted({one.pictures for one in facts}),
        "shorter_side_px": _range(shorter),
        "longer_side_px": _range([max(one.size) for one in facts]),
        "marker_px": _range(markers) if markers else None,
    }


def _range(values: Sequence[int]) -> list[float]:
    return [float(min(values)), float(np.median(values)), float(max(values))]


def _findings(name: str, task: Mapping[str, Any], settings: AuditSettings) -> list[str]:
    lines = []
    if task["answers"] and task["answers"]["p"] < settings.p:
        lines.append(f"{name}: the answers are uneven (p = {task['answers']['p']:.1e}).")
    for found in task["baselines"]:
        if found["finding"] == "shortcut":
            lines.append(
                f"{name}: from the {found['sees']} alone ({found['model']}), the {found['part']} "
                f"is guessed right {100 * found['accuracy']:.1f} % of the time; chance is "
                f"{100 * found['chance']:.1f} %."
            )
    if repeated := task["duplicates"]["same"]:
        lines.append(f"{name}: {repeated} questions are repetitions of others.")
    return lines


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return what `audit` found as tables: answers, blind baselines, pictures, rejections."""
    tasks: Mapping[str, Any] = found["tasks"]
    p, built = found["settings"]["p"], []
    answers = _table("Answers", "task", "questions", "scenes", "answers", "least", "most", "p", "")
    blind = _table("Guessed without looking, per cent", "task", "from", "by", "what")
    for heading in ("right", "95 % interval", "chance", ""):
        blind.add_column(heading, justify="right")
    pictures = _table(
        "Pictures, pixels (least, median, most)", "task", "shorter side", "marker", "same", "near"
    )
    refused = _table("Scenes refused", "task", "reason", "times")
    for name, task in tasks.items():
        title = name.replace("_", " ")
        answers.add_row(title, *_answer_cells(task, p))
        for baseline in _told(task["baselines"]):
            blind.add_row(title, *_baseline_cells(baseline))
        blind.add_section()
        pictures.add_row(title, *_picture_cells(task))
        for reason, count in task["rejections"].items():
            refused.add_row(title, reason, str(count))
    built += [answers, blind, pictures]
    return [*built, refused] if refused.row_count else built


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    words = ("task", "reason", "from", "by", "what")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right")
    return table


def _answer_cells(task: Mapping[str, Any], p: float) -> list[str]:
    cells = [str(task["questions"]), str(task["scenes"])]
    if (answers := task["answers"]) is None:
        return [*cells, "not listed", "", "", "", ""]
    counts = answers["counts"].values()
    verdict = "[red]uneven[/red]" if answers["p"] < p else "even"
    ends = [str(min(counts)), str(max(counts))]
    return [*cells, str(answers["possible"]), *ends, f"{answers['p']:.3f}", verdict]


def _told(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return every baseline of whole answers, and of parts the best one and the shortcuts."""
    parts = [one for one in found if one["part"] != "answer"]
    best = max(parts, key=lambda one: one["accuracy"] - one["chance"], default=None)
    return [
        one
        for one in found
        if one["part"] == "answer" or one is best or one["finding"] == "shortcut"
    ]


def _baseline_cells(one: Mapping[str, Any]) -> list[str]:
    low, high = (100 * end for end in one["ci95"])
    finding = "[red]shortcut[/red]" if one["finding"] == "shortcut" else one["finding"]
    return [
        one["sees"],
        one["model"],
        one["part"],
        f"{100 * one['accuracy']:.1f}",
        f"[{low:.1f}, {high:.1f}]",
        f"{100 * one['chance']:.1f}",
        finding,
    ]


def _picture_cells(task: Mapping[str, Any]) -> list[str]:
    pictures = task["pictures"]

    def cell(values: Sequence[float] | None) -> str:
        return "" if values is None else "  ".join(f"{value:g}" for value in values)

    twice = task["duplicates"]
    sizes = [cell(pictures["shorter_side_px"]), cell(pictures["marker_px"])]
    return [*sizes, str(twice["same"]), str(twice["near"])]
