"""Which engine's process a trial's program starts ahead, and that it starts none without need."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agenttts.files.atomic import atomic_write_json
from agenttts.inference import engine_pool
from agenttts.inference.engine_child import SpareEngine
from agenttts.inference.scripted import ScriptedEngine
from agenttts.trial import __main__ as program
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.engines_ahead import first_engine
from agenttts.trial.result import read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE
from tests.support.trial_lists import LISTS, folder, make_list
from tests.support.trials import trial_writer


class SleepingEngine(ScriptedEngine):
    """A scripted engine that may sleep, as vLLM's on GPUs."""

    def sleep(self):
        return True

    def wake(self):
        """Nothing to wake."""


class Spare(SpareEngine):
    """Takes note of what is started and ended, among the starts of engines."""

    def __init__(self):
        super().__init__()
        self.events: list[str] = []

    def start(self, engine):
        self.events.append(f"ahead {engine}")
        self._engine = engine

    def close(self):
        if self._engine:
            self.events.append("end")
        self._engine = ""

    def load(self, config):
        """Make the engine of a model, which is scripted although it is named vllm."""
        self.events.append(config.name)
        self._engine = ""
        return SleepingEngine(replace(config, engine="scripted", options={}))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(engine_pool, "usable_cpus", lambda: 2)


def with_vllm(specs):
    """Give the trials' models, which are scripted, vLLM's name and a GPU."""
    for spec in specs:
        models = {n: replace(m, engine="vllm", gpus=1) for n, m in spec.models.items()}
        document = replace(spec, models=models).to_json()
        atomic_write_json(Path(spec.directory) / SPEC_FILE, document)
    return specs


def run_list(specs, upto=None):
    spare = Spare()
    due = tuple(DueTrial(Path(spec.directory) / SPEC_FILE, upto) for spec in specs)
    code = run_trials(
        TrialCommand(due), spare.load, out=io.StringIO(), err=io.StringIO(), spare=spare
    )
    return code, spare.events


WEAK_ALONE = [("weak", 5), ("weak", 1)]
WEAK_STRONG = [("weak", 2), ("strong", 1)]


def test_the_second_model_is_begun_while_the_first_one_works(tmp_path):
    code, events = run_list(with_vllm(make_list(trial_writer(tmp_path), LISTS)))
    assert (code, events) == (0, ["weak", "ahead vllm", "strong"])


def test_nothing_is_begun_where_no_start_follows(tmp_path):
    """For one model, where a part ends before the next one, and where all is stored."""
    make = trial_writer(tmp_path)
    assert run_list(with_vllm([make("alone", *WEAK_ALONE)])) == (0, ["weak"])
    [part] = with_vllm([make("part", *WEAK_STRONG)])
    assert run_list([part], 1) == (0, []), "the part is stored"
    [more] = with_vllm([make("more", ("weak", 7), ("strong", 1))])
    assert run_list([more], 1) == (0, ["weak"])
    assert run_list([more, part])[1] == ["strong"], "the first engine that is started"
    again = with_vllm([make("again", *WEAK_STRONG), make("other", ("weak", 7), ("strong", 1))])
    assert run_list(again) == (0, [])
    scripted = make_list(trial_writer(folder(tmp_path, "scripted")), LISTS)
    assert run_list(scripted)[1] == ["weak", "strong"]


def test_a_model_whose_samples_are_stored_is_not_begun(tmp_path):
    """Of the trials that wait, those with the other model have all their samples."""
    make = trial_writer(tmp_path)
    run_list(with_vllm([make("first", ("strong", 3), ("strong", 1))]))
    specs = with_vllm([make("new", *WEAK_ALONE), make("stored", ("strong", 3), ("strong", 1))])
    assert run_list(specs) == (0, ["weak"])
    specs = with_vllm([make("newer", ("weak", 6), ("weak", 1)), make("less", ("strong", 9), ("strong", 1))])  # fmt: skip
    assert run_list(specs) == (0, ["weak", "ahead vllm", "strong"])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "vllm"),
        ({"models": {"weak": {"engine": "transformers"}}}, "transformers"),
        ({"models": {"weak": {"engine": "scripted"}}}, None),
        ({"models": {"weak": {"engine": ["vllm"]}}}, None),
        ({"models": {"other": {"engine": "vllm"}}}, None),
        ({"models": None}, None),
        ({"allocation": []}, None),
        ({"samples": 3.5}, None),
        (None, None),
    ],
)
def test_the_first_engine_is_that_of_the_first_stage(tmp_path, change, found):
    document = {
        "samples": str(tmp_path / "samples"),
        "models": {"weak": {"engine": "vllm"}, "strong": {"engine": "scripted"}},
        "allocation": [{"model": "weak"}, {"model": "strong"}],
    }
    spec = tmp_path / SPEC_FILE
    spec.write_text("{" if change is None else json.dumps(document | change))
    trials = [DueTrial(spec), DueTrial(tmp_path / "absent")]
    assert first_engine(trials) == found
    assert first_engine(trials[::-1]) is None
    (tmp_path / "samples").mkdir()
    assert first_engine(trials) == found, "the store is still empty"
    (tmp_path / "samples" / "a.parquet").touch()
    assert first_engine(trials) is None, "all samples may be stored"


def test_the_program_starts_it_before_its_trials_and_ends_it(tmp_path, monkeypatch):
    """Here for a trial that then starts no engine."""
    spec = trial_writer(tmp_path)("t0000", *WEAK_STRONG)
    spare, before = Spare(), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(program, "SpareEngine", lambda: spare)
    monkeypatch.setattr(program, "first_engine", lambda trials: "vllm")
    try:
        assert program.main([str(Path(spec.directory) / SPEC_FILE)]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read_result(Path(spec.directory)) is not None
    assert spare.events == ["ahead vllm", "end"]


# Says at the end of the trials whether an engine could still have taken the process.
_LOOKING = """
import sys
from agenttts.inference.engine_child import SpareEngine
from agenttts.trial import __main__ as program

class Spare(SpareEngine):
    def close(self):
        if self.engine:
            child = self.take("scripted")
            print("fit" if child else "unfit")
            if child:
                child.discard()
        super().close()

program.SpareEngine, program.first_engine = Spare, lambda trials: "scripted"
sys.exit(program.main(sys.argv[1:]))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("line", "found"), [("", "fit"), ("os.environ['HF_HOME'] = '/h'", "unfit")]
)
def test_only_what_the_task_sets_in_the_environment_makes_it_unfit(
    make_trial, tmp_path, monkeypatch, line, found
):
    """Not what the program's own libraries set for themselves when they are imported."""
    (tmp_path / "mytask.py").write_text(
        "import os\n"
        "from agenttts.tasks.retrieval.task import RetrievalQA\n"
        f"{line}\n"
        "class MyTask(RetrievalQA):\n"
        "    pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    spec = make_trial("t0000", *WEAK_STRONG, task="mytask:MyTask")
    command = [sys.executable, "-c", _LOOKING, str(Path(spec.directory) / SPEC_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == found
