"""What a run left behind: the config it was trained with, and the weights it learned."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors import SafetensorError

from spatial_ssrl.components import import_everything
from spatial_ssrl.core.errors import ConfigError, ran_out_of_memory
from spatial_ssrl.policies import HFVisionLanguagePolicy, PolicyBackbone, QuantSettings

ADAPTER, MODEL = "adapter_config.json", "config.json"


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk.

    Args:
        folder: Folder of the run, its `trainer.default_root_dir`.
        config: The config saved with it, every value resolved.
        weights: Folder a policy was saved to, or a Lightning checkpoint.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Path

    @property
    def has_adapter_folder(self) -> bool:
        """Whether `weights` is a folder with a PEFT adapter."""
        return (self.weights / ADAPTER).is_file()

    @property
    def is_checkpoint(self) -> bool:
        """Whether `weights` is a Lightning checkpoint."""
        return self.weights.is_file()

    @property
    def policy_settings(self) -> dict[str, Any]:
        """The policy of the config, as class path and arguments."""
        settings: dict[str, Any] = self.config["model"]["init_args"]["policy"]
        return settings

    def newer_checkpoint(self) -> Path | None:
        """Return a checkpoint written after `weights`, which a stopped run leaves; or None."""
        newest = _newest_checkpoint(self.folder)
        if newest is None or self.is_checkpoint:
            return None
        saved = max(file.stat().st_mtime for file in self.weights.iterdir())
        # A run that ends saves both at about the same time, in either order.
        return newest if newest.stat().st_mtime > saved + 60 else None


def open_run(folder: Path, checkpoint: Path | None = None) -> Run:
    """Find the config and the weights of a run.

    Args:
        folder: Folder of the run.
        checkpoint: Lightning checkpoint to take; None takes the policy saved last, or the newest
            checkpoint where none was saved.

    Raises:
        ConfigError: If the folder holds no run, several, or one without weights; or if the
            checkpoint is missing or was cut off.
    """
    if not folder.is_dir():
        raise ConfigError(f"run: there is no folder {str(folder)!r}.")
    config = _config(folder)
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise ConfigError(f"checkpoint: there is no file {str(checkpoint)!r}.")
        return Run(folder, config, checkpoint)
    weights = _saved_policy(folder, config) or _newest_checkpoint(folder)
    if weights is None:
        raise ConfigError(
            f"run: {str(folder)!r} holds neither a saved policy (AdapterCheckpoint writes one) nor "
            "a checkpoint; it was stopped before the first was written."
        )
    return Run(folder, config, weights)


def is_run(folder: Path) -> bool:
    """Whether a folder holds the config of a run rather than a model."""
    if not folder.is_dir() or (folder / MODEL).is_file() or (folder / ADAPTER).is_file():
        return False
    return bool(_config_files(folder))


def unloaded_policy(run: Run) -> HFVisionLanguagePolicy:
    """Build the policy that the config of a run names, as it was built for training.

    Raises:
        ConfigError: If the config does not name one, or one of another kind.
    """
    import_everything()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--policy", type=PolicyBackbone)
    try:
        parsed = parser.parse_object({"policy": run.policy_settings})
        policy = parser.instantiate(parsed).policy
    except Exception as error:  # jsonargparse wraps whatever a constructor raises.
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"run: the policy of the config in {str(run.folder)!r} cannot be built: {reason}"
        ) from error
    if not isinstance(policy, HFVisionLanguagePolicy):
        raise ConfigError(
            f"run: {type(policy).__name__} is no transformers model, which is what is exported."
        )
    return policy


def trained_policy(
    run: Run,
    base: str | None = None,
    full_precision: bool = True,
    quantization: QuantSettings | None = None,
) -> HFVisionLanguagePolicy:
    """Return the policy with the weights it learned, loaded.

    Args:
        run: The run.
        base: Hub id or folder of the base model, where it is no longer where training found it.
        full_precision: Load the base as it was saved, even if it was trained in 4 bits.
        quantization: Load the base in 4 bits, even if it was trained otherwise.

    Raises:
        ConfigError: If the base model cannot be had, the weights do not fit it, or they are every
            weight in a checkpoint, which cannot be put into 4 bits.
    """
    policy = unloaded_policy(run)
    policy.gradient_checkpointing = False
    if base is not None:
        policy.source, policy.revision = base, None
    adapted = policy.lora is not None or policy.adapter is not None
    if full_precision:
        policy.quantization = None
        policy.dtype = "auto" if adapted else policy.dtype
    if quantization is not None:
        if run.is_checkpoint and not adapted:
            raise ConfigError(
                f"quantization: the checkpoint {str(run.weights)!r} holds every weight, which "
                "cannot be put into 4-bit ones; export the run with --merge and name that folder."
            )
        policy.quantization = quantization
    if run.has_adapter_folder:
        policy.lora, policy.adapter = None, run.weights
    elif not run.is_checkpoint:
        policy.source, policy.revision = str(run.weights), None
        policy.lora, policy.adapter = None, None
    try:
        policy.load()
    except SafetensorError as error:
        raise ConfigError(
            f"run: a file of weights is broken or was cut off ({error}); look at "
            f"{str(run.weights)!r}, or take a checkpoint with --checkpoint."
        ) from error
    if run.is_checkpoint:
        policy.load_trainable_state(_trainable_state(run.weights))
    policy.requires_grad_(False)
    return policy


def _config(folder: Path) -> Mapping[str, Any]:
    """Return the newest config saved under a folder."""
    files = _config_files(folder)
    if not files:
        raise ConfigError(
            f"run: {str(folder)!r} holds no config.yaml of a run; name the folder that `fit` wrote "
            "to (trainer.default_root_dir)."
        )
    contents = {file: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    runs = {str(content["trainer"].get("default_root_dir")) for content in contents.values()}
    if len(runs) > 1:
        raise ConfigError(
            f"run: {str(folder)!r} holds {len(runs)} runs ({', '.join(sorted(runs))}); name one."
        )
    newest = max(files, key=lambda file: file.stat().st_mtime)
    config: Mapping[str, Any] = contents[newest]
    return config


def _config_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("config.yaml")) if _is_config(file)]


def _is_config(file: Path) -> bool:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return isinstance(content["trainer"], dict) and "policy" in content["model"]["init_args"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False


def _saved_policy(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the folder `AdapterCheckpoint` saved to, wherever the run has been moved."""
    named = [
        callback["init_args"]["directory"]
        for callback in config["trainer"].get("callbacks") or ()
        if callback["class_path"].endswith("AdapterCheckpoint")
    ]
    candidates = [*(Path(name) for name in named if name), folder / "policy"]
    for candidate in candidates:
        if (candidate / ADAPTER).is_file() or (candidate / MODEL).is_file():
            return candidate
    return None


def _newest_checkpoint(folder: Path) -> Path | None:
    files = [file for file in folder.rglob("*.ckpt") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_mtime, default=None)


def _trainable_state(path: Path) -> dict[str, torch.Tensor]:
    """Return what training changed, from a Lightning checkpoint."""
    fault = "is not a checkpoint, or was cut off while it was written"
    try:
        if zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
            state: dict[str, torch.Tensor] = content["policy"]
            return state
    except KeyError:
        fault = "is a checkpoint of another program"
    # Broken files fail in as many ways as they are broken.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        fault = f"cannot be read ({' '.join(str(error).split())[:120]})"
    raise ConfigError(f"checkpoint: {str(path)!r} {fault}; take another one of the run.")
