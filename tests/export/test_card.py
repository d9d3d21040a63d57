"""The model card says where a model comes from, what it learned from, and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from spatial_ssrl.data.curated import SetPart, SetPlan, make_set
from spatial_ssrl.export.base_model import BaseModel, base_of
from spatial_ssrl.export.card import Made, model_card
from spatial_ssrl.export.results import last_values
from spatial_ssrl.export.runs import Run, open_run
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.policies.base import Collator
from spatial_ssrl.policies.collate import PromptCollator
from spatial_ssrl.tasks import DepthOrder, FlippedPatch
from support.saved_runs import write_run
from support.tiny_models import random_question

HUB = BaseModel("Qwen/Qwen2.5-VL-3B-Instruct", "66285546d2b8", "qwen-research")


def run_of(folder: Path, policy: dict[str, Any] | None = None, **more: Any) -> Run:
    write_run(folder, policy or {"model": HUB.name, "max_pixels": 524288}, **more)
    (folder / "policy").mkdir()
    (folder / "policy" / "adapter_config.json").touch()
    return open_run(folder)


def card(run: Run, kind: Any = "merged", base: BaseModel = HUB) -> str:
    model = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLForConditionalGeneration"
    return model_card(run, Made(kind, base, model, "bfloat16", "Checked.", {"torch": "2.14.1"}))


def header(text: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return content


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    found = header(card(run))
    assert found["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert found["base_model_relation"] == "finetune"
    assert (found["library_name"], found["license"]) == ("transformers", "qwen-research")
    assert found["pipeline_tag"] == "image-text-to-text"
    found = header(card(run, "adapter"))
    assert (found["library_name"], found["base_model_relation"]) == ("peft", "adapter")


def test_the_text_says_what_a_reader_needs(tmp_path: Path) -> None:
    text = card(run_of(tmp_path / "run"), "adapter")
    for said in (
        "PEFT adapter of `Qwen/Qwen2.5-VL-3B-Instruct` at revision `66285546d2b8`",
        "Licence of the base model: qwen-research.",
        'from_pretrained("Qwen/Qwen2.5-VL-3B-Instruct", revision="66285546d2b8")',
        "Pictures were scaled to at most 524,288 pixels.",
        "First think inside <think> </think>, then give the final answer in \\boxed{}.",
        "group_size: 4",
        "max_steps: 5",
        "with torch 2.14.1.",
    ):
        assert said in text


@pytest.mark.parametrize(("kind", "lora"), [("merged", None), ("adapter", LoraSettings(rank=4))])
def test_code_in_the_card_loads_what_was_trained(
    kind: str, lora: LoraSettings | None, tmp_path: Path, tiny_qwen_folder: Path
) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=lora)
    policy.load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable_state().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    policy.save(tmp_path / "export")

    code = card(run_of(tmp_path / "run"), kind).split("```python\n")[1].split("```")[0]
    for name, folder in ((HUB.name, tiny_qwen_folder), ("FOLDER", tmp_path / "export")):
        code = code.replace(name, str(folder))
    found: dict[str, Any] = {}
    exec(code, found)

    def logits(model: nn.Module, collate: Collator) -> Tensor:
        prompt = collate([random_question(2)])
        with torch.no_grad():
            out: Tensor = model(input_ids=prompt.input_ids, **prompt.vision).logits
        return out

    loaded = logits(found["model"], PromptCollator(found["processor"]))
    torch.testing.assert_close(loaded, logits(policy.model, policy.collator()))


def test_paths_of_this_machine_stay_here(tmp_path: Path) -> None:
    local = BaseModel(str(tmp_path / "secret" / "my-model"))
    (tmp_path / "secret" / "my-model").mkdir(parents=True)
    images = {"class_path": "spatial_ssrl.images.ImageFolder"}
    data = {
        "class_path": "spatial_ssrl.data.PretextDataModule",
        "init_args": {
            "images": [images | {"init_args": {"folder": str(tmp_path / "photos"), "size": 512}}],
            "tasks": [{"class_path": "spatial_ssrl.tasks.FlippedPatch"}],
        },
    }
    run = run_of(tmp_path / "run", {"model": local.name}, data=data)
    text = card(run, base=local)
    assert str(tmp_path) not in text
    assert "Weights of `my-model`, trained" in text
    assert "Licence of the base model: see base model." in text
    assert "base_model" not in header(text)
    assert "license" not in header(text)
    assert "Pictures: `ImageFolder(folder: photos, size: 512)`." in text
    assert "Tasks: `FlippedPatch`." in text


def test_a_curated_set_is_described_by_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "sets" / "drawn"
    part = SetPart([SyntheticScenes(count=8, size=64)], [FlippedPatch(), DepthOrder()], 6)
    manifest = make_set(SetPlan([part]), folder)
    data = {"class_path": "PretextDataModule", "init_args": {"curated": str(folder)}}
    text = card(run_of(tmp_path / "run", data=data))
    assert "The set `drawn` of 6 questions (depth_order 3, flipped_patch 3)" in text
    assert f"content hash `{manifest['content']}`" in text
    for licence, count in manifest["licences"].items():
        assert f"| {licence or 'not stated by the source'} | {count} |" in text
    (folder / "manifest.json").unlink()
    text = card(run_of(tmp_path / "second", data=data))
    assert "The set `drawn`, whose manifest was not at hand." in text


def test_results_are_the_last_of_both_kinds_of_log(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert last_values(run.folder) == {}
    assert "## Results" not in card(run)
    logs = run.folder / "lightning_logs"
    for version, start in (("version_0", 0), ("version_1", 50)):  # Gone on with at step 50.
        with SummaryWriter(str(logs / version)) as writer:
            for step in (start + 10, start + 40):
                writer.add_scalar("val/accuracy/depth_order", step / 100, step)
                writer.add_scalar("train/lr", 1.0, step)
    (run.folder / "metrics.csv").write_text(
        "step,test/accuracy,train/reward\n3,,0.25\n90,0.75,\n80,0.5,\n7,,0.5\n"
    )
    assert last_values(run.folder) == {
        "test/accuracy": (90, 0.75),
        "train/reward": (7, 0.5),
        "val/accuracy/depth_order": (90, pytest.approx(0.9)),
    }
    assert "| val/accuracy/depth_order | 0.9 | 90 |" in card(run)


def test_what_is_known_of_a_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_of({"init_args": {"model": None}}) == BaseModel("")
    folder = tmp_path / "model"
    folder.mkdir()
    assert base_of({"init_args": {"model": str(folder)}}) == BaseModel(str(folder))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\n---\n# Model\n")
    assert base_of({"init_args": {"model": str(folder)}}).licence == "gemma"
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert base_of({"init_args": {"model": str(folder)}}).licence == ""

    cached = tmp_path / "hub" / "models--me--model"
    snapshot = cached / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abc")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = {"init_args": {"model": "me/model", "revision": "main"}}
    assert base_of(settings) == BaseModel("me/model", "0123abc", "apache-2.0")
    elsewhere = base_of(settings, moved="you/other")
    assert (elsewhere.name, elsewhere.revision, elsewhere.licence) == ("you/other", "", "")
