"""`spatial-ssrl chat` prints the reasoning and the boxed answer, and says what is wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.cli.commands import chat as module
from spatial_ssrl.cli.main import main
from spatial_ssrl.export import Reply


@pytest.fixture
def photo(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_one_question_with_what_looks_like_yaml(
    tiny_qwen_folder: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--question", "Which is nearer: [A] or {B}?", "--max-new-tokens", "4", photo, photo]
    assert main(["chat", "--model", str(tiny_qwen_folder), *words]) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[-1].startswith("answer: ")
    assert "(cut off; --max-new-tokens allows more)" in first
    assert main(["chat", photo, photo, "--model", str(tiny_qwen_folder), *words[:4]]) == 0
    assert capsys.readouterr().out == first


def test_reasoning_and_answer_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    text = "<think> The [red] box is nearer. </think>So \\boxed{B}"
    module._show(Reply(text, " The [red] box is nearer. ", "So \\boxed{B}", "B", False))
    assert capsys.readouterr().out == "The [red] box is nearer.\nSo \\boxed{B}\nanswer: B\n"
    module._show(Reply("Well", None, "Well", None, False))
    assert capsys.readouterr().out == "Well\nanswer: none in a box\n"


def test_questions_from_a_pipe(
    tiny_qwen_folder: Path,
    photo: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["chat", "--model", str(tiny_qwen_folder), photo, "--max-new-tokens", "3"]
    monkeypatch.setattr("sys.stdin", io.StringIO("What is left?\nWhat is right?\n"))
    assert main(words) == 0
    assert capsys.readouterr().out.count("answer: ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(words) == 2
    assert "there is no question; give one with --question." in capsys.readouterr().err


def test_what_is_wrong_is_told_before_anything_is_loaded(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    for words, said in (
        ([], "no value for model and images; give it as an option or in a file"),
        (["--model", "m"], "no value for images"),
        (["--model", "m", "no.jpg"], "images: 'no.jpg' is not there; name picture files."),
        (["--model", "m", str(tmp_path / "text.jpg")], "text.jpg cannot be read as a picture:"),
        (["--model", "./none", photo], "model: there is no folder './none'"),
        (["--model", "m", photo, "--question", " "], "question is empty."),
        (["--model", "m", photo, "--temperature", "-1"], "temperature must be 0 (greedy) or more"),
        (["--model", "m", photo, "--temprature", "1"], "no option 'temprature'. Did you mean tem"),
    ):
        assert main(["chat", *words]) == 2
        assert said in capsys.readouterr().err


def test_ctrl_c_while_it_waits_for_a_question(
    tiny_qwen_folder: Path,
    photo: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", stop)
    assert main(["chat", "--model", str(tiny_qwen_folder), photo]) == 130
    assert capsys.readouterr().err.endswith("\nStopped.\n")
