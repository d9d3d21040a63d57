"""The shipped recipe for one's own photos, shortened: cold start, GRPO, and the adapter elsewhere.

Only the model, the pictures and sizes are overridden; everything else is what the files say.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from spatial_ssrl.cli import fit
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import SamplingSettings
from spatial_ssrl.prompts.templates import full_prompt
from spatial_ssrl.rollout import InProcess

pytestmark = pytest.mark.skipif("SPATIAL_SSRL_SAMPLES" not in os.environ, reason="no sample photos")

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {
    "cropped_inpainting",
    "depth_order",
    "flipped_patch",
    "relative_position",
    "shuffled_patches",
}
COLD_STEPS, STEPS = 2, 10


@dataclass
class Runs:
    """Both stages after training: the CLI of the second, and each stage's folder."""

    cli: fit.SpatialCLI
    cold: Path
    rl: Path


def photos_and_depth(folder: Path) -> Path:
    """Write a data file that mixes plain photos with one folder of RGB-D pairs."""
    samples = Path(os.environ["SPATIAL_SSRL_SAMPLES"])
    pairs = {
        "folder": str(samples / "rgbd" / "tum"),
        "image_pattern": "**/{n}.png",
        "depth_pattern": "**/{n}_depth.png",
        "depth_scale": 0.0002,
        "size": 160,
    }
    data = {
        "class_path": "PretextDataModule",
        "init_args": {
            "images": [
                {
                    "class_path": "ImageFolder",
                    "init_args": {"folder": str(samples / "rgb"), "size": 128},
                },
                {"class_path": "RGBDPairs", "init_args": pairs},
            ],
            # One frame cannot be shared between training and held-out questions.
            "held_out": [{"class_path": "SyntheticScenes", "init_args": {"count": 8, "size": 64}}],
            "tasks": [
                "ShuffledPatches",
                "FlippedPatch",
                "CroppedInpainting",
                "DepthOrder",
                "RelativePosition",
            ],
            "batch_size": 5,
        },
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(tiny_qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Run both stages as a user would, the second from the adapter of the first."""
    folder = tmp_path_factory.mktemp("recipe")
    shared = [
        f"--model.policy.model={tiny_qwen_folder}",
        "--model.policy.dtype=float32",  # Plain and shared reading agree to 1e-5 only in it.
        "--model.policy.min_pixels=null",
        "--model.policy.max_pixels=null",
        f"--data={photos_and_depth(folder)}",
        "--trainer.accelerator=cpu",
        "--trainer.limit_val_batches=0",
    ]
    rl = [
        "--model.sampling.max_new_tokens=12",
        # A random model's answers are all wrong; how many digits they hold does vary.
        "--model.verifier=support.tiny_training.DigitShare",
        "--trainer.callbacks+=support.callbacks.KeepEveryAdapter",
        f"--trainer.callbacks.directory={folder / 'kept'}",
        f"--trainer.max_steps={STEPS}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_SSRL_RUNS", str(folder))
        cold = ["-c", str(CONFIGS / "sft_qwen25vl_lora.yaml"), f"--trainer.max_steps={COLD_STEPS}"]
        fit.run(["fit", *cold, *shared])
        cli = fit.run(["fit", "-c", str(CONFIGS / "rl_qwen25vl_lora.yaml"), *shared, *rl])
        yield Runs(cli, folder / "sft_qwen25vl_lora", folder / "rl_qwen25vl_lora")


def adapter(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def logged(folder: Path) -> dict[str, list[float]]:
    """Return what a run logged to TensorBoard, by name."""
    (events,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    accumulator = EventAccumulator(str(events)).Reload()
    return {
        name: [float(event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_losses_are_finite_and_every_task_was_asked(runs: Runs) -> None:
    values = logged(runs.rl)
    assert len(values["train/loss"]) == STEPS
    assert all(math.isfinite(value) for name in values for value in values[name])
    assert max(values["train/grad_norm"]) > 0
    asked = {name.rpartition("/")[2] for name in values if name.startswith("train/accuracy/")}
    assert asked >= TASKS


def test_the_adapter_file_changes_from_step_to_step(runs: Runs) -> None:
    start, end = adapter(runs.cold / "policy"), adapter(runs.rl / "policy")
    assert start.keys() == end.keys()
    assert all(not torch.equal(start[name], end[name]) for name in start)
    kept = [adapter(runs.rl.parent / "kept" / str(step)) for step in range(1, STEPS + 1)]
    for before, after in zip([start, *kept], [*kept, end], strict=False):
        same = [name for name in start if torch.equal(before[name], after[name])]
        if after is end:
            assert len(same) == len(start), "the last save is that of the last step"
        else:
            assert not same


def test_plain_peft_on_the_plain_model_gives_the_same_numbers(
    runs: Runs, tiny_qwen_folder: Path
) -> None:
    policy = runs.cli.model.policy
    stream = runs.cli.datamodule.training_questions()
    questions = [stream[number] for number in range(5)]
    assert {question.task for question in questions} == TASKS
    prompts = policy.collator()(questions)
    with torch.no_grad():
        rollouts = InProcess().sample(policy, prompts, 1, SamplingSettings(max_new_tokens=12), 0)
        ours = policy.logprobs(prompts, rollouts)

    plain = AutoModelForImageTextToText.from_pretrained(tiny_qwen_folder).eval()
    processor = AutoProcessor.from_pretrained(runs.rl / "policy")
    given = [
        (question, tokens[kept], scores[kept])
        for question, tokens, kept, scores in zip(
            questions, rollouts.tokens, rollouts.mask, ours, strict=True
        )
    ]
    bare = [plain_scores(plain, processor, question, tokens) for question, tokens, _ in given]
    adapted = PeftModel.from_pretrained(plain, runs.rl / "policy").eval()
    for (question, tokens, expected), without in zip(given, bare, strict=True):
        scores = plain_scores(adapted, processor, question, tokens)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
        assert not torch.allclose(without, expected, atol=1e-5, rtol=0), "the adapter does nothing"


def plain_scores(
    model: torch.nn.Module, processor: ProcessorMixin, question: Question, tokens: Tensor
) -> Tensor:
    """Return log-probabilities of tokens (K,) with nothing of this library but the question."""
    pictures = iter(question.images)
    content: list[dict[str, object]] = []
    for piece in re.split("(<image>)", full_prompt(question)):
        if piece == "<image>":
            content.append({"type": "image", "image": Image.fromarray(next(pictures))})
        elif piece:
            content.append({"type": "text", "text": piece})
    encoded = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    length = encoded["input_ids"].shape[1]
    encoded["input_ids"] = torch.cat([encoded["input_ids"], tokens[None]], dim=1)
    encoded["attention_mask"] = torch.ones_like(encoded["input_ids"])
    if "mm_token_type_ids" in encoded:
        as_text = torch.zeros_like(tokens)[None]
        encoded["mm_token_type_ids"] = torch.cat([encoded["mm_token_type_ids"], as_text], dim=1)
    with torch.no_grad():
        logits = model(**encoded).logits[0, length - 1 : -1]
    # Pictures and rows of the head without text are never sampled, so they take no probability.
    tokenizer = processor.tokenizer
    logits[:, len(tokenizer) :] = -torch.inf
    for token, number in tokenizer.get_added_vocab().items():
        if re.match(r"<\|(image|video|vision)_", token):
            logits[:, number] = -torch.inf
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
