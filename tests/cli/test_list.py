"""`spatial-ssrl list` reads the source; what it reads must be what is registered."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from spatial_ssrl.cli.commands.list import built_in_rows
from spatial_ssrl.cli.main import main
from spatial_ssrl.components import FAMILIES, Family
from spatial_ssrl.core.registry import Entry
from support.plugin import write_plugin


def own(family: Family) -> list[Entry[object]]:
    """Return the registered classes of the library itself."""
    return [entry for entry in family.load().entries() if entry.origin == "spatial_ssrl"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.word)
def test_the_static_table_is_the_registry(family: Family) -> None:
    static = {(row.key, row.name, row.summary) for row in built_in_rows(family)}
    assert static == {(entry.key, entry.cls.__name__, entry.summary) for entry in own(family)}
    assert static, "a kind without a single component"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.word)
def test_every_component_says_what_it_does_in_one_line(family: Family) -> None:
    for row in built_in_rows(family):
        assert 10 < len(row.summary) < 100, row
        assert row.summary.endswith("."), row


def test_listing_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from spatial_ssrl.cli.main import main; code = main(['list']);"
        "heavy = {'torch', 'lightning', 'transformers', 'peft', 'timm'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Time on the processor: other programs may hold the machine, and nothing here waits.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert out.stderr.strip() == "set()"
    assert [line for line in out.stdout.splitlines() if line and line[0] != " "] == [
        f"{family.word} ({family.title})" for family in FAMILIES
    ]
    assert "\n  FlippedPatch " in out.stdout


@pytest.mark.parametrize("word", ["tasks", "task", "Tasks"])
def test_one_kind_alone(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tasks (")
    assert [line.split()[0] for line in lines[1:]] == [
        "CroppedInpainting",
        "DepthOrder",
        "FlippedPatch",
        "RelativePosition",
        "ShuffledPatches",
    ]


@pytest.mark.parametrize(
    ("word", "family"),
    [
        ("policy", "policies"),
        ("algorithm", "algorithms"),
        ("image", "images"),
        ("rollouts", "roll"),
    ],
)
def test_kinds_in_the_singular(word: str, family: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word]) == 0
    assert capsys.readouterr().out.startswith(family)


def test_an_unknown_kind_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "taks"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("spatial-ssrl: error: kind 'taks' is unknown; did you mean tasks?")


def test_plugins_are_marked_with_their_distribution_and_cost_no_torch(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "spatial_ssrl", "list", "tasks"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if "CountStripes" in line]
    assert line.split()[:2] == ["CountStripes", "count_stripes"]
    assert line.endswith(
        "Count the white stripes painted over a picture. [plug-in: stripes-plugin]"
    )
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_a_broken_plugin_is_reported_below_the_tables(tmp_path: Path) -> None:
    write_plugin(tmp_path)
    (tmp_path / "stripes_plugin.py").write_text("import a_module_nobody_has")
    done = subprocess.run(
        [sys.executable, "-m", "spatial_ssrl", "list", "tasks"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "FlippedPatch" in done.stdout
    assert "'stripes' failed to load: ModuleNotFoundError" in done.stderr
