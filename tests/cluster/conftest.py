"""Real multi-node Slurm and a real Apptainer image, started once for all cluster tests.

A machine that has neither skips these tests and says so; ``AGENTTTS_REQUIRE_CLUSTER=1`` makes that a failure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("AGENTTTS_TEST_CACHE", ROOT / ".cache"))
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


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
