"""A trial's job in a real Apptainer container: its home, its caches, and models behind links."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agenttts.dispatch.apptainer import (
    CACHES,
    PASSED_VARIABLES,
    Container,
    container_env,
    exec_command,
)
from agenttts.dispatch.attempts import read_attempts
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.node.scratch import CompileCache
from agenttts.dispatch.node.trial_log import LOG_FILE


@pytest.fixture
def job(directory_image, tmp_path):
    """Run Python code as a trial's job in the container; what it printed, without what
    Apptainer said.
    """
    directory = tmp_path / "trial"
    directory.mkdir()

    def run(
        code: str, *models: Path, cache: CompileCache | None = None, passed: tuple[str, ...] = ()
    ) -> str:
        log = directory / LOG_FILE
        log.unlink(missing_ok=True)
        command = exec_command(
            Container(directory_image, nv=False), ("/usr/bin/python3", "-c", code),
            read_only=models, writable=[directory],
        )  # fmt: skip
        env = {**container_env(CACHES), PASSED_VARIABLES: " ".join(passed)}
        TrialJob(directory, command, env, 0, 600, 10, 1, cache)()
        assert read_attempts(directory)[-1].finished is not None
        return log.read_text()

    return run


def test_home_is_empty_and_writable_and_not_the_user_s(job):
    # What flashinfer does when it is imported, without a try.
    code = (
        "import os, pathlib; home = pathlib.Path.home(); print(home, os.listdir(home)); "
        "(home / '.cache/flashinfer/x').mkdir(parents=True); (home / 'file').write_text('x'); "
        "print(os.path.expanduser('~'), os.access(os.path.dirname(os.environ['FLASHINFER_WORKSPACE_BASE']), os.W_OK))"
    )
    assert job(code) == "/tmp/home []\n/tmp/home True\n"


def test_every_cache_directory_can_be_made_and_is_kept_for_the_next_job(job, tmp_path):
    cache = CompileCache(tmp_path / "cache", "image")
    names = [name for name, value in CACHES.items() if value.startswith("/")]
    write = (
        f"import os, pathlib\nfor name in {names}:\n    place = pathlib.Path(os.environ[name])\n"
        "    place.mkdir(parents=True, exist_ok=True)\n    (place / f'of_{name}').write_text(name)\n"
    )
    read = f"import os, pathlib\nfor name in {names}:\n    print((pathlib.Path(os.environ[name]) / f'of_{{name}}').read_text())\n"
    assert job(write, cache=cache) == ""
    assert job(read, cache=cache).split() == names


def test_a_model_behind_links_is_read(job, tmp_path):
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("the weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    code = f"print(open({str(snapshot / 'model.safetensors')!r}).read())"
    assert job(code, snapshot) == "the weights\n"


def test_the_host_s_environment_stays_outside(job, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "x")
    assert os.environ["MY_SECRET"] not in job("import os; print(os.environ.get('MY_SECRET'))")


def test_a_key_reaches_the_trial_and_no_file_of_its_job(job, tmp_path, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "sk-4711")
    monkeypatch.setenv("OTHER_KEY", "sk-0815")
    code = (
        "import os, hashlib; print(hashlib.sha256(os.environ['OUR_KEY'].encode()).hexdigest()[:8], "
        "'OTHER_KEY' in os.environ)"
    )
    digest = hashlib.sha256(b"sk-4711").hexdigest()[:8]
    assert job(code, passed=("OUR_KEY", "ABSENT_KEY")) == f"{digest} False\n"
    files = [path for path in (tmp_path / "trial").rglob("*") if path.is_file()]
    assert files
    assert not any(b"sk-4711" in path.read_bytes() for path in files)
