from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.training import RLModule
from spatial_ssrl.training.callbacks import SampleTable, TrainingProgress
from spatial_ssrl.training.callbacks.sample_table import sample_table
from spatial_ssrl.training.held_out import AnswerRecord
from spatial_ssrl.verifiers import Verifier
from support.tiny_training import tiny_data, tiny_rl, tiny_trainer

RIGHT, WRONG = (25, 118, 60), (190, 30, 45)


class RightForDepth(Verifier):
    """Takes every answer to a question of depth as right, all others as wrong."""

    def score(self, text: str, question: Question) -> Verdict:
        right = float(question.task == "depth_order")
        return Verdict(right, {"accuracy": right}, parsed="[red]A" if right else None)


def validated(folder: Path, table: SampleTable, *more: Any, **settings: Any) -> RLModule:
    defaults = {"limit_val_batches": 2, "val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = tiny_trainer(folder, 4, [table, *more], **{**defaults, **settings})
    module = tiny_rl(verifier=RightForDepth())
    trainer.fit(module, tiny_data())
    return module


def test_each_validation_leaves_a_sheet_and_lines_of_the_same_questions(tmp_path: Path) -> None:
    module = validated(tmp_path, SampleTable(count=3), num_sanity_val_steps=1)
    folder = tmp_path / "samples"
    names = ["step_000002.jsonl", "step_000002.png", "step_000004.jsonl", "step_000004.png"]
    assert [path.name for path in sorted(folder.iterdir())] == names
    lines = [
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in names[::2]
    ]
    asked = list(tiny_data().held_out_questions("val")[index] for index in range(3))
    for found in lines:
        assert [line["uid"] for line in found] == [question.uid for question in asked]
        assert [line["prompt"] for line in found] == [question.prompt for question in asked]
        assert [line["answer"] for line in found] == [question.answer for question in asked]
        assert [line["correct"] for line in found] == [q.task == "depth_order" for q in asked]
        assert all("completion" in line and "reward" in line for line in found)
    answers = module._answer(module.collator()(asked))
    assert [line["completion"] for line in lines[1]] == [a.completion for a in answers]


def test_the_sheet_shows_every_picture_in_a_frame_of_the_verdicts_colour(tmp_path: Path) -> None:
    validated(tmp_path, SampleTable(count=4, directory=tmp_path / "here"))
    sheet = np.asarray(Image.open(tmp_path / "here" / "step_000004.png").convert("RGB"))
    asked = [tiny_data().held_out_questions("val")[index] for index in range(4)]
    for colour, task in ((RIGHT, "depth_order"), (WRONG, "flipped_patch")):
        # Frames are drawn three pixels wide around pictures of 288: long rows of one colour.
        runs = (sheet == colour).all(axis=2).sum(axis=1)
        questions = [question for question in asked if question.task == task]
        assert runs.max() >= 200 * len(questions), task


def test_all_there_are_is_written_when_fewer_were_asked(tmp_path: Path) -> None:
    validated(tmp_path, SampleTable(count=100), limit_val_batches=1)
    lines = (tmp_path / "samples" / "step_000002.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_a_table_is_shown_where_progress_is(tmp_path: Path) -> None:
    progress = TrainingProgress("GRPO")
    output = io.StringIO()
    progress._console = Console(file=output, force_terminal=False, width=200)
    validated(tmp_path, SampleTable(count=2), progress, enable_progress_bar=True)
    text = output.getvalue()
    assert "Held-out questions after 2 steps" in text
    assert "Held-out questions after 4 steps" in text
    assert "depth_order" in text
    assert "[red]A" in text


def test_what_a_model_writes_is_no_markup() -> None:
    record = AnswerRecord("u", "a_task", "[bold]no[/x] " * 20, "B", "B", True, 1.0, 0.25, False)
    output = io.StringIO()
    Console(file=output, width=200).print(sample_table([record]))
    assert "[bold]no[/x] [bold]no[/x]" in output.getvalue()
    assert "…" in output.getvalue()


def test_no_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"count must be at least 1, got 0"):
        SampleTable(count=0)
