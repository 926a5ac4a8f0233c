"""Trials that a stopped run's recommendation does not count."""

from __future__ import annotations

import json
import re

import pytest

from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.tables.confidence import since_text


def test_trials_that_scored_after_the_recommendation_are_told(cli, finished_run):
    run = RunDirectory(finished_run("small", search__iterations=1))
    assert read_state(run.journal_file).scored_since() == 0
    assert "scored since" not in cli("status", "small").stdout
    # Cancelled between the end of the last trials and telling the searcher of them.
    events = [json.loads(line) for line in run.journal_file.read_text().splitlines()]
    told = [n for n, event in enumerate(events) if event["event"] == "told"]
    last = next(n for n in told if events[n]["iteration"] == 1)
    kept = [*events[:last], {**events[-1], "outcome": "cancelled"}]
    run.journal_file.write_text("".join(json.dumps(event) + "\n" for event in kept))
    state = read_state(run.journal_file)
    number = state.scored_since()
    assert number > 1
    text = " ".join(cli("status", "small").stdout.split())
    assert f"{number} trials have scored since this recommendation, which does not count" in text
    assert f"'agenttts-hpc finish {run.path}' ends it with them" in text
    assert json.loads(cli("status", "small", "--json").stdout)["scored_since"] == number
    text = " ".join(cli("report", "small").stdout.split())
    assert f"{number} trials have scored since this recommendation" in text


@pytest.mark.parametrize(
    ("trials", "text"), [(1, "1 trial has .* does not count it$"), (2, "2 trials have .* them$")]
)
def test_one_trial_is_one(trials, text):
    assert re.match(text, since_text(trials))
