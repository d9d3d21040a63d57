"""A small curated set, and a process that makes it slowly enough to be killed.

Run as `python -m support.curation FOLDER WORKERS` with `tests` on the path.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from spatial_ssrl.data.curated import SetPart, SetPlan, make_set
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import CroppedInpainting, DepthOrder, FlippedPatch, ShuffledPatches


def small_plan(questions: int = 60, shard_questions: int = 6, **settings: object) -> SetPlan:
    """Return a plan of two parts: three tasks on one source, one task on another."""
    few = questions // 4
    parts = [
        SetPart(
            [SyntheticScenes(50, 64)],
            [FlippedPatch(), ShuffledPatches(), DepthOrder()],
            questions - few,
        ),
        SetPart([SyntheticScenes(20, 96, seed=1)], [CroppedInpainting()], few),
    ]
    return SetPlan(parts, shard_questions=shard_questions, **settings)


def tree(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    make_set(small_plan(), Path(sys.argv[1]), int(sys.argv[2]), progress=lambda _: time.sleep(0.2))
