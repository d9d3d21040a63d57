"""A GRPO step of ours and one of TRL's GRPOTrainer, each in a process of its own, in turns."""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import small_qwen

SIDES = ("ours", "trl")


@dataclass(frozen=True)
class Settings:
    """What is run, the same on both sides.

    Args:
        model: Folder of the model.
        images: Pictures in a question.
        picture: Height and width of each, in pixels.
        questions: Questions in a step.
        group_size: Completions of each.
        tokens: Tokens of each completion.
        kl: Weight of the divergence from the reference; 0 leaves the reference out.
        recompute: Whose activations are recomputed in the backward pass.
        threads: Threads of torch.
        steps: Most steps a side is asked for.
        device: "cpu" or "cuda".
        dtype: Precision of the base weights.
        four_bits: Whether the base weights are kept in NF4.
        graphs: Whether we decode by CUDA graphs: `rollout.cuda_graphs`.
        cap_gib: Most memory of a card that a side may take; None for all.
    """

    model: str
    images: int
    picture: tuple[int, int] = small_qwen.PICTURE
    questions: int = 4
    group_size: int = 8
    tokens: int = 64
    kl: float = 0.0
    recompute: str = "none"
    threads: int = 2
    steps: int = 50
    device: str = "cpu"
    dtype: str = "float32"
    four_bits: bool = False
    graphs: str = "never"
    cap_gib: float | None = None


def reward(text: str) -> float:
    """Return a reward that hardly any two completions share."""
    return sum(ord(character) % 7 for character in text) / (7 * max(len(text), 1))


class HostMemory:
    """The resident memory of this process, in MiB."""

    def begin(self) -> float:
        """Return what is held now; the peak counts from here."""
        held = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        return held

    def settle(self) -> None:
        """Wait until a step has ended, which it has."""

    def peak(self) -> float:
        """Return the most that was held."""
        return _memory("VmHWM")


class CardMemory:
    """What this process's tensors hold on a card, in MiB."""

    def begin(self) -> float:
        """Return what is held now; the peak counts from here."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20

    def settle(self) -> None:
        """Wait until the card has ended a step."""
        import torch

        torch.cuda.synchronize()

    def peak(self) -> float:
        """Return the most that was held, counted as the allocator took it from the card."""
        import torch

        return torch.cuda.max_memory_reserved() / 2**20


class Turns:
    """The worker's end of the pipe: waits for its turn, reports what a step took.

    Args:
        pipe: To the process that hands out turns.
        memory: Whose memory is told.
    """

    def __init__(self, pipe: Connection, memory: HostMemory | CardMemory) -> None:
        self.pipe, self.memory = pipe, memory
        self.first_mib: float | None = None
        self.start = self.cpu_start = 0.0

    def wait(self) -> bool:
        """Wait for the next turn; return whether there is one."""
        self.pipe.send("ready")
        if not self.pipe.recv():
            return False
        if self.first_mib is None:
            self.first_mib = self.memory.begin()
        self.start, self.cpu_start = time.perf_counter(), time.process_time()
        return True

    def done(self, **more: float) -> None:
        """Report the step that began when `wait` returned."""
        self.memory.settle()
        seconds = time.perf_counter() - self.start
        cpu = time.process_time() - self.cpu_start
        peak = self.memory.peak()
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
    from spatial_ssrl.policies import (
        HFVisionLanguagePolicy,
        LoraSettings,
        QuantSettings,
        SamplingSettings,
    )
    from spatial_ssrl.rollout import InProcess
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
                replayed_tokens=float(trainer.callback_metrics.get("train/replayed_tokens", 0)),
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
        lora=LoraSettings(rank=16, alpha=32, target_modules="all-linear"),
        quantization=QuantSettings() if settings.four_bits else None,
        dtype=settings.dtype,  # type: ignore[arg-type]
        gradient_checkpointing=settings.recompute in ("ours", "both"),
    )
    collator = policy.collator()
    module = RLModule(
        policy,
        GRPO(kl_coefficient=settings.kl),
        InProcess(cuda_graphs=settings.graphs),  # type: ignore[arg-type]
        verifier=Reward(),
        group_size=settings.group_size,
        sampling=SamplingSettings(max_new_tokens=settings.tokens),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-6, weight_decay=0.0),
    )
    trainer = Trainer(
        max_steps=settings.steps,
        accelerator=settings.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Course()],
    )
    questions = small_qwen.questions(settings.questions, settings.images, settings.picture)
    data: Any = questions * settings.steps
    loader = torch.utils.data.DataLoader(data, settings.questions, collate_fn=collate)
    with contextlib.suppress(_Finished):
        trainer.fit(module, loader)


def run_trl(settings: Settings, turns: Turns) -> None:
    """Take steps with TRL's GRPOTrainer until there is no turn left."""
    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image
    from transformers import AutoProcessor, BitsAndBytesConfig, TrainerCallback
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
        for q in small_qwen.questions(settings.questions, settings.images, settings.picture)
    ]
    loading: dict[str, Any] = {"dtype": settings.dtype}
    if settings.four_bits:
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=settings.dtype,
        )
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=settings.device == "cpu",
        bf16=settings.dtype == "bfloat16",
        model_init_kwargs=loading,
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
    on_card = settings.device == "cuda"
    if on_card and settings.cap_gib is not None:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(settings.cap_gib * 2**30 / whole)
    turns = Turns(pipe, CardMemory() if on_card else HostMemory())
    {"ours": run_ours, "trl": run_trl}[side](settings, turns)


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
