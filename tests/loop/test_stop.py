"""Searches that end when they are sure enough (``search.stop``)."""

from __future__ import annotations

import json

import pytest

from agenttts.loop import controller_job
from agenttts.loop.recorded_search import RecordedSearch
from tests.support.killing import killed_at
from tests.support.runs import journal_events, outcome, table

SIZES = {"search__iterations": 6, "search__batch_size": 4}
# The recommendation is good enough as soon as anything is known of it.
EASY = {"within": 0.9, "confidence": 0.5}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_ends_when_it_is_sure_enough(unstarted_run, cli, asynchronous):
    run = unstarted_run(search__stop=EASY, search__asynchronous=asynchronous, **SIZES)
    controller_job.make_controller(run.read()).run()
    searched = table(run.path).filter(table(run.path)["source"] != "recommended")
    assert searched.height < 3 + 6 * 4
    events = [e for e in journal_events(run.path) if e["event"] in ("told", "told_results")]
    sure = [e["confidence"] for e in events]
    assert sure[0] is None, "too few trials"
    reached = [number for number, c in enumerate(sure) if c and c["probability"] >= 0.5]
    assert reached
    assert all(c["within"] == 0.9 for c in sure if c)
    if not asynchronous:
        assert [e["iteration"] for e in events][reached[0]] == searched["iteration"].max()
        assert searched.height >= 8
    assert journal_events(run.path, "ended")[-1]["outcome"] == "done"
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["confidence"] == sure[-1]
    report = json.loads(cli("report", "small", "--format", "json").stdout)
    assert report["runs"][0]["recommended"]["confidence"] == sure[-1]
    for command in ("status", "report"):
        shown = " ".join(cli(command, "small").stdout.split())
        assert "within 0.9 of the best (relative) with probability" in shown


def test_an_asynchronous_search_without_stop_says_how_sure_it_is_after_each_iteration(
    unstarted_run, cli
):
    run = unstarted_run(search__asynchronous=True, search__iterations=3, search__batch_size=4)
    controller_job.make_controller(run.read()).run()
    told, under_way, before = [], set(), 0
    for event in journal_events(run.path):
        if event["event"] == "proposed":
            under_way |= {t["trial"] for t in event["trials"] if t["source"] != "recommended"}
        if event["event"] == "told_results":
            under_way -= set(event["trials"])
            # Several trials may end at once, so between two iterations nothing may be under way.
            asked = event["told"] > before or not under_way
            before = event["told"]
            told.append(event)
            assert asked or event["confidence"] is None
    assert told[-1]["confidence"]
    # A trial of the recommended allocation may come last.
    events = [e for e in journal_events(run.path) if e["event"] in ("told", "told_results")]
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["confidence"] == events[-1]["confidence"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_search_that_has_ended_is_not_continued_by_a_later_doubt(unstarted_run, asynchronous):
    """The last result may make the searcher less sure; a restart then has to end as before."""
    run = unstarted_run(
        search__stop=EASY,
        search__asynchronous=asynchronous,
        search__test_split={"examples": 1},
        **SIZES,
    )
    controller_job.make_controller(run.read()).run()
    before = table(run.path)
    lines = run.journal_file.read_text().splitlines(keepends=True)
    kept = []
    for line in lines:
        event = json.loads(line)
        if event["event"] == "ended":
            break
        if event.get("confidence"):
            event["confidence"]["probability"] = 0.1
        kept.append(json.dumps(event) + "\n")
    run.journal_file.write_text("".join(kept))
    controller_job.make_controller(run.read()).run()
    assert table(run.path)["trial"].to_list() == before["trial"].to_list()


def test_a_search_that_is_never_sure_goes_on_to_its_end(unstarted_run):
    hard = {"within": 1e-9, "confidence": 0.999}
    run = unstarted_run(search__stop=hard, search__iterations=2)
    controller_job.make_controller(run.read()).run()
    assert len(journal_events(run.path, "told")) >= 3


def test_a_killed_controller_stops_where_the_other_would_have(unstarted_run):
    calm = unstarted_run(search__stop=EASY, name="calm", **SIZES)
    controller_job.make_controller(calm.read()).run()
    run = unstarted_run(search__stop=EASY, name="killed", **SIZES)
    for place in range(1, 4):

        def is_there(iteration, *, final, place=place):
            return iteration == place - 1

        with killed_at(RecordedSearch, "conclude", when=is_there, after=True):
            controller_job.make_controller(run.read()).run()
    controller_job.make_controller(run.read()).run()
    assert outcome(run.path) == outcome(calm.path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search__stop": {"within": 2}}, "search.stop.within"),
        ({"search__stop": {"confidence": 0.2}}, "search.stop.confidence"),
        ({"search__stop": {"sure": 0.9}}, "search.stop"),
        ({"search__stop": {}, "search__method": "random"}, "search.stop: method 'random'"),
        ({"search__stop": {}, "search__options": {"insights": [1, 2]}}, "include 2 and 3"),
        ({"search__stop": {}, "search__options": {"insights": [3]}}, "include 2 and 3"),
    ],
)
def test_a_wrong_stop_is_one_sentence(cli, scripted_spec, changes, said):
    done = cli("launch", scripted_spec(**changes), "--dry-run")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
