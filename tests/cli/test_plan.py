"""`spatial-ssrl plan`: from a config to a table and a config that fits."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import yaml

from spatial_ssrl.cli.main import main
from support.run_files import run_of_a_model
from support.tiny_models import write_tiny


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the config of a run whose model has no weights here, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["spatial-ssrl"])
    folder = write_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(run_of_a_model(folder)))
    return config


def test_a_run_is_planned_without_its_weights_and_pictures(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    assert main(["plan", "-c", str(run), "--gpu", "1GB", "--write", "fits.yaml"]) == 0
    assert logger.level == level, "what follows in this process may log as before"
    shown = capsys.readouterr().out
    for part in ("weights", "adapters", "optimiser state", "scoring activations"):
        assert re.search(rf"{part}\s", shown), part
    assert "Fits 1.00 GiB" in shown
    assert "2 questions a process" in shown, "two processes share the four questions"
    assert re.search(r"group size\W+4\W+16\+", shown)
    written = yaml.safe_load(Path("fits.yaml").read_text())
    assert written["trainer"]["devices"] == 2
    assert written["trainer"]["accelerator"] == "gpu"
    assert written["model"]["init_args"]["update"]["micro_batch_size"] == 4
    assert main(["fit", "-c", "fits.yaml", "--print_config"]) == 0


def test_a_run_that_does_not_fit_is_written_so_that_it_does(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a card with hardly more room than its overheads, passes become smaller."""
    assert (
        main(["plan", "-c", str(run), "--gpu", "608MiB", "--margin=0", "--write", "fits.yaml"]) == 0
    )
    assert "Does not fit" in capsys.readouterr().out
    model = yaml.safe_load(Path("fits.yaml").read_text())["model"]["init_args"]
    assert model["update"]["micro_batch_size"] == 1
    heading = Path("fits.yaml").read_text().splitlines()
    assert heading[0].startswith("# Written by spatial-ssrl plan for 0.59 GiB")
    assert heading[1] == "# model.update.micro_batch_size: 2 -> 1 (time only)"
    assert main(["plan", "-c", "fits.yaml", "--gpu", "608MiB", "--margin", "0"]) == 0
    assert "Fits" in capsys.readouterr().out


def test_an_engine_that_is_not_named_gets_its_limit(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole groups of 128 completions do not fit where single ones do: no result changes."""
    words = ["--model.group_size=128", "--model.update.micro_batch_tokens=1", "--gpu", "609MiB"]
    words += ["--margin=0"]
    assert main(["plan", "-c", str(run), *words, "--write", "fits.yaml"]) == 0
    assert re.search(
        r"model\.rollout\.batch_tokens\W+no limit\W+\d+\W+time only", capsys.readouterr().out
    )
    model = yaml.safe_load(Path("fits.yaml").read_text())["model"]["init_args"]
    assert model["rollout"]["class_path"] == "spatial_ssrl.rollout.InProcess"
    assert model["group_size"] == 128
    assert main(["fit", "-c", "fits.yaml", "--print_config"]) == 0


def test_a_run_that_no_setting_makes_fit_is_told_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["plan", "-c", str(run), "--gpu", "600MiB", "--margin=0", "--write", "fits.yaml"]) == 2
    )
    error = capsys.readouterr().err
    assert "no settings make the run fit" in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("fits.yaml").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "plan needs the config of a run"),
        (["-c", "run.yaml", "--gpu", "large"], "write it as 24GB"),
        (["-c", "run.yaml", "--gpu"], "--gpu needs a value"),
        (["-c", "run.yaml", "--write", "out.yaml"], "--write needs a card"),
        (["-c", "run.yaml", "--margin", "0.1"], "--margin needs a card"),
        (["-c", "run.yaml", "--gpu", "1GB", "--margin", "some"], "'some' is no share"),
        (["-c", "run.yaml", "--gpu", "1GB", "--margin", "5"], "must be in [0, 1), got 5; 0.05"),
        (["-c", "none.yaml"], "there is no file 'none.yaml'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_model_that_is_nowhere_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run.read_text().replace(str(run.parent / "model"), "someone/model")
    run.write_text(config)
    assert main(["plan", "-c", str(run)]) == 2
    assert "'someone/model' is not a folder with a config.json" in capsys.readouterr().err


def test_a_margin_is_kept_by_the_verdict_the_limits_and_what_is_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card on which a run fits to the last byte is too small with a margin, and only then."""
    words = ["plan", "-c", str(run), "--model.update.micro_batch_size=2"]
    assert main([*words, "--gpu", "1GB"]) == 0
    total = re.search(r"total\W+([\d.]+)\W+([\d.]+)", capsys.readouterr().out)
    assert total is not None
    card = f"{(max(map(float, total.groups())) + 0.006) * 1.03:.4f}GiB"  # Rounded to 0.01.
    for margin, fits in (("0", True), ("0.02", True), (None, False)):
        given = [] if margin is None else ["--margin", margin]
        assert main([*words, "--gpu", card, *given, "--write", "fits.yaml"]) == 0
        shown = capsys.readouterr().out
        assert ("Does not fit" not in shown) is fits
        assert ("micro-batch, questions" in shown) is True
        largest = re.search(r"micro-batch, questions\W+2\W+(\w+)", shown)
        assert largest is not None
        assert (largest[1] == "2") is fits
        text = Path("fits.yaml").read_text()
        assert ("micro_batch_size: 2 -> 1" in text.splitlines()[1]) is not fits
        assert ("kept free" in text.splitlines()[0]) is (margin != "0")
