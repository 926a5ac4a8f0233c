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
