"""Two thousand questions of samples and drawn scenes: killed, by several workers, by Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import SpatialSSRLError
from spatial_ssrl.data.curated import SetPart, SetPlan, make_set
from spatial_ssrl.images import CachedScenes, ImageFolder, RGBDPairs, SyntheticScenes
from spatial_ssrl.tasks import (
    CroppedInpainting,
    DepthOrder,
    FlippedPatch,
    RelativePosition,
    ShuffledPatches,
)
from support.curation import small_plan, tree

QUESTIONS = 2000
KILLS = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> SetPlan:
    """Three tasks on sample photos, two on drawn scenes and sample pictures with depth."""
    samples = Path(os.environ.get("SPATIAL_SSRL_SAMPLES", "missing"))
    if not samples.is_dir():
        pytest.skip("SPATIAL_SSRL_SAMPLES names no folder of samples")
    # Photos of many megapixels are decoded once, not two thousand times.
    cache = tmp_path_factory.mktemp("cache")
    photos = CachedScenes(ImageFolder(samples / "rgb", size=96, square=True), cache / "rgb", 1)
    pairs = RGBDPairs(
        samples / "rgbd" / "icl_nuim_tumformat",
        "**/color/{name}.png",
        "**/depth/{name}.png",
        depth_scale=0.0002,
        size=96,
        square=True,
    )
    deep = [SyntheticScenes(300, 64), CachedScenes(pairs, cache / "rgbd", 1)]
    flat = [ShuffledPatches(), FlippedPatch(), CroppedInpainting()]
    parts = [
        SetPart([photos, SyntheticScenes(300, 64)], flat, QUESTIONS * 3 // 5),
        SetPart(deep, [DepthOrder(), RelativePosition()], QUESTIONS * 2 // 5, None, [0.9, 0.1]),
    ]
    return SetPlan(parts, shard_questions=50)


@pytest.fixture(scope="module")
def whole(plan: SetPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set made without interruption, by one process."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    make_set(plan, folder)
    return folder


def test_five_kills_change_nothing(plan: SetPlan, whole: Path, tmp_path: Path) -> None:
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs processes that start without importing everything again")
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(0)
    data = tmp_path / "set" / "data"
    there = []
    for after in sorted(rng.choice(np.arange(1, plan.shards - 3), KILLS, replace=False)):
        run = context.Process(target=make_set, args=(plan, tmp_path / "set"))
        run.start()
        while len(list(data.glob("*.parquet"))) < after:
            assert run.is_alive()
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        run.kill()
        run.join()
        assert run.exitcode == -9, "it was finished before it was killed"
        there.append(len(list(data.glob("*.parquet"))))
    print(f"killed with {there} of {plan.shards} shards there; ", end="")
    assert there[-1] < plan.shards
    make_set(plan, tmp_path / "set")
    assert tree(tmp_path / "set") == tree(whole)
    print(f"{len(tree(whole))} files are the same")


@pytest.mark.parametrize(("workers", "engine"), [(2, "local"), (4, "local"), (2, "ray")])
def test_workers_and_engine_change_nothing(
    plan: SetPlan, whole: Path, tmp_path: Path, workers: int, engine: str
) -> None:
    if engine == "ray":
        ray = pytest.importorskip("ray")
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    manifest = make_set(plan, tmp_path / "set", workers, engine)
    if engine == "ray":
        ray.shutdown()
    expected = json.loads((whole / "manifest.json").read_text())
    assert manifest["content"] == expected["content"]
    assert tree(tmp_path / "set") == tree(whole)
    print(f"{workers} {engine}: content {manifest['content']}")


def test_an_error_on_ray_is_told_as_anywhere(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (128, 96), "grey").save(photos / "grey.png")
    plan = SetPlan([SetPart([ImageFolder(photos)], [FlippedPatch()], 12)])
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(SpatialSSRLError, match="made no question of 200 scenes"):
            make_set(plan, tmp_path / "set", engine="ray")
        make_set(small_plan(12), tmp_path / "small", engine="ray")
    finally:
        ray.shutdown()
    make_set(small_plan(12), tmp_path / "local")
    assert tree(tmp_path / "small") == tree(tmp_path / "local")
