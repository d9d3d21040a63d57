from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.policies.weights import restore, trainable_tensors, write_folder


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))


def test_statistics_of_trained_layers_are_kept_and_of_frozen_ones_not() -> None:
    model = network()
    model[2].requires_grad_(False)
    model[3].requires_grad_(False)
    assert set(trainable_tensors(model)) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_tied_weights_are_kept_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert set(trainable_tensors(model)) == {"0.weight"}


def test_restored_network_behaves_as_the_saved_one() -> None:
    torch.manual_seed(0)
    model, other = network(), network()
    for _ in range(3):
        model(torch.randn(8, 2))
    restore(trainable_tensors(other), trainable_tensors(model))
    x = torch.randn(4, 2)
    assert torch.equal(model.eval()(x), other.eval()(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.pop("0.bias"), r"lacks 1 tensors \(the first is '0\.bias'\)"),
        (lambda saved: saved.update(x=torch.zeros(1)), "does not train, 1 tensors .*'x'"),
        (lambda saved: saved.update({"0.bias": torch.zeros(3)}), "in another shape 1 tensors"),
    ],
)
def test_checkpoint_of_another_policy_is_refused(change: object, message: str) -> None:
    model = network()
    saved = {name: tensor.clone() for name, tensor in trainable_tensors(model).items()}
    change(saved)
    with pytest.raises(ConfigError, match=message):
        restore(trainable_tensors(model), saved)


def test_frozen_batch_statistics_stay_in_training_mode(tiny_qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    frozen, trained = nn.BatchNorm1d(2).requires_grad_(False), nn.BatchNorm1d(2)
    policy.network.add_module("frozen", frozen)
    policy.network.add_module("trained", trained)
    policy.train()
    assert policy.training
    assert trained.training
    assert not frozen.training


def policy_folder(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "policy"
    write_folder(target, lambda folder: policy_folder(folder, "first"))
    (target / "old.txt").touch()
    write_folder(target, lambda folder: policy_folder(folder, "second"))
    assert [file.name for file in target.iterdir()] == ["config.json"]
    assert (target / "config.json").read_text() == "second"
    assert [folder.name for folder in target.parent.iterdir()] == ["policy"]


def test_failed_write_leaves_the_former_folder(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    write_folder(target, lambda folder: policy_folder(folder, "first"))

    def fail(folder: Path) -> None:
        policy_folder(folder, "part")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(target, fail)
    assert (target / "config.json").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_kill_left_behind_is_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    write_folder(target, lambda folder: policy_folder(folder, "first"))
    (tmp_path / ".policy.new").mkdir()
    (tmp_path / ".policy.new" / "half").touch()
    # Killed between the two renames: the former folder has only its other name.
    target.rename(tmp_path / ".policy.old")

    def fail(folder: Path) -> None:
        assert list(folder.iterdir()) == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(target, fail)
    assert (target / "config.json").read_text() == "first"
    write_folder(target, lambda folder: policy_folder(folder, "second"))
    assert list(tmp_path.iterdir()) == [target]


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(ConfigError, match="holds files that are no saved policy"):
        write_folder(tmp_path / "photos", lambda folder: policy_folder(folder, "x"))
    with pytest.raises(ConfigError, match="is a file"):
        write_folder(tmp_path / "photos" / "cat.png", lambda folder: None)
    assert (tmp_path / "photos" / "cat.png").is_file()


def test_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/policy cannot be written: "):
        write_folder(tmp_path / "file" / "policy", lambda folder: None)


def test_saved_folder_has_usual_permissions(tmp_path: Path) -> None:
    write_folder(tmp_path / "policy", lambda folder: policy_folder(folder, "x"))
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "policy").stat().st_mode == (tmp_path / "plain").stat().st_mode
