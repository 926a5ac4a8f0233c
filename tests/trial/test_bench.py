"""The workbench: who may run code where, and equal samples are looked at once."""

from __future__ import annotations

import threading

import pytest

from agenttts.errors import UserError
from agenttts.tasks import create
from agenttts.tasks.base import BenchSettings, Example, ObservingStage
from agenttts.trial.bench import TrialBench, observe


@pytest.mark.processes
def test_code_is_refused_outside_a_container_without_the_opt_in(monkeypatch):
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    with pytest.raises(UserError, match=r"task\.run_code_on_host"):
        TrialBench(BenchSettings(runs_code=True), on_host=False)
    bench = TrialBench(BenchSettings(runs_code=True), on_host=True)
    assert bench.run({"main.py": "print(3)"}, "main.py").stdout == "3\n"


def test_a_variable_alone_makes_no_container(monkeypatch):
    monkeypatch.setenv("APPTAINER_CONTAINER", "/x.sif")
    with pytest.raises(UserError):
        TrialBench(BenchSettings(runs_code=True), on_host=False)


def test_what_settings_do_not_name_is_not_lent():
    with pytest.raises(UserError, match="runs_code"):
        TrialBench(BenchSettings(), on_host=True).run({"main.py": ""}, "main.py")


class _Counting(type(create("chatdev").stage("coding"))):  # type: ignore[misc]
    """Counts how often a program is looked at."""

    def __init__(self):
        self.seen = []
        self.lock = threading.Lock()

    def observe(self, value, example, outputs, bench):
        with self.lock:
            self.seen.append((example.id, value))
        return {**value, "looked": outputs["before"]}


def test_equal_samples_of_an_example_are_looked_at_once_and_keep_their_places():
    stage = _Counting()
    assert isinstance(stage, ObservingStage)
    a, b = {"files": {"main.py": "1"}}, {"files": {}}
    found = observe(stage, None, [[a, b, a], [a]], [Example("x", {}), Example("y", {})], [{"before": 1}, {"before": 2}])  # fmt: skip
    assert found == [[{**a, "looked": 1}, {**b, "looked": 1}, {**a, "looked": 1}], [{**a, "looked": 2}]]  # fmt: skip
    assert len(stage.seen) == 3
