"""Every config that comes with the library parses and builds through the real parser."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lightning.pytorch import LightningDataModule

from spatial_ssrl.cli.fit import SpatialCLI
from spatial_ssrl.cli.main import main
from spatial_ssrl.policies import PolicyBackbone
from spatial_ssrl.training import PolicyModule

CONFIGS = Path(__file__).parents[2] / "configs"
SETS = sorted(CONFIGS.glob("curate/*.yaml"))  # For `spatial-ssrl curate`.
ALGORITHMS = sorted(CONFIGS.glob("algorithm/*.yaml"))  # Parts of the model of a run.
RECIPES = sorted(CONFIGS.glob("recipes/*.yaml"))  # Laid over a run.
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(SETS) - set(ALGORITHMS) - set(RECIPES))
PART = "class_path"  # A file with this at its top is one component, for other files to name.


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def is_run(path: Path) -> bool:
    return PART not in yaml.safe_load(path.read_text(encoding="utf-8"))


RUNS = [path for path in FILES if is_run(path)]
DATA = [path for path in FILES if not is_run(path)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, with none of the variables that configs read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["spatial-ssrl"])
    for name in ("IMAGES", "COCO", "DIODE", "MEGADEPTH", "RUNS", "QUICKSTART"):
        monkeypatch.delenv(f"SPATIAL_SSRL_{name}", raising=False)


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if building a config loads a policy."""
    from spatial_ssrl.policies import HFVisionLanguagePolicy

    def load(self: PolicyBackbone) -> None:
        raise AssertionError("a config loaded weights")

    monkeypatch.setattr(HFVisionLanguagePolicy, "load", load)


def test_both_kinds_of_file_were_found() -> None:
    assert {name_of(path) for path in RUNS} >= {
        "quickstart/cold_start.yaml",
        "quickstart/grpo.yaml",
        "rl_qwen25vl_lora.yaml",
        "sft_qwen25vl_lora.yaml",
    }
    assert {name_of(path) for path in DATA} >= {"data/photos.yaml", "quickstart/data.yaml"}
    assert len(ALGORITHMS) >= 4


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_builds_without_weights(path: Path, tmp_path: Path) -> None:
    cli = SpatialCLI(["-c", str(path), "--trainer.accelerator=cpu"], run=False)
    assert isinstance(cli.model, PolicyModule)
    assert isinstance(cli.datamodule, LightningDataModule)
    assert list(tmp_path.iterdir()) == [], "building a config wrote files"


@pytest.mark.parametrize("path", ALGORITHMS, ids=name_of)
def test_an_algorithm_takes_the_place_of_that_of_a_run(path: Path) -> None:
    cli = SpatialCLI(
        [
            *("-c", str(CONFIGS / "quickstart" / "grpo.yaml")),
            *("--model.init_args.algorithm", str(path)),
        ],
        run=False,
    )
    clip = yaml.safe_load(path.read_text(encoding="utf-8"))["init_args"]["clip"]
    assert cli.model.algorithm.clip.low == clip["low"]
    assert cli.model.algorithm.clip.dual == clip.get("dual")


def test_another_algorithm_takes_nothing_over_from_that_of_the_run() -> None:
    run = ["-c", str(CONFIGS / "quickstart" / "grpo.yaml")]
    dapo = SpatialCLI([*run, "--model.init_args.algorithm", "DAPO"], run=False).model.algorithm
    assert dapo.kl_coefficient == 0.0
    assert SpatialCLI(run, run=False).model.algorithm.kl_coefficient == 0.01


def stages_of(recipe: Path) -> list[Path]:
    """Return the runs a recipe is for: those that its first lines lay it over."""
    return [run for run in RUNS if f"configs/{name_of(run)} -c" in recipe.read_text("utf-8")]


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_is_a_run_of_its_own(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert stages_of(path)
    for run in stages_of(path):
        words = ["-c", str(run), "-c", str(path), "--trainer.accelerator=cpu"]
        cli = SpatialCLI([*words, "--trainer.devices=1", "--trainer.strategy=auto"], run=False)
        assert isinstance(cli.model, PolicyModule)
        wanted = content["model"]["init_args"].get("policy", {}).get("init_args", {})
        assert cli.model.policy.adapter is None
        assert cli.model.policy.max_pixels == wanted.get("max_pixels", 262144)
        assert (cli.model.policy.quantization is None) == ("quantization" not in wanted)
        assert cli.trainer.default_root_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_says_where_it_writes_and_which_seed_it_has(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content["seed_everything"], int)
    assert content["trainer"]["default_root_dir"]
    assert content["trainer"]["max_steps"] > 0


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_run_keeps_what_resuming_needs(path: Path) -> None:
    callbacks = yaml.safe_load(path.read_text(encoding="utf-8"))["trainer"]["callbacks"]
    (checkpoint,) = [item for item in callbacks if item["class_path"] == "ModelCheckpoint"]
    assert checkpoint["init_args"]["save_last"] is True
    assert checkpoint["init_args"]["every_n_train_steps"] > 0


@pytest.mark.parametrize("path", DATA, ids=name_of)
def test_data_serves_preview_too(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview", "--data", str(path), "--print_config"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"] == "spatial_ssrl.data.PretextDataModule"
    assert "${" not in str(data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", SETS, ids=name_of)
def test_a_set_parses_without_its_pictures(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curate", "--config", str(path), "--print_config"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert "${" not in str(content)
    assert all(part["count"] > 0 and part["tasks"] for part in content["parts"])
    assert list(tmp_path.iterdir()) == []


def test_the_mix_of_the_reference_has_its_size_and_all_its_tasks() -> None:
    (path,) = [path for path in SETS if path.stem == "spatial_ssrl_81k"]
    parts = yaml.safe_load(path.read_text(encoding="utf-8"))["parts"]
    assert sum(part["count"] for part in parts) == 81_000
    assert sorted(task for part in parts for task in part["tasks"]) == [
        "CroppedInpainting",
        "DepthOrder",
        "FlippedPatch",
        "RelativePosition",
        "ShuffledPatches",
    ]
    # As many questions of each task as of any other.
    assert {part["count"] / len(part["tasks"]) for part in parts} == {16_200}


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_one_option_moves_all_that_a_run_writes(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", str(path), "--trainer.default_root_dir=mine", "--print_config"]) == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    places = [trainer["logger"]["init_args"]["save_dir"]]
    for callback in trainer["callbacks"]:
        arguments = callback.get("init_args", {})
        places += [arguments[name] for name in ("dirpath", "directory") if arguments.get(name)]
    assert all(Path(place).parts[0] == "mine" for place in places), places
