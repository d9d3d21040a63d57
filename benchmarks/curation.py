"""Measure how fast questions are made, and the region search against a plain Python search.

Pictures are drawn scenes of 640 x 480 pixels. Per task: questions a second on one core, images
encoded as PNG and as JPEG, as curated sets do. Side by side: the search for regions of steady
depth, and for pairs of them, against loops over pixels in plain Python that follow the same rules;
both must give the same sets.

Run with `OMP_NUM_THREADS=1 python benchmarks/curation.py [--output benchmarks/curation.json]`.
CPU time is what counts, so that other work on the machine matters little; wall time is kept too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.data.curated.encoding import ImageEncoding
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import TASKS, pairs, regions
from spatial_ssrl.tasks.markers import marker_radius
from spatial_ssrl.tasks.pair_search import draw_pair

T = TypeVar("T")
OFFSETS = ((1, 0), (0, 1), (1, 1), (1, -1))


def cpu_name() -> str:
    """Return the processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def drawn_scenes(count: int) -> list[Scene]:
    """Return drawn scenes, cut to 480 x 640 pixels."""
    source = SyntheticScenes(count=count, size=640, seed=3)
    cut = slice(80, 560)
    scenes = [source.scene(index) for index in range(count)]
    return [
        Scene(np.ascontiguousarray(s.image[cut]), s.source_id, np.ascontiguousarray(s.depth[cut]))
        for s in scenes
    ]


def timed(work: Callable[..., T], *arguments: object) -> tuple[T, float, float]:
    """Return what `work` returns for its arguments, its CPU seconds, and its wall seconds."""
    started, started_wall = time.process_time(), time.perf_counter()
    result = work(*arguments)
    return result, time.process_time() - started, time.perf_counter() - started_wall


def task_rates(key: str, scenes: list[Scene], count: int) -> dict[str, object]:
    """Return the questions a second of one task, without and with encoding."""
    task, rng = TASKS.get(key)(), np.random.default_rng(0)
    reasons: Counter[str] = Counter()

    def make() -> list[tuple[np.ndarray, ...]]:
        made = []
        for number in range(count):
            try:
                made.append(task.make(scenes[number % len(scenes)], rng).images)
            except SceneRejected as refusal:
                reasons[refusal.reason] += 1
        return made

    made, making, making_wall = timed(make)
    row: dict[str, object] = {
        "task": key,
        "questions": len(made),
        "rejected": dict(reasons),
        "made_per_cpu_s": round(len(made) / making, 1),
    }
    for kind in ("png", "jpeg"):
        _, cpu, wall = timed(encode_all, ImageEncoding(kind=kind), made)
        row[f"{kind}_per_cpu_s"] = round(len(made) / (making + cpu), 1)
        row[f"{kind}_per_wall_s"] = round(len(made) / (making_wall + wall), 1)
    return row


def encode_all(encoding: ImageEncoding, made: list[tuple[np.ndarray, ...]]) -> int:
    """Encode the images of all questions, and return the number of bytes."""
    return sum(len(encoding.encode(image)) for images in made for image in images)


def plain_regions(depth: np.ndarray, window: int, variation: float) -> list[tuple[int, int]]:
    """Find the centres of steady windows of relative position, one pixel after the other.

    Every window wholly known, not above `variation` in its range, within 45 % of the centre and
    a marker's radius from the edge.
    """
    height, width = depth.shape
    rows, limit = depth.tolist(), np.float32(variation)
    radius, half = marker_radius(height, width), window // 2
    edge = max(radius, half)
    found = []
    for row in range(edge, height - edge):
        if abs(row - (height - 1) / 2) > 0.45 * height:
            continue
        for column in range(edge, width - edge):
            if abs(column - (width - 1) / 2) > 0.45 * width:
                continue
            low, high, known = math.inf, -math.inf, True
            for line in rows[row - half : row + half + 1]:
                for value in line[column - half : column + half + 1]:
                    if value != value:
                        known = False
                    if value < low:
                        low = value
                    if value > high:
                        high = value
            if known and np.float32(high - low) <= limit:
                found.append((row, column))
    return found


def compare_regions(scenes: list[Scene]) -> dict[str, float]:
    """Time both searches for regions on the same normalised maps."""
    ours, ours_wall, plain, plain_wall, total = [], [], [], [], 0
    for scene in scenes:
        depth = regions.known_depth(scene)

        runs = [timed(pairs.find_regions, depth) for _ in range(5)]
        found = runs[0][0]
        ours.append(min(run[1] for run in runs))
        ours_wall.append(min(run[2] for run in runs))
        scaled = regions.normalise(depth, *regions.depth_range(depth))
        expected, cpu, wall = timed(plain_regions, scaled, 15, 0.15)
        plain.append(cpu)
        plain_wall.append(wall)
        same = expected == list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
        if not same:
            raise SystemExit(f"{scene.source_id}: the two searches found different regions.")
        total += len(expected)
    return {
        "maps": len(scenes),
        "regions": total,
        "ours_cpu_s_per_map": round(float(np.mean(ours)), 4),
        "plain_cpu_s_per_map": round(float(np.mean(plain)), 2),
        "times_as_fast_cpu": round(sum(plain) / sum(ours)),
        "times_as_fast_wall": round(sum(plain_wall) / sum(ours_wall)),
    }


def plain_pairs(found: pairs.RegionSet, offset: tuple[int, int]) -> set[tuple[int, int]]:
    """Find all pairs at an offset, one pair after the other."""
    right, away = offset
    side = min(found.height, found.width)
    apart = max(side / 8, 2 * marker_radius(found.height, found.width) + 1)
    middle = (found.width - 1) / 2
    facts = list(
        zip(found.rows.tolist(), found.columns.tolist(), found.low, found.high,
            found.depth.astype(float).tolist(), strict=True)
    )  # fmt: skip
    valid = set()
    for i, (row, column, low, high, depth) in enumerate(facts):
        for j, (row_2, column_2, low_2, high_2, depth_2) in enumerate(facts):
            across, down = column_2 - column, row_2 - row
            if away == 0:
                if across * right < apart or abs(down) >= side / 16:
                    continue
                fits = abs((low_2 + high_2) / 2 - (low + high) / 2) <= np.float32(0.10)
            else:
                gap = low_2 - high if away > 0 else low - high_2
                if gap < 0.25 or across**2 + down**2 < apart**2:
                    continue
                if right == 0:
                    fits = abs(across) <= side / 8
                else:
                    aside = (column_2 - middle) * depth_2 - (column - middle) * depth
                    fits = across * right > side * 5 / 16 and aside * right > 0
            if fits:
                valid.add((i, j))
    return valid


def compare_pairs(scenes: list[Scene]) -> dict[str, float]:
    """Time both ways to all pairs, and ours to one of them, on maps small enough to list all.

    A plain search has to list all pairs before it can draw one uniformly.
    """
    ours, drawing, plain, total, compared = [], [], [], 0, 0.0
    for scene in scenes:
        found = pairs.find_regions(regions.known_depth(scene))
        first, second = (g.ravel() for g in np.indices((len(found),) * 2))
        for offset in OFFSETS:
            fits, cpu, _ = timed(pairs.matches, found, offset, first, second)
            ours.append(cpu)
            expected, cpu, _ = timed(plain_pairs, found, offset)
            plain.append(cpu)
            given = set(zip(first[fits].tolist(), second[fits].tolist(), strict=True))
            if given != expected:
                raise SystemExit(f"{scene.source_id}, {offset}: different pairs.")
            total += len(expected)
            if expected:
                rng = np.random.default_rng(0)
                draws = [timed(draw_pair, found, offset, rng) for _ in range(20)]
                drawing.append(float(np.mean([draw[1] for draw in draws])))
                compared += plain[-1]
    return {
        "maps": len(scenes),
        "pairs": total,
        "draw_cpu_s": round(sum(drawing), 5),
        "draw_times_as_fast_cpu": round(compared / sum(drawing)),
        "list_cpu_s": round(sum(ours), 4),
        "plain_cpu_s": round(sum(plain), 2),
        "listing_times_as_fast_cpu": round(sum(plain) / sum(ours)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4, help="pictures of 640 x 480")
    parser.add_argument("--questions", type=int, default=60, help="a task")
    parser.add_argument("--plain", type=int, default=2, help="maps for the plain search")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    load = os.getloadavg()
    scenes = drawn_scenes(options.scenes)
    tasks = []
    for key in TASKS:
        tasks.append(task_rates(key, scenes, options.questions))
        print(tasks[-1], flush=True)
    found = compare_regions(scenes[: options.plain])
    print(found, flush=True)
    small = SyntheticScenes(count=options.plain, size=48, seed=3)
    paired = compare_pairs([small.scene(index) for index in range(options.plain)])
    print(paired, flush=True)
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "pillow", "spatial-ssrl")},
        "load_average_before": [round(value, 2) for value in load],
        "load_average_after": [round(value, 2) for value in os.getloadavg()],
        "size": [640, 480],
        "tasks": tasks,
        "region_search_640x480": found,
        "pair_search_48x48": paired,
    }
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
