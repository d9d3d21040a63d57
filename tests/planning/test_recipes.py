"""The cards that recipes are for hold what they are predicted to need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spatial_ssrl.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_the_paper_s_run_fits_its_cards(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the margin of any plan; and as its file says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["spatial-ssrl"])
    recipe = CONFIGS / "recipes" / "paper_rl.yaml"
    words = ["-c", str(CONFIGS / "rl_qwen25vl_lora.yaml"), "-c", str(recipe)]
    model = "--model.policy.model=Qwen/Qwen2.5-VL-3B-Instruct"
    assert main(["plan", *words, model, "--gpu", "80GB"]) == 0
    shown = capsys.readouterr().out
    assert "Fits 80.00 GiB with 4.00 of them kept free" in shown
    predicted = re.search(r"total\W+([\d.]+)\W+([\d.]+)", shown)
    assert predicted is not None
    text = " ".join(recipe.read_text(encoding="utf-8").replace("#", "").split())
    said = re.search(r"([\d.]+) GiB for sampling and ([\d.]+) for the update", text)
    assert said is not None
    for found, written in zip(predicted.groups(), said.groups(), strict=True):
        assert float(found) == pytest.approx(float(written), abs=0.1)
