"""Ten steps of GRPO on real photos with a real model class: what is saved is what was trained."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from spatial_ssrl.cli import fit
from spatial_ssrl.core.questions import Question
from support.oracles import plain_logprobs, random_completions, rollouts_of

if TYPE_CHECKING:
    from conftest import RunFile

pytestmark = pytest.mark.skipif("SPATIAL_SSRL_SAMPLES" not in os.environ, reason="no sample photos")

MODEL, DATA = "model.init_args", "data.init_args"


def prepare(run_file: RunFile, model: Path) -> None:
    """Ask all five tasks of photos and of one folder of RGB-D pairs."""
    samples = Path(os.environ["SPATIAL_SSRL_SAMPLES"])
    run_file.set(
        f"{MODEL}.policy",
        {
            "class_path": "HFVisionLanguagePolicy",
            "init_args": {
                "model": str(model),
                "lora": {"rank": 4, "alpha": 8},
                "max_pixels": 56 * 56,
            },
        },
    )
    run_file.set(f"{MODEL}.sampling", {"max_new_tokens": 6})
    photos = {"folder": str(samples / "rgb"), "size": 256}
    pairs = {
        "folder": str(samples / "rgbd" / "icl_nuim_tumformat"),
        "image_pattern": "**/color/{n}.png",
        "depth_pattern": "**/depth/{n}.png",
        "depth_scale": 0.0002,
    }
    run_file.set(
        f"{DATA}.images",
        [
            {"class_path": "ImageFolder", "init_args": photos},
            {"class_path": "RGBDPairs", "init_args": pairs},
        ],
    )
    run_file.set(
        f"{DATA}.tasks",
        [
            "ShuffledPatches",
            "FlippedPatch",
            "CroppedInpainting",
            "DepthOrder",
            "RelativePosition",
        ],
    )
    run_file.set(f"{DATA}.batch_size", 5)
    run_file.set("trainer.max_steps", 10)
    run_file.set("trainer.log_every_n_steps", 1)
    run_file.set(
        "trainer.callbacks",
        [{"class_path": "AdapterCheckpoint", "init_args": {"every_n_steps": 1}}],
    )


def test_ten_steps_on_photos_and_depth(run_file: RunFile, tiny_qwen_folder: Path) -> None:
    prepare(run_file, tiny_qwen_folder)
    adapter = run_file.folder / "run" / "policy"
    path = run_file.write()
    first = fit.run(["fit", "-c", path, "--trainer.max_steps=1", "--trainer.logger=false"])
    start = load_file(adapter / "adapter_model.safetensors")
    del first
    (run_file.folder / "run" / "config.yaml").unlink()

    cli = fit.run(["fit", "-c", path])
    lines = next((run_file.folder / "run").rglob("metrics.csv")).read_text().splitlines()
    table = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert len(table) == 10
    assert all(math.isfinite(float(row["train/loss"])) for row in table)
    end = load_file(adapter / "adapter_model.safetensors")
    assert start.keys() == end.keys()
    changed = [name for name in start if not torch.equal(start[name], end[name])]
    assert len(changed) == len(start)

    check_plain_model_agrees(cli.model.policy, tiny_qwen_folder, adapter)


def check_plain_model_agrees(policy: object, model: Path, adapter: Path) -> None:
    """Plain transformers with the adapter loaded by plain PEFT gives the same numbers."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (56, 84, 3), dtype=np.uint8)
    question = Question("u", "flipped_patch", (image,), "<image>Which patch?", "1", "text")
    prompts = policy.collator()([question])
    tokens, mask = random_completions(policy, 1)
    with torch.no_grad():
        ours = policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
        plain = AutoModelForImageTextToText.from_pretrained(model)
        width = plain.config.text_config.hidden_size
        banned = torch.isinf(policy.logits(torch.zeros(1, width)))[0].nonzero()[:, 0].tolist()
        adapted = PeftModel.from_pretrained(plain, adapter).eval()
        theirs = plain_logprobs(adapted, prompts, tokens[0, mask[0]], banned)
    torch.testing.assert_close(ours[0, mask[0]], theirs, atol=1e-5, rtol=0)
