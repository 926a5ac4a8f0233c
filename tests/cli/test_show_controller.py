"""What ``status`` and ``launch`` say of a run's controller."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agenttts.cli import output, show, show_plan, show_status
from agenttts.cli.status_texts import where_to_look

DOCUMENT = {
    "run": "r", "path": "results/r", "guideline": None, "started": None, "best_interval": None, "to_come": None, "workers": [], "outcome": None, "iteration": None, "iterations": 2, "finishing": False, "ended_early": False, "trials": {}, "best": None, "recommended": None,
    "recommended_tried": False, "recommended_failed": None, "scored_since": 0, "test": [], "agent": None, "jobs": [], "cut_share": {}, "warnings": [], "served": None, "cost": None, "confidence": None,
}  # fmt: skip


def shown(monkeypatch, **controller: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "console", console)
    document = {
        "job_id": "7",
        "host": None,
        "alive": True,
        "queue": None,
        "state": "RUNNING",
        "reason": "",
        "cancelled": False,
        "log": None,
        "when": "",
    }
    show_status.status(DOCUMENT | {"controller": document | controller})
    return console.export_text()


@pytest.mark.parametrize(
    ("controller", "text"),
    [
        ({}, "controller 7 running"),
        ({"state": "PENDING", "reason": "Priority: jobs are ahead of it"}, "controller 7 waiting (Priority: jobs are ahead of it)"),
        ({"cancelled": True}, "controller 7 running, cancelled"),
        ({"alive": False, "state": "ENDED", "cancelled": True}, "controller 7 not running"),
        ({"job_id": None, "alive": False, "state": "UNKNOWN", "reason": "sbatch did not answer"}, "controller not running (sbatch did not answer)"),
        ({"state": "COMPLETING"}, "controller 7 completing"),
        ({"alive": False, "state": "FAILED", "reason": "setup line failed: x"}, "controller 7 not running (setup line failed: x)"),
        ({"alive": None, "state": None, "queue": "'squeue' did not answer"}, "the queue cannot be read: 'squeue' did not answer"),
    ],
)  # fmt: skip
def test_a_controller_s_state_and_reason(monkeypatch, controller, text):
    assert text in shown(monkeypatch, **controller)


LOG = "results/r/slurm/controller/7_0_log.err"


@pytest.mark.parametrize(
    ("controller", "texts"),
    [
        ({}, ()),
        ({"alive": None, "state": None, "queue": "'squeue' did not answer"}, ()),
        (
            {"alive": False, "state": "FAILED", "log": LOG},
            (f"its log is {LOG}; 'agenttts-hpc logs results/r' shows", "'agenttts-hpc resume results/r' continues the run"),
        ),
        ({"alive": False, "state": "FAILED"}, ("it has not written a log\n", "'agenttts-hpc resume results/r' continues")),
        (
            {"alive": False, "state": "FAILED", "reason": "x. To correct the profile: edit slurm/s.yaml, then 'agenttts-hpc resume results/r --cluster s'"},
            ("it has not written a log\n",),
        ),
        (
            {"alive": False, "state": "FAILED", "reason": "launch again with 'agenttts-hpc launch SPEC --results DIR'"},
            ("it has not written a log\n",),
        ),
        (
            {"state": "PENDING", "when": "squeue --start -j 7"},
            ("'squeue --start -j 7' shows when it may start; 'agenttts-hpc cancel results/r' removes it",),
        ),
        ({"state": "PENDING"}, ("\n'agenttts-hpc cancel results/r' removes it",)),
    ],
)  # fmt: skip
def test_it_says_where_to_look(monkeypatch, controller, texts):
    text = shown(monkeypatch, **controller)
    assert text.count("agenttts-hpc resume") + text.count("agenttts-hpc launch") <= 1, "one fix"
    for expected in texts:
        assert expected in text
    assert texts or "agenttts-hpc" not in text


def test_a_run_that_is_over_needs_no_controller(monkeypatch):
    monkeypatch.setitem(DOCUMENT, "outcome", "done")
    assert "agenttts-hpc" not in shown(monkeypatch, alive=False, state="ENDED", log=LOG)


@pytest.mark.parametrize(
    ("trials", "told"), [({"COMPLETED": 3}, False), ({"COMPLETED": 1, "OOM": 1, "FAILED": 2}, True)]
)
def test_a_run_that_is_done_says_how_failed_trials_are_tried_again(trials, told):
    lines = where_to_look({**DOCUMENT, "outcome": "done", "trials": trials, "controller": {}})
    expected = (
        "3 trials have no score; 'agenttts-hpc resume results/r --retry-failed' tries them again"
    )
    assert lines == ([expected] if told else [])


def test_how_sure_it_is_names_the_recommended_allocation(monkeypatch):
    confidence = {"within": 0.02, "probability": 0.91, "shortfall": 0.01}
    monkeypatch.setitem(DOCUMENT, "confidence", confidence)
    assert "the recommended allocation is within 0.02 of the best" in shown(monkeypatch)


def launched(monkeypatch, **values: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(output, "console", console)
    place = {"path": "results/r", "created": False, "new_results": False, "data": [], "skip_bad": 0}
    controller = {"described": "Slurm job 7 (squeue --me)", "log": None, "alive": False}
    show.launched(DOCUMENT | place | {"nodes": None, "controller": controller} | values)
    return console.export_text()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"created": True}, "run r launched: results/r"),
        ({}, "run r exists and goes on: results/r"),
        ({"outcome": "cancelled"}, "run r exists and goes on (it was over: cancelled): results/r"),
    ],
)
def test_launch_says_whether_a_run_is_new_or_goes_on(monkeypatch, values, says):
    text = launched(monkeypatch, **values)
    assert says in text
    assert "controller: Slurm job 7" in text
    assert "agenttts-hpc status results/r --watch" in text


def test_launching_a_run_that_is_done_says_what_can_be_done_with_it(monkeypatch):
    over = {"outcome": "done", "iterations": 3, "trials": {"COMPLETED": 5, "FAILED": 1}}
    text = launched(monkeypatch, **over)
    assert "run r exists and is over (done): results/r\nnothing was started\n" in text
    assert "goes on" not in text
    assert "controller" not in text
    assert "1 trial has no score; 'agenttts-hpc resume results/r --retry-failed' tries it" in text
    for command in ("report results/r", "extend results/r --set search.iterations=6"):
        assert f"agenttts-hpc {command}\n" in text
    assert "--name" in text
    assert "extend" not in launched(monkeypatch, **(over | {"iterations": 0}))
    assert "launched: results/r" in launched(monkeypatch, **over, created=True)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.0312, 0.0312, "0.031"), (99.2, 99.7, "99 to 100"), (119.6, 1234.0, "120 to 1,234")],
)
def test_estimates_are_never_written_with_an_exponent(low, high, text):
    assert show_plan._span({"low": low, "high": high}) == text
