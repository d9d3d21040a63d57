"""A JSON file is there whole, or the one before it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spatial_ssrl.core.files import write_json


def test_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"run": 1})
    with pytest.raises(TypeError):
        write_json(path, {"run": object()})
    assert json.loads(path.read_text()) == {"run": 1}

    def full_disk(self: Path, text: str, **kwargs: object) -> int:
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"run": 2})
    assert json.loads(path.read_text()) == {"run": 1}
