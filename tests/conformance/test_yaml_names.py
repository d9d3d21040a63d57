"""Every registered class can be named in YAML by its bare class name, and is then built."""

from __future__ import annotations

from typing import Any

import pytest
from jsonargparse import ArgumentParser

from spatial_ssrl.components import FAMILIES, import_everything
from spatial_ssrl.core.registry import Entry, Registry

# Arguments without a default, for the classes that have any.
NEEDED: dict[str, dict[str, Any]] = {
    "CachedScenes": {"source": "SyntheticScenes", "folder": "cache"},
    "CocoImages": {"folder": "val2017", "annotations": "captions_val2017.json"},
    "ConcatSources": {"sources": ["SyntheticScenes"]},
    "HFVisionLanguagePolicy": {"model": "someone/a-model"},
    "HubImages": {"dataset": "someone/a-set"},
    "ImageFolder": {"folder": "photos"},
    **{
        name: {"folder": "frames"}
        for name in (
            "DIODE",
            "Hypersim",
            "KITTIDepth",
            "MegaDepth",
            "NYUv2Labelled",
            "NYUv2Pairs",
            "NYUv2Raw",
            "PFMDisparity",
            "SUNRGBD",
            "ScanNet",
            "TUMRGBD",
        )
    },
    "RGBDPairs": {"folder": "p", "image_pattern": "{n}.jpg", "depth_pattern": "{n}.png"},
}

import_everything()
CASES = [
    pytest.param(registry, entry, id=f"{family.word}-{entry.key}")
    for family in FAMILIES
    for registry in [family.load()]
    for entry in registry.entries()
]


@pytest.mark.parametrize(("registry", "entry"), CASES)
def test_bare_class_name(
    registry: Registry[Any],
    entry: Entry[Any],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=registry.base)
    name = entry.cls.__name__
    config = parser.parse_object({"part": {"class_path": name, "init_args": NEEDED.get(name, {})}})
    assert config.part.class_path == entry.class_path
    part = parser.instantiate_classes(config).part
    assert type(part) is entry.cls
    assert registry.key_of(part) == entry.key


@pytest.mark.parametrize(("registry", "entry"), CASES)
def test_public_path_is_package_and_class(registry: Registry[Any], entry: Entry[Any]) -> None:
    package = registry.base.__module__.rpartition(".")[0]
    assert entry.class_path == f"{package}.{entry.cls.__name__}"
