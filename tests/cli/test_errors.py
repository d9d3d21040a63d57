"""Bad input is answered with one line: the key, the value and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from spatial_ssrl.cli.errors import UsageError, explain, is_users, one_line
from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.main import COMMANDS, main
from spatial_ssrl.core.errors import ConfigError

if TYPE_CHECKING:
    from conftest import RunFile

MODEL, DATA = "model.init_args", "data.init_args"
FOLDER = {"class_path": "ImageFolder", "init_args": {"folder": "?"}}


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must fail politely; return what it says."""
    capsys.readouterr()
    assert main(list(args)) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("spatial-ssrl: error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("spatial-ssrl: error: ")


# The values a config gives.


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            f"{DATA}.tasks",
            ["FlippedPatch", "FlipedPatch"],
            "data.tasks: no class is called 'FlipedPatch'. Did you mean FlippedPatch?",
        ),
        (
            f"{DATA}.tasks",
            ["flipped_patch"],
            "data.tasks: no class is called 'flipped_patch'. In YAML write the class name, Flip",
        ),
        (f"{MODEL}.algorithm", "GRPOO", "model.algorithm: no class is called 'GRPOO'. Did you me"),
        ("model.class_path", "RLModul", "model: no class is called 'RLModul'. Did you mean RLMod"),
        (
            "model.class_path",
            "spatial_ssrl.training.RLModul",
            "model: module 'spatial_ssrl.training' has no class 'RLModul'. Did you mean RLModule",
        ),
        (f"{MODEL}.group_siz", 3, "model: RLModule has no setting 'group_siz'. Did you mean grou"),
        (f"{MODEL}.group_size", "x", "model.group_size: expected int, got 'x'."),
        (
            f"{DATA}.tasks",
            [{"class_path": "DepthOrder", "init_args": {"count": "x"}}],
            "data.tasks.count: expected int, got 'x'.",
        ),
        (f"{DATA}.images", [FOLDER | {"init_args": {}}], "data.images: ImageFolder needs a value "),
        ("trainer.precision", "bf8", "'bf16-true', 'bf16-mixed', '32-true', '64-true' or "),
        ("trainer.max_step", 3, "there is no option 'trainer.max_step'. Did you mean trainer.max_"),
        ("trainer.callbacks", ["ModelCheckpont"], "trainer.callbacks: no class is called 'ModelC"),
        (f"{MODEL}.group_size", 1, "model (RLModule): "),
        (f"{DATA}.batch_size", 0, "data (PretextDataModule): batch_size must be at least 1, got 0"),
        (f"{DATA}.tasks", [], "tasks is empty"),
        (
            f"{MODEL}.policy",
            {"class_path": "HFVisionLanguagePolicy", "init_args": {"model": "nobody/nothing"}},
            "nobody/nothing",
        ),
    ],
)
def test_bad_values(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], key: str, value: object, said: str
) -> None:
    run_file.set(key, value)
    assert said in complaint(capsys, "fit", "-c", run_file.write())


def test_group_size_one_names_the_setting_and_the_remedy(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.set(f"{MODEL}.group_size", 1)
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert "group" in said
    assert "2" in said


def test_depth_task_without_depth(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    run_file.set(f"{DATA}.images", [FOLDER | {"init_args": {"folder": str(tmp_path)}}])
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert "'depth_order' needs depth" in said
    assert "add an RGB-D source" in said


def test_image_folder_that_is_empty(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    empty = tmp_path / "photos"
    empty.mkdir()
    run_file.set(f"{DATA}.images", [FOLDER | {"init_args": {"folder": str(empty)}}])
    run_file.set(f"{DATA}.tasks", ["FlippedPatch"])
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert str(empty) in said
    assert "holds no picture" in said
    assert said in complaint(capsys, "preview", str(empty), "--out", str(tmp_path / "sheet.png"))


def test_image_folder_of_broken_files(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "photos"
    broken.mkdir()
    (broken / "text.jpg").write_text("not a picture")
    (broken / "nothing.png").write_bytes(b"")
    run_file.set(f"{DATA}.images", [FOLDER | {"init_args": {"folder": str(broken)}}])
    run_file.set(f"{DATA}.tasks", ["FlippedPatch"])
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert str(broken) in said
    assert "broken" in said


def test_running_out_of_memory(run_file: RunFile, capsys: pytest.CaptureFixture[str]) -> None:
    run_file.set(
        f"{MODEL}.rollout",
        {"class_path": "support.failing.HungryRollout", "init_args": {"batch": 1}},
    )
    run_file.set(f"{MODEL}.update", {"self_check": False})
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert said.startswith("At optimiser step 2, of which no checkpoint was written, memory ran ou")
    assert "`spatial-ssrl plan` tells what fits" in said
    # A dataset too large to be held, a model too large to be loaded, a validation too long.
    run_file.set("trainer.limit_val_batches", 1)
    run_file.set("trainer.num_sanity_val_steps", 1)
    run_file.set(f"{MODEL}.rollout.init_args.batch", 0)
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert said.startswith("Outside of a training step, memory ran out ([enforce fail at")


# Files and folders.


def test_output_folder_that_cannot_be_written(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")  # A folder below a file fails for every user, root too.
    out = str(tmp_path / "file" / "run")
    said = complaint(capsys, "fit", "-c", run_file.write(), f"--trainer.default_root_dir={out}")
    assert said.startswith(f"trainer.default_root_dir: the folder {out!r} cannot be written (Not a")
    assert said.endswith("choose another one.")


@pytest.mark.parametrize(
    ("name", "setting"), [("ModelCheckpoint", "dirpath"), ("AdapterCheckpoint", "directory")]
)
def test_folder_of_a_callback_that_cannot_be_written(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], name: str, setting: str
) -> None:
    run_file.set("trainer.enable_checkpointing", True)
    run_file.set(
        "trainer.callbacks", [{"class_path": name, "init_args": {setting: "/dev/null/kept"}}]
    )
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert said.startswith(f"trainer.callbacks ({name}): {setting}: the folder '/dev/null/kept' ca")


def test_looking_for_a_folder_does_not_make_it(tmp_path: Path) -> None:
    check_writable("out", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"out: the folder '/proc/x' cannot be written"):
        check_writable("out", Path("/proc/x"))


def test_sheet_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = complaint(capsys, "preview", "--out", "/dev/null/x/sheet.png")
    assert said.startswith("out: the folder '/dev/null/x' cannot be written (Not a directory)")
    said = complaint(capsys, "preview", "--out", str(tmp_path))
    assert said == f"out: {str(tmp_path)!r} is a folder; name a PNG file in it."


def test_quickstart_looks_at_photos_and_output_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, photos = tmp_path / "out", tmp_path / "photos"
    words = ["quickstart", "--out", str(out), "--images", str(photos)]
    assert "is not a folder; give one" in complaint(capsys, *words)
    photos.mkdir()
    assert "holds no picture" in complaint(capsys, *words)
    assert not out.exists(), "nothing was drawn"
    said = complaint(capsys, "quickstart", "--out", "/dev/null/x")
    assert said == "out: '/dev/null/x' cannot be written (Not a directory); choose another folder."


def test_a_folder_that_holds_a_run(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_file.set("trainer.logger", False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed_everything: 3\n")
    said = complaint(capsys, "fit", "-c", run_file.write())
    assert "already holds a run" in said
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed_everything: 3\n"


def test_config_that_is_missing(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run_file.write()
    missing = tmp_path / "rum.yaml"
    for args in (["-c", str(missing)], [f"--config={missing}"]):
        said = complaint(capsys, "fit", *args)
        assert f"there is no file {str(missing)!r}. Did you mean {run_file.path}?" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model: [1,\n  b: {", "is not valid YAML (line 2)"),
        (b"- a\n- b\n", "must hold keys such as `model:`, got list"),
        (b"\xff\xfe\x00\x01", "is not a text file"),
        (b"", "must hold keys"),
    ],
)
def test_config_that_is_no_mapping(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    message = complaint(capsys, "fit", "-c", str(path))
    assert message.startswith(str(path))
    assert said in message


def test_checkpoint_that_is_missing(run_file: RunFile, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "fit", "-c", run_file.write(), "--ckpt_path", "runs/none.ckpt")
    assert "ckpt_path: there is no checkpoint 'runs/none.ckpt'" in said


def test_checkpoint_that_is_none(
    run_file: RunFile, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, broken)
    broken.write_bytes(broken.read_bytes()[:-100])
    said = complaint(capsys, "fit", "-c", run_file.write(), "--ckpt_path", str(broken))
    assert said.startswith(f"ckpt_path: {str(broken)!r} is not a checkpoint, or was cut off")


# The command line itself.


def test_config_files_given_wrongly(run_file: RunFile, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_file.write()
    assert complaint(capsys, "fit", "-c") == "-c needs a file, such as -c run.yaml."
    assert complaint(capsys, "fit", "-c", "--trainer.max_steps=1").startswith("-c needs a file")
    assert f"a config file is given by -c {path}" in complaint(capsys, "fit", path)


def test_no_model_and_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "fit")
    assert said == "no value for data and model; give it as an option or in a file: --config FILE."


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        complaint(capsys, "quikstart") == "'quikstart' is not a command. Did you mean quickstart?"
    )
    assert complaint(capsys, "zzz").endswith(f"Choose from {', '.join(COMMANDS)}.")


def test_unknown_option_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "list", "--kid=x") == "there is no option 'kid'. Did you mean kind?"


def test_debug_lets_the_error_through(run_file: RunFile) -> None:
    run_file.set(f"{MODEL}.algorithm", "GRPOO")
    with pytest.raises(UsageError, match="GRPOO") as caught:
        main(["fit", "-c", run_file.write(), "--debug"])
    assert caught.value.__cause__ is not None


def test_the_real_program_ends_with_2_and_shows_a_trace_on_demand() -> None:
    words = [sys.executable, "-m", "spatial_ssrl", "list", "taks"]
    plain, debug = (
        subprocess.run([*words, *more], capture_output=True, text=True, check=False)
        for more in ([], ["--debug"])
    )
    assert plain.returncode == 2
    (line,) = plain.stderr.splitlines()
    assert line.startswith("spatial-ssrl: error: kind 'taks' is unknown; did you mean tasks?")
    assert plain.stdout == ""
    assert debug.returncode not in (0, 2)
    assert debug.stderr.startswith("Traceback (most recent call last):")
    assert "kind 'taks' is unknown" in debug.stderr


def test_a_defect_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kind: str | None = None) -> None:
        raise KeyError("a defect, not a mistake of the user")

    monkeypatch.setattr("spatial_ssrl.cli.commands.list.list_components", broken)
    with pytest.raises(KeyError):
        main(["list"])


# How messages are read.


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("plain words", "plain words"),
        ("two\nlines", "two lines"),
        ('Parser key "config": Path is not a file: x', "config: Path is not a file: x"),
        (
            'Parser key "a":\n  Does not validate against any of the Union subtypes\n'
            "  Subtypes: [int, str]\n  Errors:\n    - Expected a <class 'int'>\n"
            "    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n"
            "  Given value: oak",
            "a: expected int or null, got 'oak'.",
        ),
    ],
)
def test_explain(message: str, said: str) -> None:
    assert explain(message) == said


def test_one_line_of_a_worker_error_is_its_cause() -> None:
    text = (
        "Caught SceneUnreadable in DataLoader worker process 0.\nOriginal Traceback (most recent "
        "call last):\n  File ...\nspatial_ssrl.core.errors.SceneUnreadable: a.jpg: truncated\n"
    )
    assert one_line(ValueError(text)) == "a.jpg: truncated"
    assert one_line(ValueError("")) == "ValueError"
    assert one_line(FileNotFoundError(2, "No such file", "a.json")) == "'a.json': No such file."


def test_whose_error_it_is() -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    assert is_users(MisconfigurationException("x"))
    assert is_users(UsageError("x"))
    assert is_users(FileNotFoundError("x"))
    assert not is_users(KeyError("x"))
