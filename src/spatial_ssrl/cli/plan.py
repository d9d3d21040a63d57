"""`spatial-ssrl plan`: the memory a run needs, and how large it may be on a card."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from rich.console import Console

from spatial_ssrl.cli.errors import UsageError
from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.fit import SpatialCLI, build
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.logs import loggers_at
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.planning import limits
from spatial_ssrl.planning.fitting import Fit, fitted
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.report import changes_table, effect_of, report, said
from spatial_ssrl.planning.sizes import MARGIN, Card, memory_size, share
from spatial_ssrl.training import PolicyModule

_HELP = """usage: spatial-ssrl plan -c CONFIG [--gpu SIZE] [--margin SHARE] [--write FILE]
                         [options of fit]

Predict the peak memory of a run by part, before anything is downloaded or allocated: needs no
GPU, no network and no weights. With a card, also the largest group, completion, picture and
micro-batch that fit it.

  -c, --config FILE  config of the run, as for fit; any value can be overridden
  --gpu SIZE         memory of the card, such as 24GB or 16GiB; "cpu" predicts for a CPU
  --margin SHARE     share of the card that is left free, for the verdict, the largest values and
                     --write alike; 0.05 by default, since a display and the driver take part of
                     it and what a card needs besides tensors is assumed
  --write FILE       write a config that fits the card, for `spatial-ssrl fit -c FILE`; what
                     changes no result is lowered first
  -h, --help         show this
"""

_IN_PROCESS = "spatial_ssrl.rollout.InProcess"


class PlanCLI(SpatialCLI):
    """Builds what a config names on a machine that may be unlike the one it is for."""

    processes = 1

    def before_instantiate_classes(self) -> None:
        """Ask for no device, and remember how many processes the run will have."""
        super().before_instantiate_classes()
        self.asked = self.config.clone()
        trainer = self.config.trainer
        self.processes = _processes(trainer)
        for name, value in (
            ("accelerator", "cpu"),
            ("devices", 1),
            ("num_nodes", 1),
            ("strategy", "auto"),
            ("precision", None),
            ("callbacks", None),
            ("logger", False),
        ):
            trainer[name] = value


def run(words: list[str]) -> None:
    """Run `plan`.

    Args:
        words: The options after the word.

    Raises:
        SpatialSSRLError: If an argument, a file or a value is at fault; one line.
    """
    rest, own = _own_options(words, ("--gpu", "--margin", "--write"))
    if "-h" in rest or "--help" in rest:
        print(_HELP, end="")
        return
    if not any(word.partition("=")[0] in ("-c", "--config") for word in rest):
        raise UsageError("plan needs the config of a run, such as plan -c run.yaml.")
    gpu, target = own.get("--gpu"), own.get("--write")
    on_cpu = gpu is not None and gpu.lower() == "cpu"
    card = None
    if gpu is not None and not on_cpu:
        card = Card(memory_size(gpu), share(own["--margin"]) if "--margin" in own else MARGIN)
    if card is None and (option := next((o for o in ("--write", "--margin") if o in own), None)):
        raise UsageError(f"{option} needs a card, such as --gpu 24GB.")
    if target is not None:
        check_writable("--write", Path(target).parent)
    with (
        # Devices and seeds are no concern here.
        loggers_at(logging.WARNING, "lightning.pytorch", "lightning.fabric"),
        warnings.catch_warnings(),
    ):
        cli = build(rest, PlanCLI)
        warnings.simplefilter("ignore")  # What other libraries say of training is for training.
        planner = _planner(cli, cuda=not on_cpu)
        prediction = planner.predict()
        found = [] if card is None else limits.limits(planner, card.usable)
        Console().print(report(planner, prediction, card, found))
        if target is None or card is None:
            return
        fit = fitted(planner, card.usable)
        _write(Path(target), cli, fit, card)
        if fit.changes:
            Console().print(changes_table(fit))
        how = "changed as above" if fit.changes else "as it was"
        print(f"{target}: {how}; needs {fit.needed / 2**30:.2f} GiB")


def _planner(cli: PlanCLI, cuda: bool) -> Planner:
    if not isinstance(cli.model, PolicyModule) or not isinstance(cli.datamodule, PretextDataModule):
        raise ConfigError("plan reads runs of RLModule or SFTModule on a PretextDataModule.")
    assert isinstance(cli.trainer, Trainer)
    planner = Planner(cli.model, cli.datamodule, cli.processes, cuda, two_processes=True)
    precision = str(cli.asked.trainer.precision)
    if "mixed" in precision:
        planner.assumed += (f"precision: {precision} is counted without its conversions",)
    return planner


def _processes(trainer: Namespace) -> int:
    devices = trainer.devices
    if isinstance(devices, list):
        count = len(devices)
    elif isinstance(devices, str) and devices.isdigit():
        count = int(devices)
    else:
        count = devices if isinstance(devices, int) and devices > 0 else 1
    return count * int(trainer.num_nodes or 1)


def _own_options(words: list[str], names: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Part words into those for the run and the values of our own options."""
    rest: list[str] = []
    own: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name not in names:
            rest.append(word)
            continue
        if not equals:
            if not queue or queue[0].startswith("-"):
                raise UsageError(f"{name} needs a value.")
            value = queue.pop(0)
        own[name] = value
    return rest, own


def _write(path: Path, cli: PlanCLI, fit: Fit, card: Card) -> None:
    """Write the config of a run with some values changed, whole or not at all."""
    config, namespace = cli.asked.clone(), type(cli.asked)
    for change in fit.changes:
        head, *inner = change.key.split(".")
        place = config[head].init_args
        for name in inner[:-1]:
            if place[name] is None:  # A rollout engine that is not named is this one.
                place[name] = namespace(class_path=_IN_PROCESS, init_args=namespace())
            place = place[name]
            place = place.init_args if "class_path" in place else place
        place[inner[-1]] = change.after
    text = cli.parser.dump(config, skip_check=True, skip_none=False)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        file.write(_heading(fit, card) + text)
    Path(file.name).replace(path)


def _heading(fit: Fit, card: Card) -> str:
    """Return comments that say what a config was written for, and what was changed in it."""
    needed, size = fit.needed / 2**30, card.size / 2**30
    free = f" {card.margin:.0%} were kept free." if card.margin else ""
    lines = [
        f"Written by spatial-ssrl plan for {size:.2f} GiB, of which it needs {needed:.2f}.{free}"
    ]
    lines += [
        f"{change.key}: {said(change.before)} -> {said(change.after)} ({effect_of(change)})"
        for change in fit.changes
    ]
    return "".join(f"# {line}\n" for line in lines)
