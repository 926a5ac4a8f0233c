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


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a shell script in a Slurm command's place, for answers that a real one can't be made to give on demand."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def put(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    put("scontrol", "echo MaxArraySize = 1001")
    put("sacct", "exit 1")
    put("srun", "exit 0")
    return put
