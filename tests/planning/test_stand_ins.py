"""Processors without a vocabulary: tokens of pictures, counted by hand, and whole plans."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from spatial_ssrl.cli.main import main
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.known import find_model
from spatial_ssrl.policies.collate import chat_text, encode
from spatial_ssrl.policies.hub import ModelSource
from support.run_files import run_of_a_model

SMOLVLM_2B = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
SMOLVLM_500M = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
INTERNVL = "OpenGVLab/InternVL3-1B-hf"
LLAVA = "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
GEMMA = "google/gemma-3-4b-it"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def placeholders(model: str, *sizes: tuple[int, int]) -> int:
    """Return how many tokens of a prompt stand for pictures of these widths and heights."""
    source, _ = find_model(ModelSource(model))
    processor = source.build_processor()
    text = chat_text(processor, ["", *["near or far?"] * len(sizes)])
    blank = [Image.new("RGB", size) for size in sizes]
    ids = encode(processor, [text], [blank])["input_ids"]
    assert source.config is not None
    return int((ids == source.config.image_token_id).sum())


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        # A token for each 28 x 28 pixels, sides rounded to that (Qwen2-VL, arXiv:2409.12191).
        ("Qwen/Qwen2-VL-2B-Instruct", (1024, 768), 37 * 27),
        # For each 32 x 32: its patches have 16 pixels a side, and four make a token.
        ("Qwen/Qwen3-VL-2B-Instruct", (1024, 768), 32 * 24),
        # Tiles of 448 pixels, 256 tokens each, in the grid of at most twelve that is nearest in
        # shape, and a small copy of the whole beside several (InternVL 1.5, arXiv:2404.16821).
        (INTERNVL, (1024, 768), (4 * 3 + 1) * 256),
        (INTERNVL, (900, 300), (3 * 1 + 1) * 256),
        (INTERNVL, (448, 448), 256),
        # The longer side becomes four tiles, the other as many as it needs, beside a small copy of
        # the whole. A tile has 384 pixels, 27 x 27 patches and a ninth as many tokens; in the small
        # model 512, 32 x 32 and a sixteenth (SmolVLM, arXiv:2504.05299).
        (SMOLVLM_2B, (1024, 768), (4 * 3 + 1) * 81),
        (SMOLVLM_2B, (300, 1200), (1 * 4 + 1) * 81),
        (SMOLVLM_500M, (1024, 768), (4 * 3 + 1) * 64),
        # Any picture is one square of 896 pixels: 64 x 64 patches, sixteen to a token (Gemma 3,
        # arXiv:2503.19786).
        (GEMMA, (1024, 768), 256),
        (GEMMA, (300, 1200), 256),
        # Alone it is seen whole, as 27 x 27 patches, and in squares of 384 pixels: three by two of
        # them hold this picture best. Of their 81 x 54 patches it fills 72 columns; of the other
        # nine, four are cut off on either side. A mark ends each of the 54 lines (LLaVA-OneVision,
        # arXiv:2408.03326).
        (LLAVA, (1024, 768), 27 * 27 + (81 - 2 * 4) * 54 + 54),
        # Six by one: 162 x 27 patches, all filled.
        (LLAVA, (2304, 384), 27 * 27 + 162 * 27 + 27),
    ],
)
def test_pictures_have_as_many_tokens_as_by_hand(
    model: str, size: tuple[int, int], tokens: int
) -> None:
    assert placeholders(model, size) == tokens


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        (INTERNVL, 2 * (4 * 3 + 1) * 256),
        (SMOLVLM_2B, 2 * (4 * 3 + 1) * 81),
        (GEMMA, 2 * 256),
        (LLAVA, 2 * (27 * 27 + 1)),  # one square each, and a mark
    ],
)
def test_two_pictures_of_a_question(model: str, tokens: int) -> None:
    assert placeholders(model, (1024, 768), (1024, 768)) == tokens


def test_a_package_that_the_processor_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import SmolVLMProcessor

    monkeypatch.setattr(sys.modules[SmolVLMProcessor.__module__], "num2words", None)
    with pytest.raises(ConfigError, match=rf"'{SMOLVLM_2B}' needs a package .*num2words.*install"):
        find_model(ModelSource(SMOLVLM_2B))


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        # GiB, of two bytes a weight of the published totals in `test_source.py`.
        ("Qwen/Qwen2-VL-2B-Instruct", 4.11),
        pytest.param("Qwen/Qwen3-VL-2B-Instruct", 3.96, marks=pytest.mark.slow),
        (INTERNVL, 1.75),
        (SMOLVLM_500M, 0.95),
        (GEMMA, 8.01),
        (LLAVA, 1.66),
        pytest.param("Qwen/Qwen2-VL-7B-Instruct", 15.44, marks=pytest.mark.slow),
        pytest.param("OpenGVLab/InternVL3-2B-hf", 3.89, marks=pytest.mark.slow),
        pytest.param("OpenGVLab/InternVL3-8B-hf", 14.80, marks=pytest.mark.slow),
        pytest.param(SMOLVLM_2B, 4.18, marks=pytest.mark.slow),
        pytest.param("google/gemma-3-12b-it", 22.70, marks=pytest.mark.slow),
        pytest.param(LLAVA.replace("0.5b", "7b"), 14.96, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_a_known_model_is_planned(
    model: str,
    weights: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["spatial-ssrl"])
    config = run_of_a_model(model)
    config["data"]["init_args"]["images"][0]["init_args"]["size"] = 448
    Path("run.yaml").write_text(yaml.safe_dump(config))
    words = ["--model.policy.dtype=bfloat16", "--model.policy.lora.target_modules=all-linear"]
    assert main(["plan", "-c", "run.yaml", *words]) == 0
    shown = capsys.readouterr().out
    assert "sizes from" in shown
    (found,) = re.findall(r"weights\s+│\s+([\d.]+)", shown)
    assert float(found) == pytest.approx(weights, abs=0.02), "rounded, with buffers"
    for part in ("adapters", "vision activations", "scoring activations", "total"):
        assert re.search(rf"{part}\s", shown), part
