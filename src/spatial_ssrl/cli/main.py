"""The command `spatial-ssrl`: sends the first word to whoever answers it."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from spatial_ssrl import __version__
from spatial_ssrl.cli.errors import UsageError, did_you_mean, is_users, one_line
from spatial_ssrl.cli.words import spelled_out


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line.

    Args:
        help: What it does, in one line.
        example: A call that shows it.
        function: "module:function" of a typed function, or "" for a Trainer command.
        bare: Option that a first word without dashes stands for, or "".
        many: Whether `bare` takes all such words, wherever they stand.
        flags: Options that stand for true when they have no value.
    """

    help: str
    example: str
    function: str = ""
    bare: str = ""
    many: bool = False
    flags: tuple[str, ...] = ()


_COMMANDS = "spatial_ssrl.cli.commands"

COMMANDS = {
    "quickstart": Command(
        "make scenes, train a small policy on this CPU, measure it on held-out scenes",
        "spatial-ssrl quickstart",
        f"{_COMMANDS}.quickstart:quickstart",
    ),
    "preview": Command(
        "draw questions made from pictures on one sheet, to see what is trained on",
        "spatial-ssrl preview photos/ --out sheet.png",
        f"{_COMMANDS}.preview:preview",
        bare="--images",
    ),
    "audit": Command(
        "look for uneven answers, repetitions and shortcuts in questions",
        "spatial-ssrl audit photos/ --count 3000",
        f"{_COMMANDS}.audit:audit",
        bare="--images",
    ),
    "curate": Command(
        "make a set of questions on disk, of any size, with a record of how it was made",
        "spatial-ssrl curate photos/ --count 1000 --out sets/photos",
        f"{_COMMANDS}.curate:curate",
        bare="--images",
    ),
    "convert": Command(
        "write such a set in the shape that TRL, verl or LLaMA-Factory reads",
        "spatial-ssrl convert sets/photos --to sharegpt --out cold_start",
        f"{_COMMANDS}.convert:convert",
    ),
    "list": Command(
        "show the tasks, models, algorithms and other parts that a config can name",
        "spatial-ssrl list tasks",
        f"{_COMMANDS}.list:list_components",
        bare="--kind",
    ),
    "fit": Command(
        "train what a config file describes; any value can be overridden",
        "spatial-ssrl fit -c run.yaml --trainer.max_steps 100",
    ),
    "plan": Command(
        "predict the memory a config needs, and what is the largest that fits a card",
        "spatial-ssrl plan -c run.yaml --gpu 24GB",
        "spatial_ssrl.cli.plan:run",
    ),
    "validate": Command(
        "measure a checkpoint on held-out questions",
        "spatial-ssrl validate -c run.yaml --ckpt_path last.ckpt",
    ),
    "test": Command(
        "the same on the test questions",
        "spatial-ssrl test -c run.yaml --ckpt_path last.ckpt",
    ),
    "predict": Command(
        "let a checkpoint answer questions",
        "spatial-ssrl predict -c run.yaml --ckpt_path last.ckpt",
    ),
    "export": Command(
        "write a trained policy as a folder that plain transformers and peft load",
        "spatial-ssrl export --run runs/qwen3 --merge --out exports/qwen3",
        f"{_COMMANDS}.export:export",
        bare="--run",
        flags=("--merge", "--adapter"),
    ),
    "chat": Command(
        "ask a checkpoint about pictures, with the prompt of training",
        "spatial-ssrl chat --model exports/qwen3 photo.jpg",
        f"{_COMMANDS}.chat:chat",
        bare="--images",
        many=True,
    ),
}


def main(args: list[str] | None = None) -> int:
    """Run one command line.

    Args:
        args: Words after `spatial-ssrl`; those of the process when None.

    Returns:
        The exit code: 0, 2 for a mistake of the user (told in one line), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    # By default OpenMP threads spin for milliseconds while they wait, which on a machine where
    # anything else runs keeps the core from those they wait for. Measured on two cores, one
    # training step of the quick-start: 0.2 s alone, 10 s beside a busy program; with a short
    # spin 0.2 s and 0.4 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"spatial-ssrl {__version__}")
        return 0
    try:
        return _run(words, own_process=args is None)
    except KeyboardInterrupt as stop:
        # Where Ctrl-C falls into code that is made while the program runs, as that of dataclasses
        # is, CPython notes an interrupt nobody caught, and in the end dies of the signal whatever
        # the exit code; the next code made clears the note (run_eval_code_obj in pythonrun.c).
        exec("")
        print(f"\n{str(stop) or 'Stopped.'}", file=sys.stderr)
        return 130
    except Exception as error:  # What is no fault of the user goes on as it came.
        if debug or not is_users(error):
            raise
        print(f"spatial-ssrl: error: {one_line(error)}", file=sys.stderr)
        return 2


def help_text() -> str:
    """Return the page shown without arguments: each command, what it does, one example."""
    lines = [
        "spatial-ssrl: teach a vision-language model spatial understanding from plain pictures.",
        "",
        "usage: spatial-ssrl COMMAND [options]",
    ]
    for name, command in COMMANDS.items():
        if name == "quickstart":
            lines += ["", "Start here:"]
        elif name == "fit":
            lines += ["", "Train and measure, from a config file:"]
        elif name == "export":
            lines += ["", "Use what was trained:"]
        lines += [f"  {name:<12}{command.help}", f"              $ {command.example}"]
    return "\n".join(
        [
            *lines,
            "",
            "  COMMAND --help   all options of one command",
            "  --debug          show the whole trace of an error",
            "  --version        print the version",
        ]
    )


def _run(words: list[str], own_process: bool) -> int:
    name, *rest = words
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, COMMANDS) or f" Choose from {', '.join(COMMANDS)}."
        raise UsageError(f"{name!r} is not a command.{hint}")
    _quieten()
    path, _, attribute = command.function.partition(":")
    with _uncollected(own_process):
        module = importlib.import_module(path or "spatial_ssrl.cli.fit")
    try:
        if name == "plan":  # Its options are those of `fit`, and some of its own.
            with _uncompiled():
                module.run(rest)
        elif path:
            options = spelled_out(rest, command.bare, command.many, command.flags)
            _call(name, getattr(module, attribute), options)
        else:
            module.run(words)
    except SystemExit as stop:  # `--help` and `--print_config` leave this way.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


@contextmanager
def _uncollected(own_process: bool) -> Iterator[None]:
    """Import without looking for garbage, which imports hardly make: that took a third of them.

    Args:
        own_process: Whether all that was imported stays to the end, so that no later search for
            garbage need look at it either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if own_process:
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let nothing prepare to compile: bitsandbytes does as it is imported, and takes a second."""
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCHDYNAMO_DISABLE"]
        else:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def _call(name: str, function: Callable[..., object], args: list[str]) -> None:
    """Call a typed function with arguments parsed by its own signature."""
    from jsonargparse import auto_cli

    from spatial_ssrl.cli.parser import Hinting

    auto_cli(
        function,
        args=args,
        prog=f"spatial-ssrl {name}",
        parser_class=Hinting,
        parser_mode="omegaconf+",  # Data files read environment variables, as in `fit`.
    )


def _quieten() -> None:
    """Drop messages of other libraries that tell a reader nothing about their run."""
    # bitsandbytes looks for an optional kernel on import, and says so.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    lightning.addFilter(_says_something)
    # Lightning 2.6 uses a name that torch 2.11 and later deprecate.
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")


def _says_something(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is more than an advertisement or an absent device."""
    text = record.getMessage()
    return not ("Tip:" in text or text.startswith(("TPU available: False", "HPU available: False")))
