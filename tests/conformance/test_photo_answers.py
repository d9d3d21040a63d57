"""Every photo task, in many settings: the answer can be found in the pixels, and only there."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import CroppedInpainting, FlippedPatch, ShuffledPatches
from support.solvers import solve_flipped, solve_inpainting, solve_shuffled

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES")
LONGEST = 320  # pixels; larger samples are reduced, for speed
COLOUR = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".ppm"}

TASKS = {
    "shuffled": ShuffledPatches(),
    "shuffled 1x3": ShuffledPatches(1, 3),
    "shuffled 3x1": ShuffledPatches(3, 1, label_style="place"),
    "shuffled 3x3 masked": ShuffledPatches(3, 3, masked=True),
    "shuffled images": ShuffledPatches(2, 3, label_style="images"),
    "flipped": FlippedPatch(),
    "flipped 1x2": FlippedPatch(1, 2),
    "flipped 3x2": FlippedPatch(3, 2, labels=False),
    "inpainting": CroppedInpainting(),
    "inpainting small": CroppedInpainting(side_ratio=0.3, fill="mean"),
    "matched": CroppedInpainting(mix="matched"),
    "matched small": CroppedInpainting(mix="matched", side_ratio=0.3, fill="grey", detail=1.0),
}
every_setting = pytest.mark.parametrize("name", list(TASKS))


def solve(task, question, source):
    """The answer according to the pixels of the question and of the picture it came from."""
    if isinstance(task, ShuffledPatches):
        return solve_shuffled(question.images, source, task.rows, task.columns)
    if isinstance(task, FlippedPatch):
        return solve_flipped(question.images[0], source, task.rows, task.columns)
    return solve_inpainting(question.images, source)


@cache
def sample_scenes():
    """Every sample that is a picture; depth maps have other modes or file types."""
    scenes = []
    for path in sorted(Path(SAMPLES).rglob("*")):
        if path.suffix.lower() not in COLOUR:
            continue
        try:
            with Image.open(path) as file:
                if file.mode.startswith("I"):
                    continue
                picture = ImageOps.exif_transpose(file).convert("RGB")
        except UnidentifiedImageError:
            continue
        picture.thumbnail((LONGEST, LONGEST))
        scenes.append(Scene(np.asarray(picture), str(path.relative_to(SAMPLES))))
    return scenes


@cache
def drawn_scenes():
    source = SyntheticScenes(count=16, size=96, seed=29)
    return [source.scene(index) for index in range(len(source))]


def check_answers(task, scenes):
    """Make one question a scene, check it, and return how many scenes allowed one."""
    made, reasons = 0, []
    for seed, scene in enumerate(scenes):
        before = scene.image.copy()
        try:
            question = task.make(scene, np.random.default_rng(seed))
        except SceneRejected as refusal:
            reasons.append(refusal.reason)
            continue
        made += 1
        again = task.make(scene, np.random.default_rng(seed))
        assert [image.tobytes() for image in question.images] == [
            image.tobytes() for image in again.images
        ]
        assert (question.prompt, question.explanation) == (again.prompt, again.explanation)
        assert np.array_equal(scene.image, before)
        assert question.prompt.count("<image>") == len(question.images)
        assert json.loads(json.dumps(question.meta))
        assert solve(task, question, scene.image) == question.answer, scene.source_id
    assert all(reason and not set(reason) & set("0123456789") for reason in reasons)
    return made


@every_setting
def test_a_solver_finds_the_answer_on_drawn_scenes(name):
    assert check_answers(TASKS[name], drawn_scenes()) >= 10


@pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES names no folder of samples")
@every_setting
def test_a_solver_finds_the_answer_on_every_sample(name):
    scenes = sample_scenes()
    assert len(scenes) >= 30
    assert check_answers(TASKS[name], scenes) >= 0.3 * len(scenes)


@every_setting
def test_a_guess_is_right_as_often_as_chance_says(name):
    task, rng, right, count = TASKS[name], np.random.default_rng(1), 0, 0
    for scene in drawn_scenes() * 12:
        try:
            question = task.make(scene, rng)
        except SceneRejected:
            continue
        count += 1
        options = question.choices
        if not options:
            numbers = question.answer.split(",")
            options = [",".join(rng.permutation(numbers))]
        right += options[int(rng.integers(len(options)))] == question.answer
    sigma = (count * question.chance * (1 - question.chance)) ** 0.5
    assert abs(right - count * question.chance) < 4 * sigma + 1


def plain(value):
    return np.full((96, 128, 3), value, np.uint8)


def sky():
    """A smooth gradient from top to bottom, with a sensor's noise."""
    rows = np.linspace(150, 230, 96)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 2, (96, 128, 3))
    return np.uint8(np.clip(rows + noise, 0, 255))


BAD = {
    "black": plain(0),
    "white": plain(255),
    "sky": sky(),
    "one pixel": plain(9)[:1, :1],
    "32 pixels": np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8),
    "one row": plain(9)[:1],
}


# The brightness of a sky tells its parts and its direction, so that a hole in it has an answer.
REFUSED = [
    (name, kind)
    for name in ("shuffled", "flipped", "inpainting", "matched")
    for kind in BAD
    if kind != "sky" or name in ("shuffled", "flipped")
]


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_pictures_without_a_unique_answer_are_rejected(name, kind):
    for seed in range(5):
        with pytest.raises(SceneRejected) as caught:
            TASKS[name].make(Scene(BAD[kind], kind), np.random.default_rng(seed))
        assert caught.value.reason
