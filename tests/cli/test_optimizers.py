"""An 8-bit optimiser named in YAML, its steps, and its state in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from spatial_ssrl.cli.main import main
from support.tiny_training import tiny_rl

if TYPE_CHECKING:
    from conftest import RunFile


def fitted(run_file: RunFile, folder: Path, steps: int, resume: Path | None = None) -> Path:
    """Run some steps and return the checkpoint of the last."""
    saver = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    run_file.set("trainer.enable_checkpointing", True)
    run_file.set(
        "trainer.callbacks",
        [{"class_path": "ModelCheckpoint", "init_args": {**saver, "dirpath": str(folder)}}],
    )
    run_file.set("trainer.logger", False)
    run_file.set("trainer.default_root_dir", str(folder))
    run_file.set(
        "model.init_args.optimizer",
        {"class_path": "bitsandbytes.optim.PagedAdamW8bit", "init_args": {"lr": 1e-3}},
    )
    resumed = [] if resume is None else ["--ckpt_path", str(resume)]
    assert main(["fit", "-c", run_file.write(), f"--trainer.max_steps={steps}", *resumed]) == 0
    return folder / f"step={steps}.ckpt"


# On a CPU its state simply stays where it is.
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_paged_eight_bit_optimiser_goes_on_from_a_checkpoint(run_file: RunFile) -> None:
    pytest.importorskip("bitsandbytes")
    whole = fitted(run_file, run_file.folder / "whole", 3)
    half = run_file.folder / "whole" / "step=2.ckpt"
    resumed = fitted(run_file, run_file.folder / "part", 3, resume=half)
    expected, found, before = (
        torch.load(path, weights_only=True) for path in (whole, resumed, half)
    )
    for name, value in expected["policy"].items():
        assert torch.equal(value, found["policy"][name]), name
    assert any(not torch.equal(v, before["policy"][n]) for n, v in expected["policy"].items())
    assert "torch.uint8" in dtypes(expected["optimizer_states"])


def dtypes(node: object) -> set[str]:
    """Return the kinds of tensors anywhere inside a checkpoint's part."""
    if isinstance(node, Tensor):
        return {str(node.dtype)}
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return {kind for child in children for kind in dtypes(child)}


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_eight_bit_steps_are_nearly_those_of_adamw(name: str) -> None:
    optim = pytest.importorskip("bitsandbytes").optim
    updates = []
    for make in (torch.optim.AdamW, getattr(optim, name)):
        module = tiny_rl()
        module.configure_model()
        parameters = module.trainable_parameters()
        start = [parameter.detach().clone() for parameter in parameters]
        optimizer = make(module.parameter_groups(), lr=1e-3, weight_decay=0.01)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        moved = zip(parameters, start, strict=True)
        updates.append(torch.cat([(now.detach() - then).flatten() for now, then in moved]))
    assert float(torch.nn.functional.cosine_similarity(*updates, dim=0)) > 0.95
