"""Writing a trained policy as a folder that plain transformers and peft load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from spatial_ssrl import __version__
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.export import merging
from spatial_ssrl.export.adapter_files import write_adapter
from spatial_ssrl.export.base_model import BaseModel, base_of
from spatial_ssrl.export.card import Kind, Made, model_card
from spatial_ssrl.export.checksums import write_checksums
from spatial_ssrl.export.comparing import TOLERANCE, Comparison
from spatial_ssrl.export.runs import Run, open_run, trained_policy
from spatial_ssrl.policies import HFVisionLanguagePolicy
from spatial_ssrl.policies.weights import check_replaceable, write_folder

RECORD = "spatial_ssrl.json"

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Export:
    """An export on disk.

    Args:
        folder: Where it lies.
        weights: The saved policy or the checkpoint it was made from.
        newer: A checkpoint that a stopped run wrote after `weights`, or None.
        precision: Of the weights written, such as "bfloat16".
        tokens: Answer tokens whose log-probabilities were compared; 0 for an adapter alone.
        difference: Largest difference between the trained policy and the folder as loaded again,
            both computed in float32; rounding to `precision` included. 0 for an adapter alone.
        tensors: Tensors that were compared bit for bit; 0 for a whole model.
    """

    folder: Path
    weights: Path
    newer: Path | None
    precision: str
    tokens: int
    difference: float
    tensors: int


def export_run(
    run: Path,
    out: Path,
    kind: Kind,
    checkpoint: Path | None = None,
    base: str | None = None,
    dtype: Precision = "auto",
    tolerance: float = TOLERANCE,
) -> Export:
    """Write the policy of a run as a folder for other programs, whole or not at all.

    An adapter is merged into a fresh copy of the base model in float32 (4 bytes a weight), never
    into 4-bit weights. What was written is loaded again by plain transformers, and must give worked
    answers to a few questions the log-probabilities of the trained policy. An adapter alone is
    loaded again by plain PEFT and must be the trained one bit for bit; its base lies in memory as
    it was saved (2 bytes a weight in bfloat16).

    Args:
        run: Folder of the run.
        out: Folder to write: new, empty, or an earlier export, which is replaced.
        kind: "merged" for a whole model, "adapter" for an adapter in PEFT's layout.
        checkpoint: Lightning checkpoint to take instead of the policy saved last.
        base: Hub id or folder of the base model, if it is no longer where training found it.
        dtype: Precision of merged weights; "auto" keeps that of the base model.
        tolerance: Largest difference of log-probabilities allowed, in nats, above 0; an adapter
            alone may not differ at all. Rounding merged weights to `dtype` is reported, not
            limited.

    Raises:
        ConfigError: If the run has nothing to export that way, if `out` holds something else, or
            if the log-probabilities differ by more than `tolerance`.
    """
    check_out(out)
    opened = open_run(run, checkpoint)
    origin = base_of(opened.policy_settings, base)
    _check_kind(opened, kind, origin)
    if kind == "adapter" and dtype != "auto":
        raise ConfigError("dtype: an adapter stays in float32, as it was trained; leave dtype out.")
    _check_apart(out, opened, origin)
    policy = trained_policy(opened, base)
    writing = _Writing(opened, origin, kind, policy, dtype, tolerance)
    write_folder(out, writing.write)
    return Export(
        folder=out,
        weights=opened.weights,
        newer=opened.newer_checkpoint(),
        precision=writing.precision,
        tokens=writing.tokens,
        difference=writing.difference,
        tensors=writing.tensors,
    )


def check_out(folder: Path) -> None:
    """Refuse to export where anything but an earlier export lies.

    Raises:
        ConfigError: If the path is a file, or a folder with something else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise ConfigError(
            f"out: {str(folder)!r} holds files that are no earlier export; name an empty or a new "
            "folder."
        )
    check_replaceable(folder)


def _check_kind(run: Run, kind: Kind, origin: BaseModel) -> None:
    if kind == "merged":
        return
    arguments = run.policy_settings.get("init_args") or {}
    adapted = arguments.get("lora") or arguments.get("adapter")
    if not (adapted if run.is_checkpoint else run.has_adapter_folder):
        raise ConfigError(
            f"adapter: the run in {str(run.folder)!r} trained every weight, so there is no "
            "adapter; export the model with --merge."
        )
    if not origin.name:
        raise ConfigError(
            f"adapter: the base model of the run in {str(run.folder)!r} was built from scratch and "
            "lies nowhere that an adapter could name; export the whole model with --merge."
        )


def _check_apart(out: Path, run: Run, origin: BaseModel) -> None:
    """Refuse to replace what is being read."""
    sources = [run.weights, *([Path(origin.name).expanduser()] if origin.is_local else [])]
    if out.resolve() in [source.resolve() for source in sources]:
        raise ConfigError(f"out: {str(out)!r} is what the export is made from; name another.")


class _Writing:
    """One export being written; its outcome is in the attributes afterwards."""

    def __init__(
        self,
        run: Run,
        origin: BaseModel,
        kind: Kind,
        policy: HFVisionLanguagePolicy,
        dtype: Precision,
        tolerance: float,
    ) -> None:
        self.run, self.origin, self.kind, self.policy = run, origin, kind, policy
        self.asked, self.tolerance = dtype, tolerance
        self.precision = ""
        self.tokens = self.tensors = 0
        self.difference = 0.0

    def write(self, folder: Path) -> None:
        """Write everything and check it.

        Raises:
            ConfigError: If the log-probabilities differ by more than the tolerance.
        """
        if self.kind == "merged":
            self._write_merged(folder)
        else:
            self._write_adapter(folder)
        self.policy.processor.save_pretrained(folder)
        versions = _versions()
        (folder / "README.md").write_text(
            model_card(self.run, self._made(versions)), encoding="utf-8"
        )
        write_json(folder / RECORD, self._record(versions))
        write_checksums(folder)

    def _write_merged(self, folder: Path) -> None:
        model, as_saved = self.policy.model, self.asked == "auto"
        merging.check_full_precision(self.policy.network)
        dtype: torch.dtype = self.policy.network.dtype
        if not as_saved:
            dtype = getattr(torch, self.asked)
        precisions = merging.raise_to_float32(model)
        comparison = Comparison.of(self.policy, self.tolerance)
        network = merging.merge(model) if isinstance(model, PeftModel) else model
        comparison.check(network, "The merged weights")
        merging.bring_to(network, precisions if as_saved else {}, dtype)
        network.config.dtype = dtype
        network.save_pretrained(folder)
        merging.raise_to_float32(network)
        rounded = comparison.logprobs(network)
        # Frees the memory that loading the folder takes.
        network.to(device="meta")  # type: ignore[call-arg]  # as in torch, behind a decorator
        again = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=self.policy.trust_remote_code
        )
        comparison.check(again.eval(), "The folder", rounded)
        self.precision = str(dtype).removeprefix("torch.")
        self.tokens, self.difference = len(comparison.trained), comparison.difference(again)

    def _write_adapter(self, folder: Path) -> None:
        model = self.policy.model
        assert isinstance(model, PeftModel)
        network = self.policy.network
        self.tensors = write_adapter(model, folder, self.origin)
        network.generation_config.save_pretrained(folder)
        self.precision = "float32"  # As adapters are trained.

    def _made(self, versions: Mapping[str, str]) -> Made:
        model = type(self.policy.network)
        if self.kind == "merged":
            check = (
                "Loaded again by plain transformers and computed in float32, these files give "
                f"{self.tokens} answer tokens the log-probabilities of the trained policy to "
                f"{self.difference:.1e}."
            )
        else:
            check = (
                f"Loaded again by plain PEFT, all {self.tensors} tensors of these files are those "
                "that were trained, bit for bit."
            )
        return Made(
            kind=self.kind,
            base=self.origin,
            model_class=f"{model.__module__}.{model.__qualname__}",
            precision=self.precision,
            check=check,
            versions=versions,
        )

    def _record(self, versions: Mapping[str, str]) -> dict[str, object]:
        return {
            "format": 1,
            "kind": self.kind,
            "base_model": self.origin.shown,
            "base_revision": self.origin.revision,
            "weights": self.run.weights.name,
            "precision": self.precision,
            "min_pixels": self.policy.min_pixels,
            "max_pixels": self.policy.max_pixels,
            "max_prompt_tokens": self.policy.max_prompt_tokens,
            "compared_tokens": self.tokens,
            "largest_difference": self.difference,
            "compared_tensors": self.tensors,
            "versions": dict(versions),
        }


def _versions() -> dict[str, str]:
    return {"spatial-ssrl": __version__, **{name: version(name) for name in _PACKAGES}}
