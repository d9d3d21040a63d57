"""Making a set: what lies in it, interruptions, workers, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SpatialSSRLError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated import CuratedQuestions, ImageEncoding, SetPart, SetPlan, make_set
from spatial_ssrl.data.curated.shards import ShardMaker, read_record
from spatial_ssrl.images import ImageFolder, SyntheticScenes
from spatial_ssrl.tasks import FlippedPatch
from support.curation import small_plan, tree


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set made without interruption, by this process."""
    folder = tmp_path_factory.mktemp("sets") / "made"
    make_set(small_plan(), folder)
    return folder


def originals() -> list[Question]:
    """The questions of the small plan, drawn without the code that stores them."""
    plan = small_plan()
    streams = plan.streams()
    return [
        streams[part][place] for number in range(plan.shards) for part, place in plan.shard(number)
    ]


def test_a_set_holds_the_questions_of_its_plan(made: Path) -> None:
    stored = CuratedQuestions(made)
    assert len(stored) == 60
    for question, original in zip(stored, originals(), strict=True):
        assert [image.tobytes() for image in question.images] == [
            image.tobytes() for image in original.images
        ]
        for name in ("uid", "task", "prompt", "answer", "answer_kind", "choices", "chance"):
            assert getattr(question, name) == getattr(original, name)
        for name in ("explanation", "source_id", "licence"):
            assert getattr(question, name) == getattr(original, name)
        assert question.meta == json.loads(json.dumps(original.meta))


def test_the_manifest_counts_what_is_there(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    questions = originals()
    tasks = Counter(question.task for question in questions)
    assert {task: found["questions"] for task, found in manifest["tasks"].items()} == tasks
    assert tasks["cropped_inpainting"] == 15
    assert tasks["flipped_patch"] == tasks["depth_order"] == 15
    for task, found in manifest["tasks"].items():
        answers = Counter(q.answer for q in questions if q.task == task)
        assert found["answers"] == answers
    assert manifest["questions"] == sum(shard["questions"] for shard in manifest["shards"]) == 60
    assert manifest["distinct_questions"] == len({question.uid for question in questions})
    assert manifest["settings"]["parts"][1]["images"][0] == {
        "class_path": "SyntheticScenes",
        "init_args": {"count": 20, "size": 96, "seed": 1, "first": 0},
    }
    assert set(manifest["versions"]) >= {"spatial-ssrl", "numpy", "pillow", "pyarrow"}


def test_others_read_it_by_the_card(made: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    table = load_dataset(str(made), split="train", cache_dir=str(tmp_path))
    assert len(table) == 60
    for row, question in zip(table.select(range(9)), originals()[:9], strict=True):
        assert row["problem"].count("<image>") == len(row["images"]) == len(question.images)
        assert row["problem"].startswith(question.prompt)
        assert "\\boxed{}" in row["problem"]
        assert row["answer"] == question.answer
        assert np.array_equal(np.array(row["images"][0]), question.images[0])


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_an_interrupted_set_ends_the_same(made: Path, tmp_path: Path, after: int) -> None:
    shards = 0

    def stop(_: int) -> None:
        nonlocal shards
        if shards == after:
            raise KeyboardInterrupt
        shards += 1

    with pytest.raises(KeyboardInterrupt):
        make_set(small_plan(), tmp_path, progress=stop)
    assert len(list((tmp_path / "data").iterdir())) == after
    (tmp_path / "data" / "train-00009-of-00010.parquet.77.partial").write_bytes(b"PAR1")
    there: list[int] = []
    make_set(small_plan(), tmp_path, progress=there.append)
    assert there == list(range(6 * after, 61, 6))
    assert tree(tmp_path) == tree(made)


def test_a_killed_set_ends_the_same_with_other_workers(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.curation", str(tmp_path / "set"), "2"]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    data = tmp_path / "set" / "data"
    end = time.monotonic() + 300
    while len(list(data.glob("*.parquet"))) < 2 and time.monotonic() < end:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    there = {path: path.stat().st_mtime_ns for path in data.glob("*.parquet")}
    assert 2 <= len(there) < 10
    assert not json.loads((tmp_path / "set" / "manifest.json").read_text())["complete"]
    with pytest.raises(ConfigError, match="not finished"):
        CuratedQuestions(tmp_path / "set")
    make_set(small_plan(), tmp_path / "set")
    assert {path: path.stat().st_mtime_ns for path in there} == there, "whole shards are kept"
    assert tree(tmp_path / "set") == tree(made)


def test_an_image_that_changes_a_little_changes_the_hash(made: Path, tmp_path: Path) -> None:
    manifest = make_set(small_plan(encoding=ImageEncoding("jpeg", 90)), tmp_path)
    assert manifest["content"] != json.loads((made / "manifest.json").read_text())["content"]
    question, original = CuratedQuestions(tmp_path)[0], originals()[0]
    assert question.images[0].shape == original.images[0].shape
    difference = question.images[0].astype(int) - original.images[0]
    assert 0 < np.abs(difference).mean() < 6


def test_another_plan_is_refused_by_what_differs(made: Path) -> None:
    before = tree(made)
    with pytest.raises(ConfigError, match=r"made otherwise: settings.seed is 0 there and 5 here"):
        make_set(small_plan(seed=5), made)
    with pytest.raises(ConfigError, match=r"settings.parts\[0\].count is 45 there and 39 here"):
        make_set(small_plan(questions=52), made)
    assert tree(made) == before


def test_folders_of_others_are_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(ConfigError, match="holds other files and no curated set"):
        make_set(small_plan(), tmp_path)
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        make_set(small_plan(), tmp_path / "thesis.tex")
    assert tree(tmp_path).keys() == {"thesis.tex"}


def test_a_broken_shard_is_refused_by_name(tmp_path: Path) -> None:
    plan = small_plan(12)
    make_set(plan, tmp_path)
    shard = tmp_path / "data" / "train-00001-of-00002.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-50])
    with pytest.raises(ConfigError, match=r"train-00001-of-00002.parquet' is not a whole shard"):
        make_set(plan, tmp_path)
    shard.unlink()
    make_set(plan, tmp_path)
    assert shard.read_bytes() == whole
    (tmp_path / "data" / "mine.parquet").write_bytes(whole)
    with pytest.raises(ConfigError, match=r"'mine.parquet', which is none of the set's files"):
        make_set(plan, tmp_path)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match="another process is making the set"):
            make_set(small_plan(12), tmp_path)
    finally:
        os.close(handle)


def test_a_full_disk_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    plan = small_plan(12)
    plan.fingerprint  # noqa: B018 - made before the disk is full
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"No space left on device\); make room or choose"):
        ShardMaker(plan, tmp_path)(0)
    assert list((tmp_path / "data").iterdir()) == []


def test_bad_files_are_counted_and_named(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((128, 96), Image.Resampling.BICUBIC).save(photos / name)
    content = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(content[: len(content) // 2])
    (photos / "page.jpg").write_text("<html>not found</html>")
    Image.new("RGB", (128, 96), "grey").save(photos / "c.png")
    plan = SetPlan([SetPart([ImageFolder(photos)], [FlippedPatch()], 12)])
    manifest = make_set(plan, tmp_path / "set")
    (broken,) = manifest["unreadable"]
    assert "b.png" in broken
    (files,) = manifest["left_out"].values()
    assert list(files) == ["page.jpg"]
    assert manifest["tasks"]["flipped_patch"]["rejections"].keys() == {
        "flipping a patch changes nothing"
    }
    record = read_record(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    assert record is not None
    assert record.unreadable == manifest["unreadable"]
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| not stated by the source | 12 |" in card


def test_a_source_of_nothing_usable_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (128, 96), "grey").save(photos / "grey.png")
    plan = SetPlan([SetPart([ImageFolder(photos)], [FlippedPatch()], 12)])
    with pytest.raises(SpatialSSRLError, match="made no question of 200 scenes: flipping a patch"):
        make_set(plan, tmp_path / "set")


def test_workers_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        make_set(small_plan(12), tmp_path / "set", workers=0)
    assert not (tmp_path / "set").exists()


def test_licences_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    draw = SyntheticScenes.scene

    def licensed(self: SyntheticScenes, index: int) -> object:
        return replace(draw(self, index), licence="CC BY 4.0" if index % 2 else "")

    monkeypatch.setattr(SyntheticScenes, "scene", licensed)
    manifest = make_set(small_plan(24), tmp_path)
    stored = Counter(question.licence for question in CuratedQuestions(tmp_path))
    assert manifest["licences"] == stored
    assert set(stored) == {"", "CC BY 4.0"}
    assert "| CC BY 4.0 |" in (tmp_path / "README.md").read_text()
