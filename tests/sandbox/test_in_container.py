"""The same hostile programs inside an Apptainer container that is started as trials start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agenttts.dispatch.apptainer import Container, exec_command
from tests.support import hostile_programs
from tests.support.hostile_programs import PROGRAMS

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("user", ["own", "ordinary"])
def test_hostile_programs_are_contained(directory_image, tmp_path, user):
    """As whoever runs the tests; as root also as an ordinary user, which has other rights
    inside.
    """
    if user == "ordinary" and (os.getuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("takes root and setpriv: without root, 'own' is an ordinary user")
    project = tmp_path / "project"
    shutil.copytree(ROOT / "agenttts" / "sandbox", project / "agenttts" / "sandbox")
    (project / "agenttts" / "files").mkdir()
    files = [
        f"files/{name}.py" for name in ("__init__", "allocator", "locks", "temporary", "trouble")
    ]
    for name in ("__init__.py", "errors.py", *files):
        shutil.copy(ROOT / "agenttts" / name, project / "agenttts" / name)
    shutil.copy(hostile_programs.__file__, project / "hostile_programs.py")
    # The image has this machine's Python, which cannot write compiled files into a project bound
    # read-only.
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", project], check=True)
    for path in (project, *project.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    command = exec_command(
        Container(directory_image, nv=False),
        ("/usr/bin/python3", str(project / "hostile_programs.py")),
        read_only=[project],
        writable=[],
    )
    words = [word.replace("{scratch}", str(scratch)) for word in command]
    if user == "ordinary":
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd="/", check=False,
        env={**os.environ, "APPTAINERENV_PYTHONPATH": str(project), "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert outcomes.keys() == PROGRAMS.keys()
    for name, hostile in PROGRAMS.items():
        assert outcomes[name]["how"] in hostile.ends, outcomes[name]
        assert hostile.stderr in outcomes[name]["stderr"]
