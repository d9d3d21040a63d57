from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen2Config, Qwen2ForCausalLM

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from support.tiny_models import tiny_model, tiny_processor


def message_of(model: str) -> str:
    with pytest.raises(ConfigError) as caught:
        HFVisionLanguagePolicy(model).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", ""])
def test_folder_that_is_not_there(model: str) -> None:
    assert f"there is no folder {model!r}" in message_of(model)


def test_hub_id_without_network(tmp_path: Path) -> None:
    message = message_of("nobody/nothing-3B")
    assert message.startswith("model: 'nobody/nothing-3B' is not a folder here, not in the cache (")
    assert "HF_HUB_OFFLINE is set" in message


def test_folder_without_a_model(tmp_path: Path) -> None:
    assert "holds no config.json" in message_of(str(tmp_path))


def test_text_only_model(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    assert "is a 'qwen2' model, which does not turn pictures and text into text" in message_of(
        str(tmp_path)
    )


def copy_without(source: Path, target: Path, *names: str) -> str:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names))
    return str(target)


@pytest.fixture
def no_weights_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be known without weights must be said before they are loaded."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("weights were loaded first")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", refuse)


@pytest.mark.usefixtures("no_weights_loaded")
def test_missing_processor(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "*processor*")
    said = message_of(folder)
    assert said.startswith(f"model: the processor of {folder!r} could not be loaded: ")
    assert said.endswith("; save the processor and tokenizer of the base model into the folder")


@pytest.mark.usefixtures("no_weights_loaded")
def test_missing_tokenizer(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "tokenizer*")
    assert f"the tokenizer of {folder!r} knows no words (no tokenizer.json" in message_of(folder)


@pytest.mark.usefixtures("no_weights_loaded")
def test_missing_chat_template(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "chat_template*")
    assert "has no chat template" in message_of(folder)


def test_missing_weights(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "*.safetensors")
    said = message_of(folder)
    assert said.startswith(f"model: the weights of {folder!r} could not be loaded: ")
    assert said.endswith("; copy or download them into the folder.")


@pytest.mark.usefixtures("no_weights_loaded")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is damaged or was cut off (Error while deserializing header"),
        (b"", "is damaged or was cut off ("),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_damaged_weights(
    tiny_qwen_folder: Path, tmp_path: Path, content: bytes | None, said: str
) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    message = message_of(folder)
    assert message.startswith(f"model: {file} is ")
    assert said in message


@pytest.mark.usefixtures("no_weights_loaded")
def test_missing_shard(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "*.safetensors")
    tiny_model(tiny_processor()).save_pretrained(folder, max_shard_size="60KB")
    shards = sorted(Path(folder).glob("model-*.safetensors"))
    assert len(shards) > 3
    for shard in shards[1:3]:
        shard.unlink()
    said = f"model: 2 of {len(shards)} files with weights are missing from {folder!r}, the first"
    assert message_of(folder).startswith(f"{said} is {shards[1].name}; ")


def test_weights_that_are_saved_in_part_are_not_made_up(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    gone = sorted(name for name in tensors if "visual.blocks.1" in name)
    assert len(gone) > 2
    save_file({k: v for k, v in tensors.items() if k not in gone}, file, metadata={"format": "pt"})
    assert f"the weights of {folder!r} lack {len(gone)} tensors" in message_of(folder)


def test_weights_of_another_shape(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    settings = json.loads(config.read_text())
    settings["text_config"]["intermediate_size"] = 64
    config.write_text(json.dumps(settings))
    # Three matrices in each of two layers.
    assert "have in another shape 6 tensors that its config.json asks for" in message_of(folder)


@pytest.mark.usefixtures("no_weights_loaded")
def test_configuration_that_is_no_json(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{")
    assert message_of(folder).startswith(f"model: {folder}/config.json cannot be read as JSON (")


@pytest.mark.usefixtures("no_weights_loaded")
def test_code_of_its_own_is_run_only_when_asked_for(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    settings = json.loads(config.read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MyConfig"}}
    config.write_text(json.dumps(settings))
    (tmp_path / "m" / "configuration_mine.py").write_text(
        "from pathlib import Path\nfrom transformers import Qwen2_5_VLConfig\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class MyConfig(Qwen2_5_VLConfig):\n    model_type = 'mine'\n"
    )
    assert "if you trust its authors, set trust_remote_code: true" in message_of(folder)
    assert not (tmp_path / "ran").exists()


# Adapters.


@pytest.fixture(scope="module")
def adapter_folder(tiny_qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    folder = tmp_path_factory.mktemp("saved") / "adapter"
    policy.save(folder)
    return folder


@pytest.mark.usefixtures("no_weights_loaded")
def test_an_adapter_given_as_model(adapter_folder: Path) -> None:
    said = message_of(str(adapter_folder))
    assert said.startswith(f"model: folder {str(adapter_folder)!r} holds an adapter, not a model; ")
    assert "give it as `adapter`" in said


def adapter_message(model: Path, adapter: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        HFVisionLanguagePolicy(str(model), adapter=adapter).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("no_weights_loaded")
def test_a_model_given_as_adapter(tiny_qwen_folder: Path) -> None:
    said = adapter_message(tiny_qwen_folder, tiny_qwen_folder)
    assert f"adapter: folder {str(tiny_qwen_folder)!r} holds a whole model, not an adapter" in said


@pytest.mark.usefixtures("no_weights_loaded")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", b"{", "cannot be read as JSON"),
        ("adapter_config.json", None, "holds no adapter_config.json; name a folder on this mach"),
        ("adapter_model.safetensors", b"zz", "is damaged or was cut off ("),
        ("adapter_model.safetensors", None, "holds no weights (looked for adapter_model.safetens"),
    ],
)
def test_an_adapter_that_is_not_whole(
    tiny_qwen_folder: Path,
    adapter_folder: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    copy_without(adapter_folder, tmp_path / "a", name)
    if content is not None:
        (tmp_path / "a" / name).write_bytes(content)
    message = adapter_message(tiny_qwen_folder, tmp_path / "a")
    assert message.startswith(f"adapter: {tmp_path / 'a'}")
    assert said in message


# The hub, as its real client meets it: a server on this machine that answers as it does.

_REFUSALS = {
    "gated/model": (403, "GatedRepo"),
    "nobody/nothing": (404, "RepoNotFound"),
    "some/model": (404, "RevisionNotFound"),
    "some/data": (404, "EntryNotFound"),
    "down/model": (503, ""),
    "cached/config": (404, "EntryNotFound"),
}

_ASKING = """
import json, sys
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.hub import ModelSource
said = {}
for model in sys.argv[1:]:
    try:
        ModelSource(model, revision="v9" if model == "some/model" else None).build_processor()
    except ConfigError as error:
        said[model] = str(error)
json.dump(said, sys.stdout)
"""


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        repository = "/".join(self.path.split("/")[1:3])
        status, code = _REFUSALS.get(repository, (404, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "as the hub says it")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


def test_what_the_hub_refuses(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "home" / "hub"
    cached = cache / "models--cached--config"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    shutil.copy(tiny_qwen_folder / "config.json", cached / "snapshots" / ("0" * 40))
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    hub = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-c", _ASKING, *_REFUSALS]
    try:
        done = subprocess.run(
            words, env=os.environ | hub, capture_output=True, text=True, check=True, timeout=300
        )
    finally:
        server.shutdown()
        server.server_close()
    said = json.loads(done.stdout)
    assert all("\n" not in text for text in said.values())
    assert said.keys() == _REFUSALS.keys()
    partial = said.pop("cached/config")
    assert partial.startswith("model: the processor of 'cached/config' could not be loaded: ")
    assert partial.endswith(f"; looked in the cache ({cache}) and at {endpoint}.")
    assert all(f"cannot be had from {endpoint} (" in text for text in said.values())
    assert all(f"not in the cache ({cache})" in text for text in said.values())
    for model, remedy in {
        "gated/model": "(access to it is gated); accept its conditions on its page there, and log",
        "nobody/nothing": "(there is no such repository, or it is private); check the name",
        "some/model": "(it has no revision 'v9'); correct `revision`, or leave it out.",
        "some/data": "(it holds no config.json); name a repository that transformers can load.",
        "down/model": "); check the connection, or the name.",
    }.items():
        assert remedy in said[model]


def test_unknown_architecture(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    settings = json.loads(config.read_text()) | {"model_type": "not_invented_yet"}
    config.write_text(json.dumps(settings))
    assert "not_invented_yet" in message_of(folder)
