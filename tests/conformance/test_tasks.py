"""What every registered task must do, on drawn scenes and on real photos."""

import os
from functools import cache
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.prompts import plain_answer, worked_answer
from spatial_ssrl.tasks import TASKS
from spatial_ssrl.verifiers import WeightedSum

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES")

every_task = pytest.mark.parametrize("key", list(TASKS))


@cache
def drawn_scenes(size=64, count=60):
    source = SyntheticScenes(count=count, size=size, seed=23)
    return [source.scene(index) for index in range(count)]


@cache
def questions(key):
    """One question a drawn scene that allows one."""
    task, made = TASKS.get(key)(), []
    for seed, scene in enumerate(drawn_scenes()):
        try:
            made.append((scene, task.make(scene, np.random.default_rng(seed))))
        except SceneRejected:
            continue
    return made


@every_task
def test_most_drawn_scenes_allow_a_question(key):
    assert len(questions(key)) >= 0.8 * len(drawn_scenes())


@every_task
def test_same_rng_gives_the_same_question_from_an_equal_task(key):
    for seed, scene in enumerate(drawn_scenes()[:10]):
        one, two = (TASKS.get(key)().make(scene, np.random.default_rng(seed)) for _ in range(2))
        for image, again in zip(one.images, two.images, strict=True):
            assert np.array_equal(image, again)
        for name in ("uid", "task", "prompt", "answer", "choices", "explanation", "meta"):
            assert getattr(one, name) == getattr(two, name)


@every_task
def test_scene_is_read_only_and_never_shared(key):
    task = TASKS.get(key)()
    for seed, scene in enumerate(drawn_scenes()[:10]):
        locked = Scene(scene.image.copy(), scene.source_id, scene.depth.copy())
        locked.image.flags.writeable = locked.depth.flags.writeable = False
        question = task.make(locked, np.random.default_rng(seed))
        assert not any(np.shares_memory(image, locked.image) for image in question.images)


@every_task
def test_images_fit_the_placeholders_and_are_rgb_bytes(key):
    for _, question in questions(key):
        assert question.prompt.count("<image>") == len(question.images) > 0
        assert question.prompt.startswith("<image>" * len(question.images))
        for image in question.images:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert image.flags.c_contiguous


@every_task
def test_prompt_is_short_and_states_a_valid_answer_form(key):
    for _, question in questions(key):
        assert len(question.prompt.split()) < 120
        example = question.prompt.rsplit("such as ", 1)[1].removesuffix(".")
        if question.choices:
            assert example in question.choices
        else:
            assert sorted(example.split(",")) == sorted(question.answer.split(","))
            assert example.count(",") == question.answer.count(",")


def worded(key, wording):
    """The task with another wording, or a skip for those of one wording."""
    task = TASKS.get(key)
    if "wording" not in task().settings():
        pytest.skip("one wording only")
    return task(wording=wording)


@every_task
def test_wordings_ask_the_same_thing(key):
    varied, terse, compared = worded(key, "varied"), worded(key, "terse"), 0
    for seed, scene in enumerate(drawn_scenes()[:20]):
        try:
            one, two = (t.make(scene, np.random.default_rng(seed)) for t in (varied, terse))
        except SceneRejected:
            continue
        assert (one.answer, one.choices, one.meta) == (two.answer, two.choices, two.meta)
        pairs = zip(one.images, two.images, strict=True)
        assert all(np.array_equal(image, same) for image, same in pairs)
        compared += 1
    assert compared >= 10


@every_task
def test_varied_wording_has_several_phrasings_and_terse_draws_none(key):
    scene = drawn_scenes()[0]
    phrasings = {
        wording: {
            worded(key, wording).make(scene, np.random.default_rng(seed)).prompt
            for seed in range(40)
        }
        for wording in ("varied", "terse")
    }
    assert len(phrasings["varied"]) >= 4
    assert len(phrasings["terse"]) < len(phrasings["varied"])
    for prompt in phrasings["terse"]:
        assert len(prompt.split()) < 60


@every_task
def test_answer_is_valid_for_its_kind_and_chance_is_that_of_a_guess(key):
    for _, question in questions(key):
        if question.answer_kind == "order":
            numbers = [int(number) for number in question.answer.split(",")]
            assert sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))
            assert min(numbers) in (0, 1)
            assert question.chance == pytest.approx(1 / factorial(len(numbers)))
        else:
            assert question.answer in question.choices
            assert len(set(question.choices)) == len(question.choices)
            assert question.chance == pytest.approx(1 / len(question.choices))
        if question.answer_kind == "choice":
            assert all(len(choice) == 1 for choice in question.choices)


@every_task
def test_guessing_earns_chance_whatever_the_guesser(key):
    """A uniform guess, and the guess that is best in hindsight, up to its luck."""
    task, rng, answers, guesses = TASKS.get(key)(), np.random.default_rng(0), [], 0
    for scene in drawn_scenes():
        for _ in range(12):
            try:
                question = task.make(scene, rng)
            except SceneRejected:
                continue
            answers.append(question.answer)
            options = question.choices or _orders(question.answer, rng)
            guesses += str(rng.choice(options)) == question.answer
    chance, count = question.chance, len(answers)
    sigma = (count * chance * (1 - chance)) ** 0.5
    assert abs(guesses - count * chance) < 4 * sigma
    most = max(answers.count(answer) for answer in set(answers))
    assert most < count * chance + 4.5 * sigma


def _orders(answer, rng):
    return [",".join(rng.permutation(answer.split(",")).tolist())]


@every_task
def test_uid_names_the_draw_the_scene_and_the_settings(key):
    scene, again = drawn_scenes()[:2]
    task = TASKS.get(key)()
    draws = {task.make(scene, np.random.default_rng(seed)).uid for seed in range(20)}
    assert len(draws) > 1
    renamed = Scene(scene.image, "other", scene.depth)
    uid = task.make(scene, np.random.default_rng(3)).uid
    assert uid != task.make(renamed, np.random.default_rng(3)).uid
    assert len(uid) == 16
    assert task.make(again, np.random.default_rng(3)).task == key


@every_task
def test_settings_rebuild_the_task(key):
    task = TASKS.get(key)()
    twin = TASKS.get(key)(**task.settings())
    scene = drawn_scenes()[0]
    uids = {made.make(scene, np.random.default_rng(0)).uid for made in (task, twin)}
    assert len(uids) == 1


@every_task
def test_worked_answers_are_tagless_and_earn_the_full_reward(key):
    for _, question in questions(key):
        assert question.explanation
        assert not set("<>{}\\") & set(question.explanation)
        for completion in (worked_answer(question), plain_answer(question)):
            assert WeightedSum().score(completion, question).reward == 1


@every_task
def test_undo_recovers_the_picture_or_does_nothing(key):
    task = TASKS.get(key)()
    for scene, question in questions(key):
        undone = task.undo(question)
        if undone is None:
            return
        original = scene.image[: undone.shape[0], : undone.shape[1]]
        # Borders and indices cover less than a third of a small picture.
        assert (undone == original).all(axis=-1).mean() > 0.67
        shown = question.images[0] == original
        assert (undone == original).mean() >= shown.mean()


@every_task
@pytest.mark.parametrize("size", [32, 96, 200])
def test_other_sizes_work(key, size):
    task, made = TASKS.get(key)(), 0
    scenes = drawn_scenes(size, 6)
    for seed, scene in enumerate(scenes):
        try:
            made += bool(task.make(scene, np.random.default_rng(seed)))
        except SceneRejected:
            continue
    assert made or size == 32


@every_task
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (33, 2)])
def test_hopeless_pictures_are_rejected_with_a_reason(key, shape):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    depth = rng.random(shape, dtype=np.float32)
    with pytest.raises(SceneRejected) as caught:
        TASKS.get(key)().make(Scene(image, "tiny", depth), rng)
    assert caught.value.reason
    assert not any(character.isdigit() for character in caught.value.reason)


def test_tasks_that_need_depth_say_so():
    photo = Scene(drawn_scenes()[0].image, "photo")
    for key in TASKS:
        task = TASKS.get(key)()
        if task.needs_depth:
            with pytest.raises(SceneRejected, match="no depth"):
                task.make(photo, np.random.default_rng(0))
        else:
            task.make(photo, np.random.default_rng(0))


@pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES names no folder of samples")
@every_task
def test_real_photos_give_questions_of_their_own_size(key):
    task = TASKS.get(key)()
    if task.needs_depth:
        pytest.skip("photos have no depth")
    made = 0
    for path in sorted(Path(SAMPLES, "coco", "val2017").glob("*.jpg")):
        with Image.open(path) as picture:
            scene = Scene(np.asarray(picture.convert("RGB")), path.name)
        question = task.make(scene, np.random.default_rng(0))
        shape = question.images[0].shape
        assert 0 <= scene.image.shape[0] - shape[0] < 2
        assert 0 <= scene.image.shape[1] - shape[1] < 2
        made += 1
    assert made >= 3


def rgbd_samples():
    folder = Path(SAMPLES, "rgbd")
    for colour, depth, scale in (
        ("tum/slambook2_ch7/1.png", "tum/slambook2_ch7/1_depth.png", 5000),
        ("7scenes/frame-000000.color.jpg", "7scenes/frame-000000.depth.png", 1000),
        ("hololens_mm/images/00003.png", "hololens_mm/depth/00003.png", 1000),
    ):
        image = np.asarray(Image.open(folder / colour).convert("RGB"))
        values = np.asarray(Image.open(folder / depth)).astype(np.float32)
        values[(values == 0) | (values == 65535)] = np.nan
        yield Scene(image, colour, values / scale, "metre")


@pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES names no folder of samples")
@every_task
def test_real_depth_gives_questions_that_agree_with_the_map(key):
    task = TASKS.get(key)()
    if not task.needs_depth:
        pytest.skip("needs no depth")
    usable = 0
    for scene in rgbd_samples():
        made = 0
        for seed in range(10):
            try:
                question = task.make(scene, np.random.default_rng(seed))
            except SceneRejected:
                continue
            made += 1
            meta = question.meta
            places = meta.get("regions") or [meta["camera"], meta["target"]]
            assert meta["depths"] == [float(scene.depth[tuple(place)]) for place in places]
            assert not np.isnan(meta["depths"]).any()
        usable += made >= 3
    assert usable >= 2  # one of the three shows nothing but a counter and a wall
