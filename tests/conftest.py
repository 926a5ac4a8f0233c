"""Fixtures shared by all tests: the command line, scripted models, small specs, and a real cluster.

Real multi-node Slurm and a real Apptainer image are started once for all tests that ask for them.
On a machine that has neither those tests are skipped and say so; ``AGENTTTS_REQUIRE_CLUSTER=1``
makes that a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from agenttts.inference.base import Engine
from agenttts.loop.reports import FIGURES
from agenttts.run.directory import RunDirectory
from tests.support import command_line
from tests.support.cluster import PROGRAMS, ROOT, Cluster, cluster_script
from tests.support.finished_runs import FinishedRuns
from tests.support.image import CACHE, built_image
from tests.support.real_models import QUICK
from tests.support.scripted import small_spec
from tests.support.trials import trial_writer

pytest_plugins = [
    "tests.support.compile_once",
    "tests.support.garbage",
    "tests.support.repeatable",
    "tests.support.tiny_models",
    "tests.support.trial_threads",
    *(["tests.support.workers"] if find_spec("xdist") else []),
]


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that runs the real program starts processes."""
    if "shell" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.processes)


_MODELS = pytest.StashKey[ExitStack]()
_LAST = pytest.StashKey[pytest.Item | None]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the last test that may use one of `loaded_models`."""
    with_model = (i for i in reversed(session.items) if i.get_closest_marker("llm"))
    session.stash[_MODELS] = ExitStack()
    session.stash[_LAST] = next((i for i in with_model if not i.get_closest_marker("cluster")), None)  # fmt: skip


@pytest.hookimpl(wrapper=True)  # about a test and its rerun
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    result = yield
    if item is item.session.stash[_LAST]:
        item.session.stash[_MODELS].close()
    return result


@pytest.fixture(scope="session")
def loaded_models(request: pytest.FixtureRequest) -> Iterator[ExitStack]:
    """Takes what closes the real engines of a session, after the last test marked ``llm``.

    An idle vLLM takes 1 to 2 % of a core, for threads that wait for other nodes (0.32), and the
    tests that come after take ten minutes.
    """
    with request.session.stash[_MODELS] as models:
        yield models


@pytest.fixture(scope="session", autouse=True)
def _no_figures_at_the_end_of_runs() -> Iterator[None]:
    """Hundreds of runs end, and each would draw its page for a second or more.

    Tests of the page set the variable anew, or ask ``report`` for it.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FIGURES, "0")
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What this process writes is not forced to the disk: a whole run does that 80 times at 3 ms or
    more, and no test loses power. The programs that tests start do force it.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A real small LLM that ships in a Python package, converted once."""
    from agenttts.inference.packaged_models import prepare

    return prepare("smollm2-135m-instruct", CACHE / "models" / "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_engine(smollm2: Path, loaded_models: ExitStack) -> Engine:
    """`smollm2` loaded by vLLM, once, as the small specs load it."""
    from agenttts.inference.base import ModelConfig
    from agenttts.inference.engine_process import create_engine

    pytest.importorskip("vllm", reason="vLLM is not installed here")
    engine = create_engine(
        ModelConfig("smollm2", str(smollm2), options={"max_model_len": 2048, **QUICK})
    )
    loaded_models.callback(engine.close)
    return engine


@pytest.fixture
def unstarted_run(scripted_spec, tmp_path, monkeypatch):
    """Make a run whose controller is not started: ``unstarted_run(search__iterations=0)``."""
    from agenttts.launch import launch
    from agenttts.launch.plan import make_plan
    from agenttts.spec import load_spec

    def make(**changes: object) -> RunDirectory:
        results = tmp_path / "results"
        with monkeypatch.context() as patched:
            patched.setattr(launch, "start_controller", lambda run: None)
            plan = make_plan(load_spec(scripted_spec(**changes)), [tmp_path], results)
            return launch.launch(plan)[0]

    return make


@pytest.fixture
def cli(tmp_path):
    """Call ``agenttts-hpc`` in this process, from an empty directory; results go to
    ``tmp_path/results``.
    """
    return partial(command_line.call, cwd=tmp_path)


@pytest.fixture
def shell(tmp_path):
    """Run ``agenttts-hpc`` as a program of its own, as a user's shell does, in the same
    directory as `cli`.
    """
    return partial(command_line.run, cwd=tmp_path)


@pytest.fixture
def scripted_spec(tmp_path):
    """`small_spec`, written into the test's directory."""
    return partial(small_spec, tmp_path)


@pytest.fixture(scope="session")
def _finished_runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> FinishedRuns:  # fmt: skip
    place = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a worker of xdist: below what all of them share
        place = place.parent
    (place / "finished").mkdir(exist_ok=True)
    return FinishedRuns(place / "finished")


@pytest.fixture
def finished_run(_finished_runs, tmp_path):
    """The directory of a run that is over, in ``tmp_path/results``, and its spec beside it:
    ``finished_run(search__seed=2)``. It is the test's own, a copy of one made once a session.
    """
    return partial(_finished_runs.copy, tmp_path)


@pytest.fixture
def make_trial(tmp_path):
    """Write the spec of a trial into the test's directory: ``make_trial("t0000", ("weak", 2),
    ("strong", 1))``.
    """
    return trial_writer(tmp_path)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a shell script in a Slurm command's place, for answers that a real one can't be made
    to give on demand.
    """
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def put(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    put("scontrol", "echo MaxArraySize = 1001")
    put("sacct", "exit 1")
    put("srun", "exit 0")
    return put


def lacking(reason: str) -> NoReturn:
    """Skip a test for what this machine lacks; fail it where the cluster's tests are required."""
    if os.environ.get("AGENTTTS_REQUIRE_CLUSTER") == "1":
        pytest.fail(f"AGENTTTS_REQUIRE_CLUSTER=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster_tools() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]  # fmt: skip
    if missing:
        lacking(
            f"{', '.join(missing)} not installed: 'make cluster-tools' installs them where the machine allows it"
        )


@pytest.fixture(scope="session")
def directory_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory image of this machine's own Python: 86 MB, two seconds."""
    if shutil.which("apptainer") is None:
        lacking("apptainer is not installed here")
    folder = tmp_path_factory.mktemp("image") / "rootfs"
    made = subprocess.run(
        [ROOT / "containers" / "rootfs-from-host.sh", folder], capture_output=True, text=True, check=False
    )  # fmt: skip
    if made.returncode == 3:
        lacking(f"no root file system can be made here: {made.stderr.strip()[-200:]}")
    assert made.returncode == 0, made.stderr
    folder.parent.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def image(cluster_tools: None) -> Path:
    """The CPU image, built by the project's own command; built again when what goes into it has
    changed.
    """
    return built_image(CACHE)


@pytest.fixture(scope="session")
def cluster(cluster_tools: None, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:  # fmt: skip
    """Four nodes of four GPUs, with accounting; stopped, jobs and all, when the tests are over."""
    directory = tmp_path_factory.mktemp("cluster")
    cluster_script("up", directory, "--nodes", 4, "--gpus", 4, "--accounting")
    try:
        conf = directory / "etc" / "slurm.conf"
        yield Cluster(directory, {"SLURM_CONF": str(conf), "AGENTTTS_CPU_IMAGE": str(image)})
    finally:
        cluster_script("down", directory)


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
