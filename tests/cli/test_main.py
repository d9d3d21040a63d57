"""The first page a newcomer sees, and the ways to call the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spatial_ssrl
from spatial_ssrl.cli.main import COMMANDS, main


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_the_first_page_names_every_command_with_an_example(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    page = capsys.readouterr().out
    lines = page.splitlines()
    for name, command in COMMANDS.items():
        place = next(n for n, line in enumerate(lines) if line.startswith(f"  {name} "))
        assert command.help in lines[place]
        assert lines[place + 1].strip() == f"$ {command.example}"
        assert command.example.startswith(f"spatial-ssrl {name}")
    assert len(lines) <= 40  # a small terminal
    assert max(map(len, lines)) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"spatial-ssrl {spatial_ssrl.__version__}\n"


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spatial_ssrl", "lists"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == ("spatial-ssrl: error: 'lists' is not a command. Did you mean list?\n")


@pytest.mark.parametrize("name", ["quickstart", "preview", "list", "export", "chat"])
def test_help_of_a_command_explains_each_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: spatial-ssrl {name} ")
    options = [line for line in page.splitlines() if line.startswith("  --")]
    assert options
    # An option without a line of explanation shows its type alone.
    assert "\n                        (type:" not in page


@pytest.mark.parametrize("before", [None, "0"])
def test_nothing_prepares_to_compile_for_a_plan(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, seen = "TORCHDYNAMO_DISABLE", []
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    monkeypatch.setattr("spatial_ssrl.cli.plan.run", lambda words: seen.append(os.environ[name]))
    assert main(["plan", "-c", "run.yaml"]) == 0
    assert seen == ["1"]
    assert os.environ.get(name) == before


def test_ctrl_c_anywhere_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(kind: str | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spatial_ssrl.cli.commands.list.list_components", stop)
    assert main(["list"]) == 130
    assert capsys.readouterr().err.strip() == "Stopped."


def test_ctrl_c_in_code_made_on_the_fly_ends_with_130_too(tmp_path: Path) -> None:
    program = (
        "from spatial_ssrl.cli.main import COMMANDS, Command, main\n"
        "def stop() -> None: exec('raise KeyboardInterrupt')\n"
        "COMMANDS['stop'] = Command('', '', '__main__:stop')\n"
        "raise SystemExit(main(['stop']))\n"
    )
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "Stopped.")


@pytest.mark.parametrize(("words", "at_once"), [(["plan", "--help"], True), (["list"], False)])
def test_what_only_prints_leaves_at_once_when_all_is_printed(
    words: list[str], at_once: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import atexit, sys\n"
        "from spatial_ssrl.__main__ import run\n"
        "atexit.register(print, 'closed')\n"
        "run()\n"
    )
    command = [sys.executable, "-c", program, *words]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # What is not flushed would be lost.
    done = subprocess.run(command, capture_output=True, text=True, env=buffered)
    assert main(words) == done.returncode == 0
    assert done.stdout == capsys.readouterr().out + ("" if at_once else "closed\n")
    assert main(["plan", "-c", "nowhere.yaml"]) == 2
    done = subprocess.run([*command[:3], "plan", "-c", "nowhere.yaml"], capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode() == capsys.readouterr().err
