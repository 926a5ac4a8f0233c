"""The CPU image that the cluster tests use.

``python -m tests.support.image`` builds it ahead of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.support.cluster import ROOT

CACHE = Path(os.environ.get("AGENTTTS_TEST_CACHE", ROOT / ".cache"))
_SOURCES = (
    "containers/cpu.def",
    "containers/cpu-requirements.txt",
    "containers/make-bytecode.py",
    "pyproject.toml",
)


def built_image(cache: Path) -> Path:
    """The image of this checkout under ``cache``, built by ``agenttts-hpc image build`` where
    it is not there yet.
    """
    sources = [ROOT / name for name in _SOURCES]
    package = (ROOT / "agenttts").rglob("*")
    sources += sorted(p for p in package if p.is_file() and "__pycache__" not in p.parts)
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    path = cache / f"cpu-{state}.sif"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers, or two sessions, build it once
        if not path.exists():
            for old in cache.glob("cpu-*.sif*"):
                old.unlink()
            _build(path)
    return path


def _build(path: Path) -> None:
    command = [sys.executable, "-m", "agenttts.cli", "image", "build", ROOT / "containers/cpu.def"]
    done = subprocess.run(
        [*command, "--output", path], cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    print(built_image(CACHE))
