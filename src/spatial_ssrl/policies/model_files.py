"""What a saved model or adapter lacks, said before anything is loaded from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from spatial_ssrl.core.errors import ConfigError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
_INDEX = "model.safetensors.index.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_POINTER = b"version https://git-lfs"


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds the configuration of a model; its weights may be elsewhere.

    Raises:
        ConfigError: If it does not; says so if it is that of an adapter.
    """
    if (folder / CONFIG).is_file():
        read_json("model", folder / CONFIG)
    elif (folder / ADAPTER).is_file():
        base = read_json("model", folder / ADAPTER).get("base_model_name_or_path")
        raise ConfigError(
            f"model: folder {str(folder)!r} holds an adapter, not a model; give it as `adapter`, "
            f"and as `model` what it was trained on{f', {base!r}' if base else ''}."
        )
    else:
        raise ConfigError(
            f"model: folder {str(folder)!r} holds no {CONFIG}; name a folder written by "
            "save_pretrained (an adapter alone goes into `adapter`)."
        )


def check_weight_files(folder: Path) -> None:
    """Check that the weights of a folder are all there and whole, by their headers.

    Raises:
        ConfigError: If a shard is missing, or a file is cut off or damaged.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if (folder / _INDEX).is_file():
        shards = set(read_json("model", folder / _INDEX).get("weight_map", {}).values())
        if missing := sorted(shards - {file.name for file in files}):
            raise ConfigError(
                f"model: {len(missing)} of {len(shards)} files with weights are missing from "
                f"{str(folder)!r}, the first is {missing[0]}; copy or download them again."
            )
    for file in files:
        check_safetensors("model", file)


def check_adapter_folder(folder: Path) -> None:
    """Check that a folder holds a whole adapter.

    Raises:
        ConfigError: If it does not; says so if it is a model.
    """
    if not (folder / ADAPTER).is_file():
        if (folder / CONFIG).is_file():
            raise ConfigError(
                f"adapter: folder {str(folder)!r} holds a whole model, not an adapter; give it as "
                "`model` and leave `adapter` out."
            )
        raise ConfigError(
            f"adapter: {folder} holds no {ADAPTER}; name a folder on this machine that a policy "
            "was saved to."
        )
    read_json("adapter", folder / ADAPTER)
    weights = [folder / name for name in _ADAPTER_WEIGHTS if (folder / name).is_file()]
    if not weights:
        raise ConfigError(
            f"adapter: {folder} holds no weights (looked for {' and '.join(_ADAPTER_WEIGHTS)}); "
            "copy the whole folder."
        )
    if weights[0].suffix == ".safetensors":
        check_safetensors("adapter", weights[0])


def check_loaded(model: str, info: Mapping[str, Any]) -> None:
    """Check that a loaded model got all its weights from its files.

    Transformers draws what is missing at random, and says so in a log.

    Args:
        model: Name of the model.
        info: Of `from_pretrained(..., output_loading_info=True)`.

    Raises:
        ConfigError: If tensors are missing or have another shape.
    """
    for fault, key in (("lack", "missing_keys"), ("have in another shape", "mismatched_keys")):
        found = info.get(key) or ()
        names = sorted(name[0] if isinstance(name, tuple) else name for name in found)
        if names:
            raise ConfigError(
                f"model: the weights of {model!r} {fault} {len(names)} tensors that its {CONFIG} "
                f"asks for, the first is {names[0]}; they belong to another model or were saved "
                "in part, so take the folder or revision anew."
            )


def check_safetensors(field: str, file: Path) -> None:
    """Check that a file of weights can be read.

    Args:
        field: Setting that named it.
        file: A safetensors file.

    Raises:
        ConfigError: If it is damaged, cut off, or only stands for the real one.
    """
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise ConfigError(
                f"{field}: {file} is a Git LFS pointer, not the weights; fetch them with "
                "`git lfs pull`."
            )
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{field}: {file} is damaged or was cut off ({error}); copy or download it again."
        ) from error


def read_json(field: str, file: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Args:
        field: Setting that named it.
        file: The file, which must hold an object.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{field}: {file} cannot be read as JSON ({error}); copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{field}: {file} must hold settings by name; download it again.")
    return content
