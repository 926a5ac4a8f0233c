"""A process that is started ahead for an engine: who gets it, and when it ends."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agenttts.inference import engine_child
from agenttts.inference.base import ModelConfig, Request, SamplingParams
from agenttts.inference.engine_child import LIBRARIES, SpareEngine
from agenttts.inference.engine_process import EngineProcess
from agenttts.inference.engines import ENGINES
from tests.support.processes import alive
from tests.support.waiting import until

pytestmark = pytest.mark.processes
REQUEST = Request("Which tree?", SamplingParams(1.0, 8), (1, 2))


@pytest.fixture
def config(script):
    return ModelConfig("model", str(script), engine="scripted")


@pytest.fixture
def spare():
    spare = SpareEngine()
    yield spare
    spare.close()


def sockets_of(pid):
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:")]


def test_an_engine_takes_the_process_that_was_started_for_it(spare, config, monkeypatch):
    """With its output so far, here more than a pipe holds; the next engine has one of its own."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    inherited = socket.socket()
    inherited.set_inheritable(True)
    spare.start("scripted")
    pid = spare.pid
    spare.start("scripted")
    assert spare.pid == pid, "there is one already"
    output = io.StringIO()
    taken, fresh = EngineProcess(config, output, spare), EngineProcess(config, output, spare)
    assert (taken.pid, spare.engine, spare.pid) == (pid, None, None)
    assert fresh.pid != pid
    assert len(sockets_of(pid)) == 1, "its own, and none of its parent's"
    assert taken.generate([REQUEST]) == fresh.generate([REQUEST])
    for engine in (taken, fresh):
        engine.close()
        assert not alive(engine.pid)
    inherited.close()
    assert output.getvalue().count("agenttts.inference.engines\n") == 2, "the output of both"


def test_a_process_that_does_not_fit_is_not_taken(spare, config, monkeypatch):
    """For another engine, with another environment, or ended: a fresh one is started."""
    spare.start("endpoint")
    other = spare.pid
    engine = EngineProcess(config, None, spare)
    assert engine.pid != other
    assert (spare.pid, alive(other)) == (other, True), "it may be of use to the next"
    engine.close()
    spare.start("scripted")
    pid = spare.pid
    assert not alive(other)
    with monkeypatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "7")
        assert spare.take("scripted") is None
    assert not alive(pid)
    spare.start("scripted")
    pid = spare.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), pause=0.01)
    assert spare.resident() == 0
    engine = EngineProcess(config, None, spare)
    assert engine.pid != pid
    assert len(engine.generate([REQUEST])[0].samples) == 2
    engine.close()


def test_one_that_has_died_is_replaced_when_it_is_needed_again(spare):
    spare.start("scripted")
    dead = spare.pid
    os.kill(dead, signal.SIGKILL)
    until(lambda: not alive(dead), pause=0.01)
    spare.start("scripted")
    assert spare.pid != dead
    assert spare.resident() > 0
    last = spare.pid
    spare.close()
    spare.close()
    assert not alive(last)
    assert (spare.engine, spare.resident()) == (None, 0)


def test_it_ends_with_a_parent_that_is_killed():
    program = (
        "from agenttts.inference.engine_child import SpareEngine\n"
        "spare = SpareEngine()\nspare.start('scripted')\nprint(spare.pid, flush=True)\ninput()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.communicate()
    until(lambda: not alive(pid), pause=0.02)


def test_a_process_that_cannot_be_started_is_none(spare, config, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/no/such/python")
        spare.start("scripted")
    assert spare.pid is None
    engine = EngineProcess(config, None, spare)
    engine.close()


@pytest.mark.parametrize("ahead", [True, False])
def test_libraries_are_imported_without_the_garbage_collector_and_kept_from_it(
    spare, config, tmp_path, monkeypatch, ahead
):
    """Whether a spare process or that of an engine imports them; it works again afterwards."""
    (tmp_path / "library.py").write_text(
        "import gc\n"
        "def import_libraries():\n"
        "    print('meanwhile', gc.isenabled(), gc.get_freeze_count() > 0, flush=True)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "from agenttts.inference import engine_child\n"
        "engine_child.LIBRARIES = {'scripted': 'library:import_libraries'}\n"
        "import agenttts.inference.scripted, gc\n"
        "class Engine(agenttts.inference.scripted.ScriptedEngine):\n"
        "    def __init__(self, config):\n"
        "        print('then', gc.isenabled(), gc.get_freeze_count() > 0, flush=True)\n"
        "        super().__init__(config)\n"
        "agenttts.inference.scripted.ScriptedEngine = Engine\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    output = io.StringIO()
    if ahead:
        spare.start("scripted")
    engine = EngineProcess(config, output, spare)
    engine.close()
    lines = output.getvalue().splitlines()
    assert lines[0] == "meanwhile False False"
    assert lines[-1] == "then True True"


def test_a_program_imports_nothing_else_before_it_starts_a_process():
    """The package's own modules that it imports are as light."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "from agenttts.trial.__main__ import SpareEngine, without_searches\n"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names == {"agenttts"}


def test_the_engines_with_libraries_are_those_with_processes_and_packages():
    assert set(LIBRARIES) <= {name for name, entry in ENGINES.items() if entry.own_process}
    assert all(place.startswith("agenttts.inference.") for place in LIBRARIES.values())
    assert EngineProcess.__module__ == engine_child.PROGRAM
