"""The shape of the package: who may import whom, what stays light, what is documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spatial_ssrl

ROOT = Path(spatial_ssrl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

ORDER = (
    "core",
    "images",
    "tasks",
    "prompts",
    "verifiers",
    "policies",
    "rollout",
    "algorithms",
    "data",
    "training",
    "evaluation",
    "export",
    "planning",
    "cli",
)
LIGHT = ("core", "images", "tasks", "prompts", "verifiers")
HEAVY = {"torch", "torchvision", "lightning", "transformers", "peft", "timm", "datasets"}
# core/batches.py is the one tensor module of the light packages; nothing light imports it.
TENSORS = ROOT / "core" / "batches.py"
# Sets of the hub are read by the hub's own library, which they import when they are asked for.
TABLES = {ROOT / "images" / "hub.py", ROOT / "images" / "hub_tables.py"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Yield every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively; write the whole path"
            yield str(node.module)


def package_of(path: Path) -> str | None:
    """Return the family a file belongs to; None for the modules at the top."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else None


def test_every_package_has_a_place_in_the_order() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert packages == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_to_the_left(path: Path) -> None:
    package = package_of(path)
    if package is None:
        return
    place = ORDER.index(package)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "spatial_ssrl" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= place, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_algorithms_know_only_core(path: Path) -> None:
    if package_of(path) == "algorithms":
        ours = {module.split(".")[1] for module in imports(path) if module.startswith("spatial_")}
        assert ours <= {"core", "algorithms"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_light_packages_name_no_heavy_one(path: Path) -> None:
    if package_of(path) in LIGHT and path != TENSORS:
        modules = set(imports(path))
        heavy = {module.split(".")[0] for module in modules} & HEAVY
        assert heavy <= ({"datasets"} if path in TABLES else set())
        assert "spatial_ssrl.core.batches" not in modules


def test_light_packages_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        + "".join(f"import spatial_ssrl.{package}\n" for package in LIGHT)
        + f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in public(tree.body):
        assert ast.get_docstring(node), f"{name_of(path)}: {node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            check_methods(path, node)


def check_methods(path: Path, node: ast.ClassDef) -> None:
    """A method that only fills in what a base documents may go without."""
    for method in public(node.body):
        if isinstance(method, ast.FunctionDef) and not ast.get_docstring(method):
            assert node.bases, f"{name_of(path)}: {node.name}.{method.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_print_outside_the_command_line(path: Path) -> None:
    if package_of(path) == "cli":
        return
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "print" not in calls


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_unfinished_marks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [mark for mark in ("TODO", "FIXME", "XXX") if mark in text]
