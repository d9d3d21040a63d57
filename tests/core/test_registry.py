"""The registry names classes, refuses what YAML could not name, and loads plug-ins late."""

from __future__ import annotations

import importlib
import sys
import textwrap
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from spatial_ssrl.core import plugins
from spatial_ssrl.core.errors import RegistryError
from spatial_ssrl.core.registry import Registry


class Animal(ABC):
    @abstractmethod
    def sound(self) -> str: ...


class Cat(Animal):
    """A cat.

    More words.
    """

    def sound(self) -> str:
        return "miaow"


class Dog(Animal):
    def sound(self) -> str:
        return "woof"


class _Fox(Animal):
    def sound(self) -> str:
        return "?"


@pytest.fixture
def animals() -> Registry[Animal]:
    registry: Registry[Animal] = Registry(Animal, "animal")
    registry.register("house_cat")(Cat)
    return registry


@pytest.fixture
def fresh_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plug-ins be found anew, and forget them afterwards."""
    monkeypatch.setattr(plugins, "_loaded", False)
    monkeypatch.setattr(plugins, "_failures", {})


def test_get_takes_the_key_or_the_class_name(animals: Registry[Animal]) -> None:
    assert animals.get("house_cat") is Cat
    assert animals.get("Cat") is Cat
    assert "house_cat" in animals
    assert "Cat" in animals
    assert "cat" not in animals
    assert 3 not in animals


def test_unknown_name_lists_close_matches_and_keys(animals: Registry[Animal]) -> None:
    with pytest.raises(RegistryError) as caught:
        animals.get("HOUSE_CATT")
    assert str(caught.value) == (
        "Unknown animal 'HOUSE_CATT'. Did you mean house_cat? Known: house_cat."
    )
    assert isinstance(caught.value, LookupError)


def test_unknown_name_without_anything_close(animals: Registry[Animal]) -> None:
    with pytest.raises(RegistryError, match=r"^Unknown animal 'zebra'\. Known: house_cat\.$"):
        animals.get("zebra")


def test_suggest_finds_class_names_in_any_case(animals: Registry[Animal]) -> None:
    animals.register("dog")(Dog)
    assert animals.suggest("CATT") == ["Cat"]
    assert animals.suggest("xyzzy") == []


def test_entries_are_sorted_and_describe_the_class(animals: Registry[Animal]) -> None:
    animals.register("dog")(Dog)
    assert [entry.key for entry in animals.entries()] == ["dog", "house_cat"]
    assert list(animals) == ["dog", "house_cat"]
    assert len(animals) == 2
    cat = animals.entries()[1]
    assert cat.summary == "A cat."
    path, line = cat.source
    assert path == Path(__file__)
    assert Path(__file__).read_text().splitlines()[line - 1] == "class Cat(Animal):"
    assert animals.entries()[0].summary == ""


def test_key_of_class_instance_and_descendant(animals: Registry[Animal]) -> None:
    class Kitten(Cat):
        pass

    assert animals.key_of(Cat) == "house_cat"
    assert animals.key_of(Cat()) == "house_cat"
    assert animals.key_of(Kitten()) == "house_cat"
    with pytest.raises(RegistryError, match="Dog is not a registered animal"):
        animals.key_of(Dog)


@pytest.mark.parametrize("key", ["", "Cat", "house-cat", "_cat", "cat_", "house__cat", "2cats"])
def test_keys_must_be_lower_snake(animals: Registry[Animal], key: str) -> None:
    with pytest.raises(RegistryError, match="must be lower_snake"):
        animals.register(key)


def test_a_taken_key_names_its_holder(animals: Registry[Animal]) -> None:
    with pytest.raises(
        RegistryError, match=r"'house_cat' \(.*Dog\) clashes .*'house_cat' \(.*Cat\)"
    ):
        animals.register("house_cat")(Dog)
    assert animals.get("house_cat") is Cat


def test_a_taken_class_name_clashes_under_another_key(animals: Registry[Animal]) -> None:
    other = type("Cat", (Animal,), {"sound": lambda self: "", "__module__": "elsewhere"})
    with pytest.raises(RegistryError, match="choose another key and class name"):
        animals.register("wild_cat")(other)


def test_one_class_has_one_key(animals: Registry[Animal]) -> None:
    with pytest.raises(RegistryError, match="clashes"):
        animals.register("tom_cat")(Cat)


def test_defining_the_same_class_again_replaces_it(animals: Registry[Animal]) -> None:
    again = type("Cat", (Animal,), {"sound": lambda self: "purr", "__module__": Cat.__module__})
    animals.register("house_cat")(again)
    assert animals.get("Cat") is again
    assert len(animals) == 1


def test_refuses_strangers_abstract_private_and_local_classes(animals: Registry[Animal]) -> None:
    class Local(Animal):
        def sound(self) -> str:
            return ""

    class Half(Animal):
        pass

    with pytest.raises(RegistryError, match="must subclass Animal"):
        animals.register("text")(str)
    with pytest.raises(RegistryError, match="is abstract; implement sound"):
        animals.register("half")(Half)
    with pytest.raises(RegistryError, match="is private"):
        animals.register("fox")(_Fox)
    with pytest.raises(RegistryError, match="inside a function"):
        animals.register("local")(Local)
    assert list(animals) == ["house_cat"]


def write_plugin(folder: Path, name: str, source: str) -> None:
    """Lay out what `pip install` of a plug-in leaves behind."""
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    info = folder / f"{name.replace('_', '-')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")


@pytest.mark.usefixtures("fresh_plugins")
def test_a_plugin_is_found_on_the_first_look_up(
    animals: Registry[Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(
        tmp_path,
        "zoo_plugin",
        """
        import zoo_shelf

        @zoo_shelf.animals.register("lion")
        class Lion(zoo_shelf.Animal):
            "A lion."
            def sound(self):
                return "roar"
        """,
    )
    shelf = type(sys)("zoo_shelf")
    shelf.animals, shelf.Animal = animals, Animal
    monkeypatch.setitem(sys.modules, "zoo_shelf", shelf)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_plugin", raising=False)
    assert animals.get("lion")().sound() == "roar"
    lion = animals.entries()[1]
    assert (lion.origin, lion.is_plugin) == ("zoo-plugin", True)
    assert lion.class_path == "zoo_plugin.Lion"
    monkeypatch.delitem(sys.modules, "zoo_plugin")


@pytest.mark.usefixtures("fresh_plugins")
def test_a_broken_plugin_is_reported_and_stops_nothing(
    animals: Registry[Animal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_plugin(tmp_path, "sick_plugin", "raise OSError('no licence file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert animals.get("house_cat") is Cat
    assert plugins.failures() == {"sick_plugin": "OSError: no licence file"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(RegistryError, match=r"Plug-in 'sick_plugin' failed to load: OSError: no l"):
        animals.get("lion")


@pytest.mark.usefixtures("fresh_plugins")
def test_plugins_can_be_turned_off(
    animals: Registry[Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, "sick_plugin", "raise OSError('no licence file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPATIAL_SSRL_PLUGINS", "0")
    assert animals.get("house_cat") is Cat
    assert plugins.failures() == {}


def test_class_path_is_the_shortest_public_one() -> None:
    tasks = importlib.import_module("spatial_ssrl.tasks")
    entry = next(entry for entry in tasks.TASKS.entries() if entry.key == "flipped_patch")
    assert entry.class_path == "spatial_ssrl.tasks.FlippedPatch"
    assert (entry.origin, entry.is_plugin) == ("spatial_ssrl", False)
