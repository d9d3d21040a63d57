"""What a run learned leaves by the command line, and plain transformers and peft find it again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from spatial_ssrl.cli import fit
from spatial_ssrl.cli.main import main
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.export import verify_checksums
from spatial_ssrl.policies import HFVisionLanguagePolicy
from spatial_ssrl.prompts import full_prompt
from support.four_bits import write_wide_qwen
from support.oracles import plain_logprobs, random_completions, rollouts_of
from support.run_files import RunFile
from support.saved_runs import write_adapter, write_run
from support.tiny_models import random_question, write_tiny
from support.tiny_vlm import loud_policy

POLICY = "model.init_args.policy"
CASES = ("qwen2_5_vl", "llava", "qlora")
KINDS = ("merge", "adapter")


@dataclass(frozen=True)
class Trained:
    """A run of two real steps, and the policy that came out of it."""

    run: Path
    base: Path
    policy: HFVisionLanguagePolicy


def train(folder: Path, base: Path, policy: dict[str, Any], *args: str) -> Trained:
    """Train two steps large enough to move every log-probability."""
    run_file = RunFile(folder)
    run_file.set(POLICY, policy)
    run_file.set(
        "model.init_args.optimizer", {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.02}}
    )
    run_file.set("trainer.callbacks", [{"class_path": "AdapterCheckpoint"}])
    cli = fit.run(["fit", "-c", run_file.write(), *args])
    return Trained(folder / "run", base, cli.model.policy)


def on(base: Path, **settings: Any) -> dict[str, Any]:
    """Return a policy of a saved model, as a config names it."""
    arguments = {"model": str(base), "lora": {"rank": 4, "alpha": 8}, **settings}
    return {"class_path": "HFVisionLanguagePolicy", "init_args": arguments}


def export(trained: Trained, kind: str, out: Path, *args: str) -> Path:
    assert main(["export", "--run", str(trained.run), f"--{kind}", "--out", str(out), *args]) == 0
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """A run of each case; one of them over weights in 4 bits."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    for case in CASES:
        base = folder / f"base-{case}"
        if case == "qlora":
            write_wide_qwen(base)
        else:
            write_tiny(base, case)
        quantised = {"quantization": {}} if case == "qlora" else {}
        (folder / case).mkdir()
        runs[case] = train(folder / case, base, on(base, **quantised))
    return runs


@pytest.fixture(scope="module")
def found(
    trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """What plain transformers and peft make of every export, in a process without this library."""
    folder = tmp_path_factory.mktemp("exports")
    jobs = {}
    for case, run in trained.items():
        for kind in KINDS:
            out = export(run, kind, folder / f"{case}-{kind}")
            jobs[f"{case}-{kind}"] = job(run, out, kind)
    torch.save(jobs, folder / "jobs.pt")
    script = Path(__file__).parents[1] / "support" / "plain_scores.py"
    command = [sys.executable, str(script), str(folder / "jobs.pt"), str(folder / "scores.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    scores: dict[str, torch.Tensor] = torch.load(folder / "scores.pt")
    return scores


def question() -> Question:
    return random_question(2)


def job(run: Trained, out: Path, kind: str) -> dict[str, Any]:
    """Return what `support/plain_scores.py` is to score: the question as a chat turn."""
    asked = question()
    pieces = full_prompt(asked).split("<image>")
    content: list[dict[str, str]] = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
    for piece in pieces[1:]:
        content += [{"type": "image"}, {"type": "text", "text": piece}]
    width = run.policy.network.get_output_embeddings().weight.shape[1]
    tokens, _ = random_completions(run.policy, 1)
    return {
        "folder": str(out),
        "base": str(run.base) if kind == "adapter" else None,
        "chat": [{"role": "user", "content": content}],
        "pictures": list(asked.images),
        "tokens": tokens[0],
        "banned": run.policy.logits(torch.zeros(1, width))[0].isinf().nonzero()[:, 0].tolist(),
    }


@torch.no_grad()
def scored(policy: HFVisionLanguagePolicy) -> torch.Tensor:
    """Return the policy's own log-probabilities of the job's tokens."""
    tokens, mask = random_completions(policy, 1)
    return policy.logprobs(policy.collator()([question()]), rollouts_of(tokens, mask, 1))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["qwen2_5_vl", "llava"])
def test_plain_libraries_agree_with_the_policy(
    case: str, kind: str, trained: dict[str, Trained], found: dict[str, torch.Tensor]
) -> None:
    run = trained[case]
    expected = scored(run.policy)
    torch.testing.assert_close(found[f"{case}-{kind}"], expected, atol=1e-5, rtol=0)
    base = HFVisionLanguagePolicy(str(run.base))
    base.load()
    assert (scored(base) - expected).abs().max() > 0.05  # Training moved what is compared.


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_over_four_bits_is_put_on_full_precision(
    kind: str, trained: dict[str, Trained], found: dict[str, torch.Tensor]
) -> None:
    run = trained["qlora"]
    over_full = HFVisionLanguagePolicy(str(run.base), adapter=run.run / "policy")
    over_full.load()
    torch.testing.assert_close(found[f"qlora-{kind}"], scored(over_full), atol=1e-5, rtol=0)
    # The weights it was trained beside are others, so this is not the comparison by chance.
    assert (scored(run.policy) - scored(over_full)).abs().max() > 1e-3


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of a TinyVLM, whose class transformers does not bring."""
    folder = tmp_path_factory.mktemp("tiny-vlm")
    base = folder / "base"
    loud_policy().save(base)
    policy = {"class_path": "TinyVLM", "init_args": {"model": str(base), "lora": {"rank": 4}}}
    return train(folder, base, policy)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_vlm_by_its_own_class_in_plain_transformers(
    kind: str, tiny_vlm: Trained, tmp_path: Path
) -> None:
    run, base = tiny_vlm, tiny_vlm.base
    out = export(run, kind, tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(base if kind == "adapter" else out)
    plain = PeftModel.from_pretrained(model, str(out)) if kind == "adapter" else model
    prompts = run.policy.collator()([question()])
    tokens, _ = random_completions(run.policy, 1)
    width = run.policy.network.get_output_embeddings().weight.shape[1]
    banned = run.policy.logits(torch.zeros(1, width))[0].isinf().nonzero()[:, 0].tolist()
    with torch.no_grad():
        theirs = plain_logprobs(plain.eval(), prompts, tokens[0], banned)
    torch.testing.assert_close(theirs, scored(run.policy), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that trained every weight of a TinyVLM built from scratch."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder, folder, {"class_path": "TinyVLM", "init_args": {"image_size": 32}})


def test_a_run_that_trained_every_weight(
    whole: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export(whole, "merge", tmp_path / "out")
    again = HFVisionLanguagePolicy(str(out))
    again.load()
    torch.testing.assert_close(scored(again), scored(whole.policy), atol=1e-5, rtol=0)
    capsys.readouterr()
    words = ["export", str(whole.run), "--adapter", "--out", str(tmp_path / "adapter")]
    assert main(words) == 2
    assert "trained every weight, so there is no adapter" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


def test_sha256sum_accepts_the_files_and_finds_a_flipped_bit(
    whole: Trained, tmp_path: Path
) -> None:
    out = export(whole, "merge", tmp_path / "out")

    def sha256sum() -> int:
        return subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, capture_output=True
        ).returncode

    assert sha256sum() == 0
    listed = (out / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in listed} | {"SHA256SUMS"} == {
        path.name for path in out.iterdir()
    }
    assert verify_checksums(out) == len(listed)
    weights = out / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert sha256sum() == 1
    with pytest.raises(ConfigError, match=r"model\.safetensors' is not what was written"):
        verify_checksums(out)


def test_an_earlier_export_is_replaced_and_nothing_else(
    whole: Trained, tmp_path: Path, refused: Refused
) -> None:
    out = export(whole, "merge", tmp_path / "out")
    (out / "stale.txt").touch()
    export(whole, "merge", out)
    assert not (out / "stale.txt").exists()
    assert list(tmp_path.iterdir()) == [out]

    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "config.json").write_text("{}")  # Such as any model has.
    run = str(whole.run)
    said = refused("export", run, "--merge", "--out", str(photos))
    assert "photos' holds files that are no earlier export; name an empty or a new folder." in said
    said = refused("export", run, "--merge", "--out", str(photos / "config.json"))
    assert "is a file; name a folder" in said
    assert [path.name for path in photos.iterdir()] == ["config.json"]


def test_a_difference_above_the_tolerance_leaves_nothing(
    trained: dict[str, Trained], tmp_path: Path, refused: Refused
) -> None:
    run, out = str(trained["llava"].run), tmp_path / "out"
    said = refused("export", run, "--merge", "--out", str(out), "--tolerance", "1e-9")
    assert "The merged weights would not be the trained policy: log-probabilities of" in said
    assert "more than tolerance = 1e-09. Nothing was written." in said
    assert not list(tmp_path.iterdir())


def test_what_is_exported_cannot_be_replaced_by_it(
    trained: dict[str, Trained], tmp_path: Path, refused: Refused
) -> None:
    """An export may become the base of another run, whose export must not overwrite it."""
    base = export(trained["llava"], "merge", tmp_path / "base")
    second = write_run(tmp_path / "second", {"model": str(base), "lora": {"rank": 4}})
    write_adapter(base, second / "policy")
    said = refused("export", str(second), "--merge", "--out", str(base))
    assert "is what the export is made from; name another." in said
    assert verify_checksums(base)


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail politely; returns what it says."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(list(words)) == 2
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("spatial-ssrl: error: ")]
        assert len(errors) == 1
        return errors[0]

    return run


class TestStoppedRuns:
    """Runs that were killed: before, between and after the first weights were written."""

    @pytest.fixture(scope="class")
    @classmethod
    def stopped(cls, tmp_path_factory: pytest.TempPathFactory) -> Trained:
        """A run stopped in its third step, with two checkpoints and no saved policy."""
        tmp_path = tmp_path_factory.mktemp("stopped")
        base = write_tiny(tmp_path / "base", "llava")
        run_file = RunFile(tmp_path)
        run_file.set(POLICY, on(base))
        run_file.set("trainer.enable_checkpointing", True)
        run_file.set("trainer.max_steps", 4)
        saver = {"dirpath": str(tmp_path / "run" / "checkpoints"), "every_n_train_steps": 1}
        run_file.set(
            "trainer.callbacks",
            [
                {"class_path": "ModelCheckpoint", "init_args": saver | {"save_top_k": -1}},
                {
                    "class_path": "support.callbacks.KeepEveryAdapter",
                    "init_args": {"directory": str(tmp_path / "kept")},
                },
                {"class_path": "support.callbacks.InterruptAt", "init_args": {"step": 3}},
            ],
        )
        assert main(["fit", "-c", run_file.write()]) == 130
        return Trained(tmp_path / "run", base, HFVisionLanguagePolicy(str(base)))

    def test_the_newest_checkpoint_or_the_one_asked_for(
        self, stopped: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = sorted((stopped.run / "checkpoints").glob("*.ckpt"))
        # What a kill leaves behind is no checkpoint and no policy.
        second.with_name("last.ckpt.new").write_bytes(second.read_bytes()[:100])
        (stopped.run / ".policy.x1y2").mkdir()
        for step, checkpoint in ((2, ()), (1, ("--checkpoint", str(first)))):
            out = export(stopped, "merge", tmp_path / f"out-{step}", *checkpoint)
            assert f"made from {(second, first)[step == 1]}" in capsys.readouterr().out
            kept = HFVisionLanguagePolicy(
                str(stopped.base), adapter=stopped.run.parent / "kept" / str(step)
            )
            merged = HFVisionLanguagePolicy(str(out))
            kept.load()
            merged.load()
            torch.testing.assert_close(scored(merged), scored(kept), atol=1e-5, rtol=0)

    def test_a_checkpoint_that_was_cut_off(
        self, stopped: Trained, tmp_path: Path, refused: Refused
    ) -> None:
        run = tmp_path / "run"
        shutil.copytree(stopped.run, run)
        words = ("export", str(run), "--merge", "--out", str(tmp_path / "out"))
        for checkpoint in (run / "checkpoints").glob("*.ckpt"):
            checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        said = refused(*words)
        assert "is not a checkpoint, or was cut off while it was written; take another" in said
        for checkpoint in (run / "checkpoints").glob("*.ckpt"):
            checkpoint.unlink()
        said = refused(*words)
        assert "holds neither a saved policy (AdapterCheckpoint writes one) nor a check" in said
        assert not (tmp_path / "out").exists()


def test_weights_that_were_cut_off(
    trained: dict[str, Trained], tmp_path: Path, refused: Refused
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained["llava"].run, run)
    saved = run / "policy" / "adapter_model.safetensors"
    saved.write_bytes(saved.read_bytes()[:-100])
    said = refused("export", str(run), "--merge", "--out", str(tmp_path / "out"))
    assert "adapter_model.safetensors" in said
    assert "was cut off (" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--merge"], "no value for run and out; give it as an option or in a file"),
        (["RUN", "--out", "OUT"], "say what to export, either --merge (a whole model) or --ada"),
        (["RUN", "--out", "OUT", "--merge", "--adapter"], "say what to export, either --merge"),
        (["nowhere", "--out", "OUT", "--merge"], "run: there is no folder 'nowhere'."),
        (["EMPTY", "--out", "OUT", "--merge"], "holds no config.yaml of a run; name the folder"),
        (["SEVERAL", "--out", "OUT", "--merge"], "holds 3 runs ("),
        (
            ["RUN", "--out", "OUT", "--merge", "--checkpoint", "no.ckpt"],
            "checkpoint: there is no file 'no.ckpt'.",
        ),
        (
            ["RUN", "--out", "OUT", "--adapter", "--dtype", "bfloat16"],
            "dtype: an adapter stays in float32, as it was trained; leave dtype out.",
        ),
        (
            ["RUN", "--out", "OUT", "--merge", "--tolerance", "0"],
            "tolerance must be above 0, got 0.0.",
        ),
        (
            ["RUN", "--out", "OUT", "--merge", "--base", "no/model/there"],
            "there is no folder 'no/model/there'",
        ),
        (["RUN", "--out", "OUT", "--merge", "--push", "a/b/c"], "push: Repo id must be in the fo"),
        (
            ["RUN", "--out", "OUT", "--merge", "--push", "me/model"],
            "push: HF_HUB_OFFLINE is set; unset it, or leave push out.",
        ),
    ],
)
def test_what_cannot_be_exported(
    words: list[str],
    said: str,
    trained: dict[str, Trained],
    tmp_path: Path,
    refused: Refused,
) -> None:
    run = trained["llava"].run
    (tmp_path / "empty").mkdir()
    places = {"RUN": run, "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    places["SEVERAL"] = run.parents[1]
    spelled = [str(places.get(word, word)) for word in words]
    assert said in refused("export", *spelled)
    assert not (tmp_path / "out").exists()
