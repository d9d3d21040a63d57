"""Do exports served by vLLM answer as the policy does? Greedy completions, token by token.

Trains nothing: a small random Qwen2.5-VL gets an adapter with noise in it, so large that the base
model answers otherwise. Both kinds of export of it are served by one vLLM process, the merged model
as its model and the adapter as LoRA over the base in another, and asked about real pictures.

    python benchmarks/served_export.py --vllm ENV/bin/vllm --pictures FOLDER

Needs a vLLM that runs here; it may live in an environment of its own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import small_qwen
import torch
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText

from spatial_ssrl.core.questions import Question
from spatial_ssrl.export import export_run, open_policy, read_pictures
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from spatial_ssrl.prompts import full_prompt
from spatial_ssrl.rollout import InProcess

LENGTH = 48
RANK = 16
QUESTIONS = (
    "Which side is brighter?",
    "What is nearest to the camera?",
    "How far was the picture turned?",
)


@dataclass(frozen=True)
class Told:
    """Tokens of one completion, and how clear each choice was.

    Args:
        tokens: The completion.
        margins: Log-probability of each token less that of the runner-up.
    """

    tokens: list[int]
    margins: list[float]


def write_run(folder: Path, base: Path) -> Path:
    """Leave what a run with an adapter leaves."""
    network = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=r".*language_model.*_proj", task_type="CAUSAL_LM"
    )
    model = get_peft_model(network, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder / "policy"), save_embedding_layers=False)
    policy = {
        "class_path": "HFVisionLanguagePolicy",
        "init_args": {"model": str(base), "lora": {"rank": RANK}},
    }
    content = {
        "model": {"class_path": "RLModule", "init_args": {"policy": policy}},
        "trainer": {"default_root_dir": str(folder)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def questions(folder: Path) -> list[Question]:
    """Return a question about each picture of a folder that is not tiny, and one about two."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    pictures = [small(picture) for picture in read_pictures(paths)]
    asked = [
        Question(f"p{n}", "chat", (picture,), f"<image>{QUESTIONS[n % 3]}", "", "text")
        for n, picture in enumerate(pictures)
    ]
    pair = Question("pair", "chat", tuple(pictures[:2]), "<image><image>Which one?", "", "text")
    return [*asked, pair]


def small(picture: np.ndarray) -> np.ndarray:
    """Return a picture of at most 280 pixels, at least 56."""
    image = Image.fromarray(picture)
    image.thumbnail((280, 280))
    return np.array(image.resize((max(56, image.width), max(56, image.height))))


@torch.no_grad()
def ours(policy: HFVisionLanguagePolicy, asked: list[Question]) -> list[Told]:
    """Return the policy's greedy completions."""
    told = []
    for question in asked:
        prompt = policy.collator()([question])
        greedy = SamplingSettings(max_new_tokens=LENGTH, temperature=0.0)
        said = InProcess().sample(policy, prompt, 1, greedy, seed=0)
        tokens = said.tokens[:, said.mask[0]]
        state, hidden = policy.read(prompt), []
        hidden.append(state.hidden)
        for place in range(tokens.shape[1] - 1):
            step = tokens[:, place : place + 1]
            state, _ = policy.read_on(state, step, torch.ones_like(step, dtype=torch.bool))
            hidden.append(state.hidden)
        best = policy.logits(torch.cat(hidden)).log_softmax(-1).topk(2).values
        told.append(Told(tokens[0].tolist(), (best[:, 0] - best[:, 1]).tolist()))
    return told


def served(
    address: str, model: str, policy: HFVisionLanguagePolicy, asked: list[Question]
) -> list[list[int]]:
    """Return vLLM's greedy completions as tokens, with the same tokens forbidden."""
    forbidden = forbidden_tokens(policy)
    told = []
    for question in asked:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": content(question)}],
            "max_tokens": LENGTH,
            "temperature": 0,
            # The policy leaves placeholders of pictures, and rows of the head that no token
            # uses, out of the softmax; a greedy choice is the same with any bias this large.
            "logit_bias": {str(token): -100 for token in forbidden},
            "return_token_ids": True,
        }
        answer = post(f"{address}/v1/chat/completions", body)
        told.append(answer["choices"][0]["token_ids"])
    return told


def forbidden_tokens(policy: HFVisionLanguagePolicy) -> list[int]:
    """Return the tokens that a policy never says."""
    width = policy.network.get_output_embeddings().weight.shape[1]
    return policy.logits(torch.zeros(1, width))[0].isinf().nonzero()[:, 0].tolist()


def content(question: Question) -> list[dict[str, Any]]:
    """Return a chat turn with its pictures as lossless data addresses."""
    parts: list[dict[str, Any]] = []
    pictures = iter(question.images)
    for index, piece in enumerate(full_prompt(question).split("<image>")):
        if index:
            file = BytesIO()
            Image.fromarray(next(pictures)).save(file, "PNG")
            data = base64.b64encode(file.getvalue()).decode()
            parts.append(
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
            )
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def post(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{address}: {error.read().decode()[:500]}") from error
    return found


@contextlib.contextmanager
def serving(vllm: Path, model: Path, port: int, log: Path, *options: str) -> Iterator[str]:
    """Run a vLLM server until the block ends."""
    command = [
        *(str(vllm), "serve", str(model), "--served-model-name", "model", "--port", str(port)),
        *("--max-model-len", "1024", "--dtype", "float32", "--enforce-eager"),
        *("--limit-mm-per-prompt", '{"image":2}', *options),
    ]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for(address, process, log)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended:\n{log.read_text()[-3000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/v1/models", timeout=5).close()
            return
        time.sleep(1)
    raise RuntimeError(f"vLLM does not answer:\n{log.read_text()[-3000:]}")


def report(name: str, expected: list[Told], found: list[list[int]]) -> dict[str, Any]:
    """Return how many completions are equal, and how clear the choice was where they part."""
    parted = []
    for told, tokens in zip(expected, found, strict=True):
        if told.tokens != tokens:
            pairs = enumerate(zip(told.tokens, tokens, strict=False))
            place = next((n for n, (one, other) in pairs if one != other), -1)
            parted.append({"token": place, "margin": told.margins[place]})
    return {
        "served": name,
        "completions": len(expected),
        "tokens": sum(len(told.tokens) for told in expected),
        "equal": len(expected) - len(parted),
        "parted": parted,
        "least_margin": min(min(told.margins) for told in expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, required=True, help="the vllm executable")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/served_export.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small_qwen.write(folder / "base")
        run = write_run(folder / "run", folder / "base")
        for kind in ("merged", "adapter"):
            export_run(run, folder / kind, kind)  # type: ignore[arg-type]
        policy, asked = open_policy(str(run)), questions(options.pictures)
        expected = ours(policy, asked)
        base = ours(open_policy(str(folder / "base")), asked)
        results = [report("nothing: the base model of ours", expected, [t.tokens for t in base])]
        with serving(options.vllm, folder / "merged", options.port, folder / "log") as address:
            found = served(address, "model", policy, asked)
            results.append(report("merged", expected, found))
        adapters = ("--enable-lora", "--max-lora-rank", str(RANK))
        named = ("--lora-modules", f"adapter={folder / 'adapter'}")
        with serving(
            options.vllm, folder / "base", options.port, folder / "log", *adapters, *named
        ) as address:
            found = served(address, "adapter", policy, asked)
            results.append(report("adapter", expected, found))
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
