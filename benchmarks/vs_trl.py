"""A whole GRPO step of ours against one of TRL's GRPOTrainer: seconds and peak memory.

    python benchmarks/vs_trl.py                     # both prompt lengths, results in vs_trl.json
    python benchmarks/vs_trl.py --images 1 --repeats 2 --out /tmp/quick.json
    python benchmarks/vs_trl.py --kl 0.01           # with a reference policy on both sides
    python benchmarks/vs_trl.py --recompute trl     # TRL recomputes activations: its default

Both sides train LoRA r16 on every linear layer of the same random Qwen2.5-VL of 4 M parameters in
float32, with AdamW, on the same 4 questions of G = 8 completions of exactly 64 tokens. Each side is
a fresh process that waits while the other one works; steps alternate, the first ones are left out.

A step is sampling, rewards, scoring and update, from the questions to the new weights. TRL prepares
pictures inside its step and we in the data loader, so the seconds of our collator are added to
ours. Memory is the largest resident size from the first step on, and that less the size just before
the first step; TRL needs 13 GB at five pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import small_qwen

RESULTS = Path(__file__).with_suffix(".json")
SIDES = ("ours", "trl")


@dataclass(frozen=True)
class Settings:
    """What is run, the same on both sides.

    Args:
        model: Folder of the model.
        images: Pictures in a question.
        questions: Questions in a step.
        group_size: Completions of each.
        tokens: Tokens of each completion.
        kl: Weight of the divergence from the reference; 0 leaves the reference out.
        recompute: Whose activations are recomputed in the backward pass.
        threads: Threads of torch.
        steps: Most steps a side is asked for.
    """

    model: str
    images: int
    questions: int = 4
    group_size: int = 8
    tokens: int = 64
    kl: float = 0.0
    recompute: str = "none"
    threads: int = 2
    steps: int = 50


def reward(text: str) -> float:
    """Return a reward that hardly any two completions share."""
    return sum(ord(character) % 7 for character in text) / (7 * max(len(text), 1))


class Turns:
    """The worker's end of the pipe: waits for its turn, reports what a step took.

    Args:
        pipe: To the process that hands out turns.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.first_mib: float | None = None
        self.start = self.cpu_start = 0.0

    def wait(self) -> bool:
        """Wait for the next turn; return whether there is one."""
        self.pipe.send("ready")
        if not self.pipe.recv():
            return False
        if self.first_mib is None:
            self.first_mib = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        return True

    def done(self, **more: float) -> None:
        """Report the step that began when `wait` returned."""
        seconds = time.perf_counter() - self.start
        cpu = time.process_time() - self.cpu_start
        peak = _memory("VmHWM")
        assert self.first_mib is not None
        memory = {"peak_mib": peak, "added_mib": peak - self.first_mib}
        self.pipe.send({"seconds": seconds, "cpu_seconds": cpu, **memory, **more})


def run_ours(settings: Settings, turns: Turns) -> None:
    """Take steps with our RLModule until there is no turn left."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from spatial_ssrl.algorithms import GRPO
    from spatial_ssrl.core.batches import PromptBatch
    from spatial_ssrl.core.questions import Question, Verdict
    from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings
    from spatial_ssrl.training import RLModule
    from spatial_ssrl.verifiers import Verifier

    class Endless(HFVisionLanguagePolicy):
        @property
        def end_token_ids(self) -> tuple[int, ...]:
            return ()

    class Reward(Verifier):
        def score(self, text: str, question: Question) -> Verdict:
            return Verdict(reward=reward(text), parts={})

    class Course(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if not turns.wait():
                raise _Finished

        def on_train_batch_end(
            self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
        ) -> None:
            stages = {
                name.removeprefix("train/").removeprefix("seconds/"): float(value)
                for name, value in trainer.callback_metrics.items()
                if "seconds/" in name
            }
            turns.done(
                collate=collate_seconds[-1],
                prompt_tokens=batch.input_ids.shape[1],
                trained=sum(p.numel() for p in module.parameters() if p.requires_grad),
                **stages,
            )

    collate_seconds: list[float] = []

    def collate(questions: list[Question]) -> PromptBatch:
        start = time.perf_counter()
        batch = collator(questions)
        collate_seconds.append(time.perf_counter() - start)
        return batch

    policy = Endless(
        settings.model,
        lora=LoraSettings(rank=16, alpha=32),
        dtype="float32",
        gradient_checkpointing=settings.recompute in ("ours", "both"),
    )
    collator = policy.collator()
    module = RLModule(
        policy,
        GRPO(kl_coefficient=settings.kl),
        verifier=Reward(),
        group_size=settings.group_size,
        sampling=SamplingSettings(max_new_tokens=settings.tokens),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-6, weight_decay=0.0),
    )
    trainer = Trainer(
        max_steps=settings.steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Course()],
    )
    questions = small_qwen.questions(settings.questions, settings.images)
    data: Any = questions * settings.steps
    loader = torch.utils.data.DataLoader(data, settings.questions, collate_fn=collate)
    with contextlib.suppress(_Finished):
        trainer.fit(module, loader)


def run_trl(settings: Settings, turns: Turns) -> None:
    """Take steps with TRL's GRPOTrainer until there is no turn left."""
    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image
    from transformers import AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from spatial_ssrl.prompts.templates import full_prompt

    generated = 0.0

    class Course(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal generated
            generated = 0.0
            if not turns.wait():
                raise _Finished

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            lengths = trainer._metrics["train"]["completions/min_length"]
            assert lengths[-1] == settings.tokens
            turns.done(
                sample=generated,
                prompt_tokens=trainer._buffered_inputs[0]["prompt_ids"].shape[1],
                trained=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            )

    processor = AutoProcessor.from_pretrained(settings.model)
    special = processor.tokenizer
    forbidden = [special.eos_token_id, special.pad_token_id]
    forbidden.append(special.convert_tokens_to_ids("<|image_pad|>"))
    rows = [
        {
            "prompt": [{"role": "user", "content": full_prompt(q).replace("<image>", "")}],
            "images": [Image.fromarray(image) for image in q.images],
        }
        for q in small_qwen.questions(settings.questions, settings.images)
    ]
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=settings.questions * settings.group_size,
        num_generations=settings.group_size,
        max_completion_length=settings.tokens,
        generation_kwargs={"suppress_tokens": forbidden},
        beta=settings.kl,
        optim="adamw_torch",
        gradient_checkpointing=settings.recompute in ("trl", "both"),
        max_steps=settings.steps,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=settings.model,
        reward_funcs=lambda completions, **_: [reward(c[0]["content"]) for c in completions],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[Course()],
    )
    generate = trainer.model.generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal generated
        start = time.perf_counter()
        out = generate(*args, **kwargs)
        generated += time.perf_counter() - start
        return out

    trainer.model.generate = timed
    with contextlib.suppress(_Finished):
        trainer.train()


class _Finished(Exception):
    """There are no more turns."""


def serve(side: str, settings: Settings, pipe: Connection) -> None:
    """Be the worker process of one side."""
    import torch

    torch.set_num_threads(settings.threads)
    {"ours": run_ours, "trl": run_trl}[side](settings, Turns(pipe))


def compare(settings: Settings, warm_up: int, repeats: int, sides: list[str]) -> dict[str, Any]:
    """Return medians of each side, from steps taken in turns."""
    context = get_context("spawn")
    pipes, workers = {}, []
    for side in sides:
        pipes[side], far = context.Pipe()
        workers.append(context.Process(target=serve, args=(side, settings, far)))
        workers[-1].start()
        far.close()
        assert pipes[side].recv() == "ready"  # one loads while the other waits
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(warm_up + repeats):
        for side, pipe in pipes.items():
            pipe.send(True)
            taken[side].append(pipe.recv())
            print(side, round(taken[side][-1]["seconds"], 2), "s", file=sys.stderr, flush=True)
            assert pipe.recv() == "ready"
    for pipe in pipes.values():
        pipe.send(False)
    for worker in workers:
        worker.join()
    found: dict[str, Any] = {side: _medians(steps[warm_up:]) for side, steps in taken.items()}
    if set(sides) == set(SIDES):
        assert found["ours"]["trained"] == found["trl"]["trained"]
        found["times_as_fast"] = round(found["trl"]["seconds"] / found["ours"]["seconds"], 2)
        for name in ("added_mib", "peak_mib"):
            found[f"{name}_ratio"] = round(found["ours"][name] / found["trl"][name], 2)
    return found


def _medians(steps: list[dict[str, float]]) -> dict[str, Any]:
    for step in steps:
        step["seconds"] += step.get("collate", 0.0)
    found: dict[str, Any] = {
        name: round(statistics.median(step[name] for step in steps), 4) for name in steps[0]
    }
    found["fastest"] = round(min(step["seconds"] for step in steps), 4)
    found["slowest"] = round(max(step["seconds"] for step in steps), 4)
    return found


def _memory(name: str) -> float:
    """Return a size of this process in MiB, as Linux counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {name}.")


def _machine() -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "peft", "lightning")
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "load_average": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 5], help="pictures a question")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each side that count")
    parser.add_argument("--warm-up", type=int, default=2, help="steps of each side before them")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the divergence")
    parser.add_argument("--recompute", choices=("none", "ours", "trl", "both"), default="none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        small_qwen.write(Path(folder))
        for images in options.images:
            settings = Settings(
                folder,
                images,
                kl=options.kl,
                recompute=options.recompute,
                threads=options.threads,
                steps=options.warm_up + options.repeats + 1,
            )
            found = compare(settings, options.warm_up, options.repeats, options.sides)
            name = f"{images} images, kl {options.kl}, recompute {options.recompute}"
            ran = asdict(replace(settings, model="random Qwen2.5-VL, benchmarks/small_qwen.py"))
            ran |= {"warm_up": options.warm_up, "repeats": options.repeats}
            known[name] = {**_machine(), "settings": ran, **found}
            print(json.dumps({name: found}, indent=2), flush=True)
            _write(options.out, known)


def _write(path: Path, content: dict[str, Any]) -> None:
    from spatial_ssrl.core.files import write_json

    write_json(path, content)


if __name__ == "__main__":
    main()
