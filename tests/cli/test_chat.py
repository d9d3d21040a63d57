"""`spatial-ssrl chat` prints the reasoning and the boxed answer, and says what is wrong."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from spatial_ssrl.cli.commands import chat as module
from spatial_ssrl.cli.main import main
from spatial_ssrl.export import Reply, question_for
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from support.four_bits import write_wide_qwen
from support.saved_runs import write_adapter, write_run


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
    console = Console(soft_wrap=True)
    reply = Reply(text, " The [red] box is nearer. ", "So \\boxed{B}", "B", False)
    module._show(console, reply, heard=False)
    assert capsys.readouterr().out == "The [red] box is nearer.\nSo \\boxed{B}\nanswer: B\n"
    module._show(console, Reply("Well", None, "Well", None, False), heard=False)
    assert capsys.readouterr().out == "Well\nanswer: none in a box\n"
    module._show(console, reply, heard=True)
    assert capsys.readouterr().out == "\nanswer: B\n", "what was heard is not said again"


def test_in_a_terminal_an_answer_is_printed_as_it_is_sampled(
    tiny_qwen_folder: Path,
    photo: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["chat", "--model", str(tiny_qwen_folder), photo, "--question", "Which?"]
    words += ["--max-new-tokens", "12", "--temperature", "1"]
    heard: list[str] = []
    real = Console.out

    def out(console: Console, *pieces: str, **settings: object) -> None:
        heard.extend(pieces)
        real(console, *pieces, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Console, "out", out)
    assert main(words) == 0
    assert not heard, "in a file all of it comes at once"
    capsys.readouterr()
    monkeypatch.setattr(Console, "is_terminal", True)
    assert main(words) == 0
    assert len(heard) > 1
    assert capsys.readouterr().out.startswith("".join(heard) + "\n")


def test_a_photo_that_is_scaled_and_one_that_cannot_be(
    photo: str, tiny_qwen_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = {"min_pixels": 784, "max_pixels": 50_176}
    free = HFVisionLanguagePolicy(str(tiny_qwen_folder), **bounds)
    free.load()
    small = np.zeros((112, 112, 3), dtype=np.uint8)
    asked = question_for(free, [small], "Which?", SamplingSettings(max_new_tokens=2))
    limit = free.collator()([asked]).input_ids.shape[1]
    settings = {"model": str(tiny_qwen_folder), "lora": {"rank": 4}, **bounds}
    run = write_run(tmp_path / "run", settings | {"max_prompt_tokens": limit})
    write_adapter(tiny_qwen_folder, run / "policy")
    large = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    words = ["chat", "--model", str(run), str(tmp_path / "large.png"), "--max-new-tokens", "2"]
    assert main([*words, "--question", "Which?"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"\(scaled, for the prompt to fit: 600 x 400 to \d+ x \d+ pixels\)", first)
    assert main([*words, "--question", "Which? " * 400]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the question cannot be asked: the prompt is longer than policy.max_prompt" in error


def test_bits_are_those_of_the_library(
    tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_wide_qwen(tmp_path / "base")
    words = ["chat", "--model", str(base), photo, "--question", "Which?", "--max-new-tokens", "2"]
    assert main([*words, "--bits", "4"]) == 0
    assert "answer: " in capsys.readouterr().out
    assert main([*words, "--bits", "8"]) == 2
    assert "bits" in capsys.readouterr().err


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
