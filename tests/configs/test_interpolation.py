"""What `${...}` in a config means: the parser mode is experimental, so its behaviour is pinned."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spatial_ssrl.cli.main import main

RUN = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 1
  default_root_dir: ${oc.env:SPATIAL_SSRL_TEST_RUNS,runs}/short
  callbacks:
    - class_path: ModelCheckpoint
      init_args:
        dirpath: ${trainer.default_root_dir}/checkpoints
model:
  class_path: RLModule
  init_args:
    policy:
      class_path: TinyVLM
      init_args:
        image_size: 64
        hidden_size: ${.image_size}
        heads: 4
    algorithm: GRPO
    group_size: 4
data: parts/data.yaml
"""

DATA = """
class_path: PretextDataModule
init_args:
  images:
    - class_path: ImageFolder
      init_args:
        folder: ${oc.env:SPATIAL_SSRL_TEST_IMAGES,photos}
  tasks: [FlippedPatch]
"""


@pytest.fixture
def run_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "data.yaml").write_text(DATA)
    (tmp_path / "run.yaml").write_text(RUN)
    for name in ("SPATIAL_SSRL_TEST_RUNS", "SPATIAL_SSRL_TEST_IMAGES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "run.yaml"


def resolved(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, object]]:
    """Return the config that a run would save."""
    assert main(["fit", *args, "--print_config"]) == 0
    content: dict[str, dict[str, object]] = yaml.safe_load(capsys.readouterr().out)
    return content


def folder(config: dict[str, dict[str, object]]) -> object:
    return config["data"]["init_args"]["images"][0]["init_args"]["folder"]  # type: ignore[index]


def test_defaults_of_environment_variables(
    run_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolved(capsys, "-c", str(run_yaml))
    assert config["trainer"]["default_root_dir"] == "runs/short"
    assert folder(config) == "photos"


def test_environment_variables_reach_files_inside_files(
    run_yaml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPATIAL_SSRL_TEST_RUNS", "/elsewhere")
    monkeypatch.setenv("SPATIAL_SSRL_TEST_IMAGES", "/pictures")
    config = resolved(capsys, "-c", str(run_yaml))
    assert config["trainer"]["default_root_dir"] == "/elsewhere/short"
    assert folder(config) == "/pictures"


def test_a_path_made_of_another_follows_the_command_line(
    run_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolved(capsys, "-c", str(run_yaml), "--trainer.default_root_dir=mine")
    callbacks = config["trainer"]["callbacks"]
    assert callbacks[0]["init_args"]["dirpath"] == "mine/checkpoints"  # type: ignore[index]


def test_a_relative_reference_follows_the_command_line(
    run_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resolved(capsys, "-c", str(run_yaml), "--model.policy.image_size=128")
    policy = config["model"]["init_args"]["policy"]["init_args"]  # type: ignore[index]
    assert (policy["image_size"], policy["hidden_size"]) == (128, 128)


def test_a_later_file_wins_over_an_earlier_one(
    run_yaml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("model:\n  init_args:\n    group_size: 6\n")
    config = resolved(capsys, "-c", str(run_yaml), "-c", str(over), "--trainer.max_steps=3")
    assert config["model"]["init_args"]["group_size"] == 6  # type: ignore[index]
    assert config["model"]["class_path"] == "spatial_ssrl.training.RLModule"
    assert config["trainer"]["max_steps"] == 3


def test_the_command_line_appends_a_task_and_sets_it(
    run_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--data.tasks+=ShuffledPatches", "--data.tasks.rows=3"]
    config = resolved(capsys, "-c", str(run_yaml), *args)
    tasks = config["data"]["init_args"]["tasks"]  # type: ignore[index]
    assert [task["class_path"].rpartition(".")[2] for task in tasks] == [
        "FlippedPatch",
        "ShuffledPatches",
    ]
    assert tasks[1]["init_args"]["rows"] == 3


def test_null_on_the_command_line_is_null_deep_down(
    run_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ["--model.policy=HFVisionLanguagePolicy", "--model.policy.model=some/model"]
    nulls = ["--model.policy.revision=null", "--model.init_args.policy.init_args.max_pixels=null"]
    values = [text.replace("null", "7") for text in nulls]
    for given, expected in ((values, ["7", 7]), (nulls, [None, None])):
        config = resolved(capsys, "-c", str(run_yaml), *policy, *values, *given)
        found = config["model"]["init_args"]["policy"]["init_args"]  # type: ignore[index]
        assert [found["revision"], found["max_pixels"]] == expected
