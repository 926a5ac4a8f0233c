"""What ``status`` says of a run's recommendation."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from rich.console import Console

from agenttts.cli import watch
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


def test_a_recommendation_whose_trial_failed_says_so(cli, finished_run):
    run = RunDirectory(finished_run("small", search__iterations=1))
    assert json.loads(cli("status", "small", "--json").stdout)["recommended_failed"] is None
    events = [json.loads(line) for line in run.journal_file.read_text().splitlines()]
    failed = next(event["row"] for event in events if event.get("row"))
    for event in events:
        if event["event"] == "told":
            event["recommended"] = failed["allocation"]
        if event.get("row") and event["row"]["allocation"] == failed["allocation"]:
            event["row"] |= {"state": "OOM", "score": None}
    run.journal_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    document = json.loads(cli("status", "small", "--json").stdout)
    assert document["recommended_tried"] is False
    assert document["recommended_failed"] == f"{failed['trial']} OOM"
    text = " ".join(cli("status", "small").stdout.split())
    assert f"(expected to score best; {failed['trial']} OOM, no score)" in text
    view = watch.watch_lines(document, datetime.now(UTC), Console(width=200))
    assert f", {failed['trial']} OOM, no score" in "\n".join(line.plain for line in view)


def test_the_best_finalist_is_recommended(cli, finished_run):
    finalists = {"examples": 10, "top": 2}
    run = RunDirectory(finished_run("small", search__iterations=1, search__finalists=finalists))
    events = [json.loads(line) for line in run.journal_file.read_text().splitlines()]
    rows = [event["row"] for event in events if event.get("row")]
    best, other = (row["allocation"] for row in rows if row["source"] == "finalist")
    confidence = {"within": 0.02, "probability": 0.9, "shortfall": 0.1}
    for event in events:
        if event["event"] in ("told", "concluded"):
            event |= {"recommended": other, "confidence": confidence}
        if (row := event.get("row")) and row["source"] == "finalist":
            row["score"] = 0.7 if row["allocation"] == best else 0.6
    run.journal_file.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert read_state(run.journal_file).recommended == other
    document = json.loads(cli("status", "small", "--json").stdout)
    assert document["recommended"] == document["best"]["allocation"] == best
    assert (document["recommended_tried"], document["confidence"]) == (True, None)
    text = " ".join(cli("status", "small").stdout.split())
    assert re.search(r"recommended: [^ ]+ → [^ ]+ \('best' above\)", text)
    assert "expected to score best" not in text


@pytest.mark.parametrize(
    ("trials", "text"), [(1, "1 trial has .* does not count it$"), (2, "2 trials have .* them$")]
)
def test_one_trial_is_one(trials, text):
    assert re.match(text, since_text(trials))
