"""`spatial-ssrl fit`, `validate`, `test` and `predict`: LightningCLI over our components."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningDataModule, LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from spatial_ssrl import __version__
from spatial_ssrl.cli.errors import UsageError, one_line
from spatial_ssrl.cli.files import (
    check_checkpoint,
    check_configs,
    check_output,
    check_unused,
    keep_logs,
    newest_checkpoint,
)
from spatial_ssrl.cli.main import COMMANDS
from spatial_ssrl.cli.parser import Hinting
from spatial_ssrl.components import import_everything
from spatial_ssrl.core.errors import OutOfMemory, SpatialSSRLError, ran_out_of_memory
from spatial_ssrl.training.callbacks.question_records import write_records
from spatial_ssrl.training.distributed import gather

T = TypeVar("T")

# What a constructor raises on a bad value; anything else is a bug and keeps its trace.
_BAD_VALUE = (SpatialSSRLError, MisconfigurationException, ValueError, TypeError, OSError)


class HintingParser(Hinting, LightningArgumentParser):
    """Lightning's parser with errors of one line."""


class SpatialCLI(LightningCLI):
    """LightningCLI with every component importable by its bare class name and short errors."""

    def __init__(self, args: list[str] | None, run: bool = True) -> None:
        import_everything()
        # Lightning 2.6.6 calls what jsonargparse 4.49 deprecated; nothing a user could mend.
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        # Without it, absolute references inside files break under subcommands.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        self._failed: tuple[type, Exception] | None = None
        main_kwargs: dict[str, Any] = {
            "parser_mode": "omegaconf+",
            "prog": "spatial-ssrl",
            "version": __version__,
        }
        subcommands = {
            name: {"description": f"{command.help.capitalize()}. Example: {command.example}"}
            for name, command in COMMANDS.items()
            if name in self.subcommands()
        }
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # Weights exist only after `configure_model`.
            load_from_checkpoint_support=False,  # The saved config is the record of a run.
            parser_class=HintingParser,
            parser_kwargs={**main_kwargs, **(subcommands if run else {})},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": False},
            args=args,
            run=run,
        )

    def _parse_ckpt_path(self) -> None:
        """Leave the config as the user gave it.

        Lightning would read the whole checkpoint here for hyper-parameters that ours never hold,
        and prefer those of another program's to the command line.
        """

    def before_instantiate_classes(self) -> None:
        """Remember which constructor fails, and look at the checkpoint the run starts from."""
        self.parser.add_instantiator(self._build, object, subclasses=True)
        if self.subcommand is None:
            return
        if self.subcommand != "fit":  # The config beside a checkpoint says how it was trained.
            self.save_config_callback = None
        checkpoint = self._get(self.config, "ckpt_path")
        check_checkpoint(checkpoint)
        if checkpoint:  # A resumed run may write its config over that of the run it continues.
            self.save_config_kwargs["overwrite"] = True

    def instantiate_classes(self) -> None:
        """Build everything the config names.

        Raises:
            UsageError: If a constructor refuses a value; says which part of the config it is.
        """
        try:
            super().instantiate_classes()
        except Exception as error:  # jsonargparse wraps whatever a constructor raises.
            if self._failed is None or not isinstance(self._failed[1], _BAD_VALUE):
                raise
            cls, cause = self._failed
            raise UsageError(f"{self._where(cls)}: {one_line(cause)}") from error

    def after_instantiate_classes(self) -> None:
        """Refuse to start where results cannot be written."""
        if self.subcommand is not None:
            check_output(self.trainer)
        if self.subcommand != "fit":
            return
        if not self.save_config_kwargs["overwrite"]:
            check_unused(self.trainer)
        elif self.trainer.is_global_zero:
            keep_logs(self.trainer)

    def fit(self, **kwargs: Any) -> None:
        """Train; LightningCLI calls this in place of the Trainer's method of the same name.

        Raises:
            KeyboardInterrupt: After Ctrl-C; its text says how to go on.
        """
        handler = signal.getsignal(signal.SIGINT)
        try:
            self.trainer.fit(**kwargs)
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            raise KeyboardInterrupt(self._how_to_resume()) from None
        finally:
            signal.signal(signal.SIGINT, handler)  # The Trainer stops listening as it shuts down.

    def predict(self, **kwargs: Any) -> None:
        """Answer the test questions and write the answers, one JSON line each."""
        batches = self.trainer.predict(**kwargs) or []
        parts = gather(list(itertools.chain.from_iterable(batches)), "collecting predictions")
        if not self.trainer.is_global_zero:
            return
        path = Path(self.trainer.default_root_dir, "predictions.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, itertools.chain.from_iterable(parts))
        print(path)

    def _how_to_resume(self) -> str:
        newest = newest_checkpoint(self.trainer)
        if newest is None:
            return "Stopped. No checkpoint had been written yet, so there is nothing to resume."
        return f"Stopped. To go on, repeat the command with --ckpt_path {shlex.quote(str(newest))}"

    def _build(self, cls: type[T], *args: Any, **kwargs: Any) -> T:
        kwargs.pop("applied_instantiation_links", None)
        try:
            return cls(*args, **kwargs)
        except Exception as error:  # Noted only: it goes on as it came.
            if self._failed is None:
                self._failed = (cls, error)
            raise

    def _where(self, cls: type) -> str:
        config = self.config if self.subcommand is None else self.config[self.subcommand]
        keys = [key for key, name in _class_paths(config) if name == cls.__name__]
        return f"{keys[0]} ({cls.__name__})" if keys else cls.__name__


C = TypeVar("C", bound=SpatialCLI)


def _class_paths(config: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key of each component in a config and its class name."""
    if isinstance(config, list):
        for index, item in enumerate(config):
            yield from _class_paths(item, f"{prefix}[{index}]")
    if not isinstance(config, Namespace):
        return
    values = vars(config)
    if isinstance(path := values.get("class_path"), str):
        yield prefix, path.rpartition(".")[2]
        init_args = values.get("init_args")
        values = vars(init_args) if isinstance(init_args, Namespace) else {}
    for name, value in values.items():
        yield from _class_paths(value, f"{prefix}.{name}" if prefix else name)


def run(args: list[str]) -> SpatialCLI:
    """Run one Trainer command.

    Args:
        args: The command and its options, such as `["fit", "-c", "run.yaml"]`.

    Returns:
        The CLI with the trainer, the model and the data module it built.

    Raises:
        SpatialSSRLError: If an argument, a file or a value is at fault; one line.
        KeyboardInterrupt: After Ctrl-C; its text says how to go on.
    """
    return _build(args, run=True)


def build_data(args: list[str]) -> LightningDataModule:
    """Build the data module of a run without training anything.

    Args:
        args: Options of a Trainer command, without the command.
    """
    data: LightningDataModule = _build(args, run=False).datamodule
    return data


def build(args: list[str], cls: type[C]) -> C:
    """Build what a run is made of, without running it.

    Args:
        args: Options of a Trainer command, without the command.
        cls: Builds it.
    """
    return _build(args, False, cls)


def _build(args: list[str], run: bool, cls: type[C] = SpatialCLI) -> C:  # type: ignore[assignment]
    check_configs(args)
    # Where the Trainer looks for the command of the further processes that it starts.
    argv, sys.argv = sys.argv, [sys.argv[0], *args]
    try:
        return cls(None, run=run)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise OutOfMemory(error, "Outside of a training step") from error
    finally:
        sys.argv = argv
