"""The program that an environment describes itself with, run as on a node."""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agenttts.doctor import environment_facts


def test_an_environment_without_a_place_for_temporary_files_says_so():
    """The program ended by Python's error, so that the image was said not to start."""
    source = Path(environment_facts.__file__).read_text(encoding="utf-8")
    script = 'ulimit -f 0; exec "$@"'  # as if every disk was full
    words = ["sh", "-c", script, "sh", sys.executable, "-c", source]
    env = {**os.environ, "TMPDIR": "/not/there"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    temporary = json.loads(done.stdout)["temporary"]
    assert (temporary["path"], temporary["free"]) == ("/not/there", None)
    assert "No usable temporary directory found" in temporary["error"]


@pytest.mark.parametrize(
    ("compiled", "flags", "expected"),
    [(False, ["-B"], ["torch"]), (True, ["-B"], []), (False, [], [])],
)
def test_packages_that_every_start_compiles_again_are_named(tmp_path, compiled, flags, expected):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    if compiled:
        assert compileall.compile_dir(package, quiet=1)
    source = Path(environment_facts.__file__).read_text(encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, *flags, "-c", source], env=env, capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout)["without_bytecode"] == expected
