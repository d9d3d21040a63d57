"""What a run reads and writes, looked at before any work is done."""

from __future__ import annotations

import itertools
import tempfile
import zipfile
from pathlib import Path

import yaml
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from spatial_ssrl.cli.errors import UsageError, close_matches
from spatial_ssrl.core.errors import ConfigError


def check_configs(args: list[str]) -> None:
    """Refuse config files that are missing or are no YAML mapping.

    Raises:
        UsageError: Naming the file, and the line where YAML stops making sense.
    """
    for flag, value in itertools.zip_longest(args, args[1:]):
        name, equals, after = flag.partition("=")
        if name not in ("-c", "--config"):
            continue
        given = after if equals else value
        if not given or (not equals and given.startswith("-")):
            raise UsageError(f"{name} needs a file, such as {name} run.yaml.")
        path = Path(given)
        if not path.is_file():
            found = close_matches(path.name, (p.name for p in _siblings(path)))
            hint = f" Did you mean {path.parent / found[0]}?" if found else ""
            raise UsageError(f"{name}: there is no file {str(path)!r}.{hint}")
        _check_yaml(path)


def _siblings(path: Path) -> list[Path]:
    return list(path.parent.iterdir()) if path.parent.is_dir() else []


def _check_yaml(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file, so it cannot be a YAML config.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" (line {mark.line + 1})"
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UsageError(f"{path} is not valid YAML{line}: {problem}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold keys such as `model:`, got {type(content).__name__}.")


def check_checkpoint(path: object) -> None:
    """Refuse a `ckpt_path` that cannot be read; words such as "last" are the Trainer's.

    Raises:
        ConfigError: If the file is missing, or is no whole checkpoint.
    """
    is_remote = ":" in str(path)[2:]  # A drive letter is no protocol.
    if not isinstance(path, str | Path) or str(path) in ("last", "best", "hpc") or is_remote:
        return
    if not Path(path).exists():
        raise ConfigError(
            f"ckpt_path: there is no checkpoint {str(path)!r}; checkpoints end in .ckpt and lie "
            "under the folder of the run."
        )
    # A folder is a sharded checkpoint; a file is a zip archive whose index is written last.
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise ConfigError(
            f"ckpt_path: {str(path)!r} is not a checkpoint, or was cut off while it was written; "
            "take another one of the run."
        )


def check_output(trainer: Trainer) -> None:
    """Refuse folders that cannot be written.

    Raises:
        ConfigError: Naming the setting, the folder and the reason.
    """
    folders: list[tuple[str, object]] = [("trainer.default_root_dir", trainer.default_root_dir)]
    folders += [("trainer.logger.save_dir", logger.save_dir) for logger in trainer.loggers]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by its connector
        for name in ("dirpath", "directory"):
            key = f"trainer.callbacks ({type(callback).__name__}): {name}"
            folders.append((key, getattr(callback, name, None)))
    for key, folder in folders:
        if isinstance(folder, str | Path) and "://" not in str(folder):
            check_writable(key, Path(folder))


def check_writable(key: str, folder: Path) -> None:
    """Refuse a folder in which no file can be made; a missing one is not made by looking.

    Args:
        key: What to call the setting that names the folder.
        folder: The folder.

    Raises:
        ConfigError: Naming the setting, the folder and the reason.
    """
    parents = (folder, *folder.absolute().parents)
    nearest = next(path for path in parents if path.exists() or path.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(
            f"{key}: the folder {str(folder)!r} cannot be written ({error.strerror}); choose "
            "another one."
        ) from error


def check_unused(trainer: Trainer) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        ConfigError: If the folder of the run already holds a saved config.
    """
    folder = trainer.log_dir
    if folder is not None and Path(folder, "config.yaml").exists():
        raise ConfigError(
            f"trainer.default_root_dir: {folder!r} already holds a run; choose another folder, "
            "or go on with that run by --ckpt_path."
        )


def keep_logs(trainer: Trainer) -> None:
    """Put the CSV logs of the run that is gone on with out of the way of the new ones.

    Lightning deletes them otherwise; TensorBoard's are kept anyway.
    """
    for logger in trainer.loggers:
        path = Path(logger.log_dir or "", "metrics.csv")
        if isinstance(logger, CSVLogger) and path.exists():
            taken = (path.with_name(f"metrics.{number}.csv") for number in itertools.count(1))
            path.rename(next(former for former in taken if not former.exists()))


def newest_checkpoint(trainer: Trainer) -> Path | None:
    """Return the checkpoint written last in this run, or None."""
    folders = {
        Path(folder)
        for callback in trainer.checkpoint_callbacks
        if (folder := getattr(callback, "dirpath", None))
    }
    files = [file for folder in folders for file in folder.glob("*.ckpt")]
    return max(files, key=lambda file: file.stat().st_mtime, default=None)
