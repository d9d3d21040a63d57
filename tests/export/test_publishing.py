"""Nothing is uploaded unless everything can be; asked of a small server in place of the hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import check_can_push, push

TOKEN = "hf_" + "x" * 34


class Hub(BaseHTTPRequestHandler):
    """Knows one token and one account; keeps what is committed."""

    committed: list[bytes] = []  # noqa: RUF012 (shared by all requests)

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid user token."})
        else:
            self._answer(200, {"name": "me", "auth": {"accessToken": {"displayName": "x"}}})

    def do_POST(self) -> None:
        body = self._body()
        if "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            modes = [{"path": path, **regular} for path in files]
            self._answer(200, {"files": modes})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/commit/" in self.path and "me/model" in self.path:
            self.committed.append(body)
            address = f"{constants.ENDPOINT}/me/model/commit/abc"
            self._answer(200, {"commitUrl": address, "commitOid": "abc"})
        elif self.path == "/api/repos/create" and b"private" in body:
            name = json.loads(body)["name"]
            self._answer(200, {"url": f"{constants.ENDPOINT}/me/{name}"})
        else:
            self._answer(403, {"error": "Not yours."})

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub client try, without a token of the machine's user."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")


@pytest.fixture
def hub(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    Hub.committed.clear()
    yield Hub
    server.shutdown()


def test_offline_and_names_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="push: HF_HUB_OFFLINE is set; unset it"):
        check_can_push("me/model")
    with pytest.raises(ConfigError, match=r"push: .*'me/my model'"):
        check_can_push("me/my model")


def test_without_a_token(online: None) -> None:
    with pytest.raises(ConfigError, match="push: there is no token; log in with `hf auth login`"):
        check_can_push("me/model")


def test_a_token_that_is_refused(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match=r"push: http.* cannot be used .*check the connection"):
        check_can_push("me/model")


def test_an_upload(hub: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "README.md").write_text("a card of this export")
    check_can_push("me/model")
    assert not hub.committed
    assert push(tmp_path, "me/model").endswith("/me/model/commit/abc")
    (commit,) = hub.committed
    paths = [json.loads(line)["value"].get("path") for line in commit.splitlines()]
    assert "README.md" in paths


def test_an_upload_that_is_refused_keeps_the_folder(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(ConfigError, match=r"upload to 'you/theirs' failed .*the export is whole"):
        push(tmp_path, "you/theirs")
    assert (tmp_path / "README.md").is_file()
