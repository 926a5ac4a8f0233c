"""Runs that try the user's own allocations first (``search.first``)."""

from __future__ import annotations

import json

import pytest

from agenttts.loop import controller_job
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.recorded_search import RecordedSearch
from tests.support.killing import killed_at
from tests.support.runs import table

OWN = [
    {"retrieval": "weak x3", "answer": "strong x1"},
    {"retrieval": "weak x2", "answer": "weak x3"},
]


def tried(run):
    rows = table(run).sort("trial")
    assert rows.filter(rows["source"] == "first")["trial"].to_list() == ["t0000", "t0001"]
    assert set(rows.filter(rows["source"] == "first")["iteration"]) == {0}
    searched = rows.filter(rows["source"] != "recommended")
    assert len({str(row) for row in searched["allocation"]}) == searched.height
    return searched


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["agenttts", "random"])
def test_they_are_the_first_trials_and_come_on_top(
    cli, scripted_spec, tmp_path, method, asynchronous
):
    path = scripted_spec(
        search__method=method, search__asynchronous=asynchronous, search__first=OWN
    )
    planned = cli("launch", path, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)["search"]
    assert plan["first"] == ["weak×3 → strong×1", "weak×2 → weak×3"]
    assert cli("launch", path, "--wait").returncode == 0
    searched = tried(tmp_path / "results" / "small")
    assert searched.filter(searched["iteration"] == 0).height == plan["initial_trials"]
    assert searched.height == plan["trials_at_most"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_controller_killed_before_or_after_it_planned_them_goes_on(unstarted_run, asynchronous):
    run = unstarted_run(search__first=OWN, search__iterations=1, search__asynchronous=asynchronous)
    for part, dying in ((RecordedSearch, "plan"), (Evaluation, "evaluate")):
        with killed_at(part, dying):
            controller_job.make_controller(run.read()).run()
            pytest.fail("it was not killed")
    controller_job.make_controller(run.read()).run()
    tried(run.path)
