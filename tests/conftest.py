"""Fixtures shared by all tests: the command line, scripted models, small specs, and a real cluster.

Real multi-node Slurm and a real Apptainer image are started once for all tests that ask for them. On a machine that has
neither those tests are skipped and say so; ``AGENTTTS_REQUIRE_CLUSTER=1`` makes that a failure.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


CACHE = Path(os.environ.get("AGENTTTS_TEST_CACHE", ROOT / ".cache"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real small LLM that ships in a Python package, converted once."""
    from agenttts.inference.packaged_models import prepare

    return prepare("smollm2-135m-instruct", CACHE / "models" / "smollm2-135m-instruct")


@pytest.fixture
def cli(tmp_path):
    """Run ``agenttts-hpc`` as a user would, in an empty directory; results go to ``tmp_path/results``."""

    def run(*arguments: object, env: dict[str, str] | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "agenttts.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def scripted_model(path: Path, questions: list[dict[str, object]], right: float) -> Path:
    """A script for the scripted engine that answers both stages of the built-in questions, ``right`` of the time."""
    rules = []
    for question in questions:
        gold = [question["ctxs_candidate"].index(text) + 1 for text in question["ctxs_gt"]]
        answer = question["answers"][0]
        rules.append({"contains": [question["question"], "[8]"], "replies": [
            {"text": " ".join(f"[{i}]" for i in gold), "weight": right},
            {"text": "[1] [2]", "weight": 1 - right},
        ]})  # fmt: skip
        rules.append({"contains": [question["question"]], "replies": [
            {"text": answer, "weight": right},
            {"text": "nobody knows", "weight": 1 - right},
        ]})  # fmt: skip
    path.write_text(json.dumps({"rules": rules, "default": "nothing"}))
    return path


@pytest.fixture
def scripted_spec(tmp_path):
    """A two-stage spec over the built-in data with two scripted models, one better than the other."""

    def make(name: str = "small", **changes: object) -> Path:
        data = ROOT / "agenttts" / "tasks" / "data" / "twohop.jsonl"
        questions = [json.loads(line) for line in data.read_text().splitlines()]
        for model, right in (("weak", 0.35), ("strong", 0.8)):
            scripted_model(tmp_path / f"{model}.json", questions, right)
        stage = {
            "models": ["weak", "strong"],
            "prompt_tokens": 256,
            "decode_tokens": 32,
            "samples": [1, 40],
        }
        spec = {
            "name": name,
            "task": {"name": "retrieval_qa", "examples": 8},
            "stages": {"retrieval": dict(stage), "answer": dict(stage)},
            "models": {
                "weak": {"path": str(tmp_path / "weak.json"), "params": 3e9, "engine": "scripted"},
                "strong": {
                    "path": str(tmp_path / "strong.json"),
                    "params": 14e9,
                    "engine": "scripted",
                },
            },
            "search": {"budget": 80, "iterations": 2, "batch_size": 3, "seed": 1},
        }
        for key, value in changes.items():
            place = spec
            *parents, last = key.split("__")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec, sort_keys=False))
        return path

    return make


NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "munged", "apptainer")


@dataclass(frozen=True)
class Cluster:
    """A running test cluster. ``env`` is what a login shell on it has."""

    directory: Path
    env: dict[str, str]

    def run(self, *command: object, timeout: float = 60) -> str:
        """A command of the cluster's; its standard output."""
        done = subprocess.run(
            [str(part) for part in command], env={**os.environ, **self.env},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def script(self, *arguments: object) -> None:
        """``slurm/test-cluster.sh`` with these arguments."""
        test_cluster(*arguments)


def test_cluster(*arguments: object) -> None:
    done = subprocess.run(
        [ROOT / "slurm" / "test-cluster.sh", *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


test_cluster.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def cluster_tools() -> None:
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]  # fmt: skip
    if missing:
        reason = f"{', '.join(missing)} not installed: 'make cluster-tools' installs them where the machine allows it"
        if os.environ.get("AGENTTTS_REQUIRE_CLUSTER") == "1":
            pytest.fail(f"AGENTTTS_REQUIRE_CLUSTER=1, but {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def image(cluster_tools: None) -> Path:
    """The CPU image, built by the project's own command; built again when what goes into it has changed."""
    sources = [ROOT / "containers" / "cpu.def", ROOT / "containers" / "cpu-requirements.txt", ROOT / "pyproject.toml"]  # fmt: skip
    sources += sorted(p for p in (ROOT / "agenttts").rglob("*") if p.is_file() and "__pycache__" not in p.parts)  # fmt: skip
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = CACHE / f"cpu-{state}.sif"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob("cpu-*.sif*"):
            old.unlink()
        done = subprocess.run(
            [shutil.which("agenttts-hpc") or ROOT / ".venv/bin/agenttts-hpc", "image", "build",
             ROOT / "containers" / "cpu.def", "--output", path],
            capture_output=True, text=True, timeout=1800, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def cluster(cluster_tools: None, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:  # fmt: skip
    """Four nodes of four GPUs, with accounting; stopped, jobs and all, when the tests are over."""
    directory = tmp_path_factory.mktemp("cluster")
    test_cluster("up", directory, "--nodes", 4, "--gpus", 4, "--accounting")
    try:
        conf = directory / "etc" / "slurm.conf"
        yield Cluster(directory, {"SLURM_CONF": str(conf), "AGENTTTS_CPU_IMAGE": str(image)})
    finally:
        test_cluster("down", directory)
