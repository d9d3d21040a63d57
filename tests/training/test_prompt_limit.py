"""A limit on prompts in a real fit: batches stay whole, in order, and the same for any workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import SpatialSSRLError
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings
from spatial_ssrl.tasks import CroppedInpainting, FlippedPatch
from spatial_ssrl.training import SFTModule, UpdateSettings
from support.tiny_training import StepLog, tiny_rl, tiny_trainer

# Of the 112-pixel scenes, a flipped patch takes 243 tokens and an inpainting 237; of the
# 48-pixel ones 231 and 213.
LIMIT = 235


class Lengths(StepLog):
    """Keeps the length of every prompt, and the pictures of every question."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[list[int]] = []
        self.pictures: list[bytes] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        assert isinstance(batch, PromptBatch)
        self.lengths.append(batch.attention_mask.sum(1).tolist())
        self.pictures += [image.tobytes() for q in batch.questions for image in q.images]


def data(workers: int = 0) -> PretextDataModule:
    return PretextDataModule(
        [SyntheticScenes(20, 112), SyntheticScenes(20, 48)],
        [FlippedPatch(wording="terse"), CroppedInpainting(wording="terse")],
        batch_size=3,
        epoch_questions=90,
        num_workers=workers,
    )


def policy(folder: Path, **settings: Any) -> HFVisionLanguagePolicy:
    return HFVisionLanguagePolicy(str(folder), lora=LoraSettings(rank=2), **settings)


def fit(
    folder: Path, model: HFVisionLanguagePolicy, steps: int, workers: int = 0, **settings: Any
) -> tuple[Lengths, PretextDataModule]:
    log, questions = Lengths(), data(workers)
    module = tiny_rl(
        model,
        group_size=2,
        sampling=SamplingSettings(max_new_tokens=2),
        update=UpdateSettings(self_check=False, flat_groups="keep"),
    )
    callbacks = [log, *settings.pop("callbacks", [])]
    resume = settings.pop("ckpt_path", None)
    trainer = tiny_trainer(folder, steps, callbacks, **settings)
    trainer.fit(module, questions, ckpt_path=resume)
    return log, questions


@pytest.mark.parametrize("longer", ["scale", "reject"])
def test_every_prompt_fits_and_batches_stay_whole(
    tiny_qwen_folder: Path, tmp_path: Path, longer: str
) -> None:
    free, _ = fit(tmp_path, policy(tiny_qwen_folder), 4)
    bound = {"max_prompt_tokens": LIMIT, "long_prompts": longer}
    log, _ = fit(tmp_path, policy(tiny_qwen_folder, **bound), 4)
    assert max(max(lengths) for lengths in free.lengths) > LIMIT
    assert max(max(lengths) for lengths in log.lengths) <= LIMIT
    assert [len(lengths) for lengths in log.lengths] == [3] * 4
    # Tasks keep their places: the mix does not shift to what is short.
    alike = [a == b for (_, a), (_, b) in zip(free.steps, log.steps, strict=True)]
    assert all(alike) == (longer == "scale")
    again, _ = fit(tmp_path, policy(tiny_qwen_folder, **bound), 4, workers=2)
    assert (again.steps, again.lengths, again.pictures) == (log.steps, log.lengths, log.pictures)


def test_a_resumed_run_sees_the_same_questions(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    bound = {"max_prompt_tokens": LIMIT, "long_prompts": "reject"}
    whole, _ = fit(tmp_path, policy(tiny_qwen_folder, **bound), 4)
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=2)
    saving = {"callbacks": [saver], "enable_checkpointing": True}
    fit(tmp_path, policy(tiny_qwen_folder, **bound), 2, **saving)
    rest, _ = fit(tmp_path, policy(tiny_qwen_folder, **bound), 4, ckpt_path=tmp_path / "last.ckpt")
    assert rest.steps == whole.steps[2:]
    assert rest.pictures == whole.pictures[len(whole.pictures) - len(rest.pictures) :]


def test_rejections_are_counted_by_task_and_reason(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    _, questions = fit(
        tmp_path, policy(tiny_qwen_folder, max_prompt_tokens=LIMIT, long_prompts="reject"), 3
    )
    rejections = questions._loader.dataset.rejections
    tasks = {task for (task, reason) in rejections if "max_prompt_tokens" in reason}
    assert "cropped_inpainting" in tasks


def test_a_limit_nothing_fits_in_says_so(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpatialSSRLError, match=r"made no question .* policy\.max_prompt_tokens"):
        fit(tmp_path, policy(tiny_qwen_folder, max_prompt_tokens=40), 1)


def test_the_cold_start_keeps_answers_whole(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    def totals(context: int | None) -> list[int]:
        """Return the length of prompt and answer of every question of four steps."""
        model, found = policy(tiny_qwen_folder), []
        model.load()
        model._traits = replace(model._traits, context=context)

        class Totals(StepLog):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
                batch = rest[1]
                lengths = batch.attention_mask.sum(1) + batch.target_mask.sum(1)
                found.extend(lengths.tolist())

        module = SFTModule(
            model,
            sampling=SamplingSettings(max_new_tokens=2),
            update=UpdateSettings(self_check=False),
        )
        tiny_trainer(tmp_path, 4, [Totals()]).fit(module, data())
        return found

    free = totals(None)
    tight = totals(max(free) - 2)
    assert len(tight) == len(free) == 12
    assert max(tight) <= max(free) - 2
