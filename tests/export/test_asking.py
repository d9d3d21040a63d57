"""A model is asked with the prompt of training, whatever it is that names it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Question
from spatial_ssrl.export import Reply, ask, export_run, open_policy, question_for, read_pictures
from spatial_ssrl.policies import HFVisionLanguagePolicy, QuantSettings, SamplingSettings
from support.four_bits import write_wide_qwen
from support.saved_runs import write_adapter, write_run
from support.tiny_models import random_question, tiny_processor

GREEDY = SamplingSettings(max_new_tokens=12, temperature=0.0)


def asked(
    policy: HFVisionLanguagePolicy,
    pictures: Sequence[Any],
    text: str,
    sampling: SamplingSettings,
    seed: int = 0,
) -> Reply:
    return ask(policy, question_for(policy, pictures, text, sampling), sampling, seed)


@pytest.fixture
def run(tiny_qwen_folder: Path, tmp_path: Path) -> Path:
    policy = {"model": str(tiny_qwen_folder), "lora": {"rank": 4}, "max_pixels": 3136}
    folder = write_run(tmp_path / "run", policy)
    write_adapter(tiny_qwen_folder, folder / "policy")
    return folder


def test_greedy_answers_are_those_of_generate(tiny_qwen_folder: Path) -> None:
    """The answer is what transformers generates after the prompt of training."""
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder))
    policy.load()
    pictures = random_question(2).images
    reply = asked(policy, pictures, "Which one?", GREEDY)
    question = Question("u", "t", pictures, "<image><image>Which one?", "", "text")
    prompt = policy.collator()([question])
    width = policy.network.get_output_embeddings().weight.shape[1]
    banned = policy.logits(torch.zeros(1, width))[0].isinf().nonzero()[:, 0].tolist()
    with torch.no_grad():
        tokens = policy.network.generate(
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask.long(),
            **prompt.vision,
            max_new_tokens=12,
            do_sample=False,
            suppress_tokens=banned,
        )[0, prompt.input_ids.shape[1] :]
    assert reply.text == policy.tokenizer.decode(tokens, skip_special_tokens=True)
    assert reply.truncated == (len(tokens) == 12)


def test_every_name_of_a_trained_policy_gives_the_same_answer(
    run: Path, tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    export_run(run, tmp_path / "merged", "merged")
    export_run(run, tmp_path / "adapter", "adapter")
    pictures = random_question(1).images
    names = [
        (str(run), None),
        (str(tmp_path / "merged"), None),
        (str(tmp_path / "adapter"), None),
        (str(tiny_qwen_folder), tmp_path / "adapter"),
    ]
    policies = [open_policy(*name) for name in names]
    assert {policy.max_pixels for policy in policies} == {3136}
    replies = {asked(policy, pictures, "Which one?", GREEDY).text for policy in policies}
    assert len(replies) == 1
    base = open_policy(str(tiny_qwen_folder))
    base.max_pixels = 3136
    assert asked(base, pictures, "Which one?", GREEDY).text not in replies


def test_a_seed_names_the_draws(tiny_qwen_folder: Path) -> None:
    policy = open_policy(str(tiny_qwen_folder))
    pictures = random_question(1).images
    sampling = SamplingSettings(max_new_tokens=12)
    said = [asked(policy, pictures, "Which?", sampling, seed).text for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2]


def test_placeholders_may_stand_in_the_question(tiny_qwen_folder: Path) -> None:
    policy = open_policy(str(tiny_qwen_folder))
    pictures = random_question(2).images
    asked(policy, pictures, "Is <image> left of <image>?", GREEDY)
    with pytest.raises(ConfigError, match="has 1 <image> placeholders for 2 images"):
        asked(policy, pictures, "What is in <image>?", GREEDY)


def test_pictures_are_read_upright_and_in_any_mode(tmp_path: Path) -> None:
    wide = np.zeros((20, 30, 3), dtype=np.uint8)
    wide[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter, clockwise.
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(wide[..., 0]).save(tmp_path / "grey.png")
    turned, grey = read_pictures([tmp_path / "turned.png", tmp_path / "grey.png"])
    np.testing.assert_array_equal(turned, np.rot90(wide, -1))
    np.testing.assert_array_equal(grey, wide)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    with pytest.raises(SceneUnreadable, match=r"broken\.jpg cannot be read as a picture"):
        read_pictures([tmp_path / "broken.jpg"])
    for name, fault in (("none.jpg", "is not there"), ("", "is a folder")):
        with pytest.raises(ConfigError, match=f"images: .* {fault}; name picture files"):
            read_pictures([tmp_path / name])


def test_models_that_cannot_be_asked(run: Path, tiny_qwen_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    config = LlamaConfig(
        vocab_size=400, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(text)
    tiny_processor("qwen2_5_vl").tokenizer.save_pretrained(text)
    assert AutoModelForCausalLM.from_pretrained(text)
    adapter = run / "policy"
    with pytest.raises(ConfigError, match="is a 'llama' model, which does not turn pictures and"):
        open_policy(str(text))
    with pytest.raises(ConfigError, match=r"run .* has an adapter or weights of its own"):
        open_policy(str(run), adapter)
    with pytest.raises(ConfigError, match="is an adapter itself; name one of the two"):
        open_policy(str(adapter), adapter)
    with pytest.raises(ConfigError, match="holds a whole model, not an adapter"):
        open_policy(str(tiny_qwen_folder), text)


def test_what_is_heard_adds_up_to_what_is_said(tiny_qwen_folder: Path) -> None:
    """Also where a character comes in several tokens, and where the end is cut in one."""
    policy = open_policy(str(tiny_qwen_folder))
    pictures = random_question(1).images
    several = 0
    for seed in range(8):
        sampling = SamplingSettings(max_new_tokens=24)
        question = question_for(policy, pictures, "Which?", sampling)
        heard: list[str] = []
        reply = ask(policy, question, sampling, seed, heard.append)
        assert "".join(heard) == reply.text
        assert all(heard)
        assert reply == ask(policy, question, sampling, seed), "listening changes nothing"
        several += len(heard) > 4
    assert several


def test_a_photo_too_large_for_the_prompt_is_scaled(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    """`max_prompt_tokens` of the run is kept, and an export remembers it."""
    photo = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    bounds = {"min_pixels": 784, "max_pixels": 3136 * 16}
    free = HFVisionLanguagePolicy(str(tiny_qwen_folder), **bounds)
    free.load()
    question = question_for(free, [photo], "Which?", GREEDY)
    assert question.images[0] is photo
    limit = free.collator()([question]).input_ids.shape[1] - 20
    settings = {"model": str(tiny_qwen_folder), "lora": {"rank": 4}, **bounds}
    run = write_run(tmp_path / "bound", settings | {"max_prompt_tokens": limit})
    write_adapter(tiny_qwen_folder, run / "policy")
    export_run(run, tmp_path / "adapter", "adapter")
    for name in (run, tmp_path / "adapter"):
        policy = open_policy(str(name))
        scaled = question_for(policy, [photo], "Which?", GREEDY)
        height, width, _ = scaled.images[0].shape
        assert height < 200
        assert width / height == pytest.approx(1.5, rel=0.05)
        assert policy.collator()([scaled]).input_ids.shape[1] <= limit
        assert asked(policy, [photo], "Which?", GREEDY).text
        with pytest.raises(ConfigError, match=r"longer than policy\.max_prompt_tokens allows"):
            question_for(policy, [photo], "Which? " * limit, GREEDY)


def test_prompt_and_answer_fit_the_context(tiny_qwen_folder: Path) -> None:
    policy = open_policy(str(tiny_qwen_folder))
    context = policy.network.config.get_text_config().max_position_embeddings
    long = SamplingSettings(max_new_tokens=context - 50, temperature=0.0)
    with pytest.raises(ConfigError, match="prompt and completion are longer than the model's"):
        question_for(policy, random_question(1).images, "Which?", long)


def test_a_base_in_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, its exports and a base with an adapter: each as it would be trained with QLoRA."""
    base = write_wide_qwen(tmp_path / "base")
    run = write_run(tmp_path / "run", {"model": str(base), "lora": {"rank": 4}})
    write_adapter(base, run / "policy")
    export_run(run, tmp_path / "adapter", "adapter")
    export_run(run, tmp_path / "merged", "merged")
    pictures, settings = random_question(1).images, QuantSettings()
    wanted = HFVisionLanguagePolicy(str(base), adapter=run / "policy", quantization=settings)
    wanted.load()
    said = asked(wanted, pictures, "Which?", GREEDY)
    for name, adapter in ((run, None), (tmp_path / "adapter", None), (base, run / "policy")):
        policy = open_policy(str(name), adapter, quantization=settings)
        assert any(type(module).__name__ == "Linear4bit" for module in policy.network.modules())
        assert asked(policy, pictures, "Which?", GREEDY) == said
    merged = open_policy(str(tmp_path / "merged"), quantization=settings)
    assert any(type(module).__name__ == "Linear4bit" for module in merged.network.modules())
    asked(merged, pictures, "Which?", GREEDY)

    whole = write_run(tmp_path / "whole", {"model": str(base)})
    torch.save({"policy": {}}, whole / "last.ckpt")
    with pytest.raises(ConfigError, match=r"holds every weight.*export the run with --merge"):
        open_policy(str(whole), quantization=settings)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"bitsandbytes cannot be imported .* do without 4 bits"):
        open_policy(str(base), quantization=settings)
