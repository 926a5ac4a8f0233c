"""Fixtures shared by the tests of dispatch."""

from __future__ import annotations

import pytest


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an ``nvidia-smi`` on PATH that says this and ends so."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(says: str, code: int = 0, seconds: float = 0) -> None:
        script = folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{says}END\nexit {code}\n")
        script.chmod(0o755)

    return make
