"""What a run recommends at its end was tried: if need be by one trial more."""

from __future__ import annotations

import shutil
from contextlib import closing

import polars as pl
import pytest
import yaml

from agenttts.loop import controller_job as process
from agenttts.loop.recorded_search import RecordedSearch
from agenttts.run.journal import Journal
from tests.support.killing import killed_at
from tests.support.runs import journal_events, table


@pytest.fixture
def run(unstarted_run):
    return unstarted_run(search__iterations=0)


def hopeful(controller):
    """Its searcher recommends the cheapest allocation unless asked for a tried one; which is no
    initial trial.
    """
    searcher = controller._searcher
    tried = searcher.best
    searcher.best = lambda *, tried_=tried, tried=False: (
        tried_(tried=True) if tried else searcher.space.cheapest
    )
    return searcher.space.cheapest


def test_an_untried_recommendation_is_tried_once(run):
    controller = process.make_controller(run.read())
    cheapest = hopeful(controller)
    controller.run()
    frame = table(run.path)
    [last] = frame.filter(pl.col("source") == "recommended").to_dicts()
    assert last["trial"] == frame["trial"].max()
    assert last["iteration"] == frame["iteration"].max() == 1
    assert last["allocation"] == cheapest.to_records()
    assert last["state"] == "COMPLETED"
    assert journal_events(run.path, "told")[0]["recommended"] == cheapest.to_records()
    final = journal_events(run.path, "told")[-1]
    assert (final["iteration"], len(journal_events(run.path, "told"))) == (1, 2)
    assert final["recommended"] in frame["allocation"].to_list()
    # A controller that comes later finds it done.
    again = process.make_controller(run.read())
    hopeful(again)
    again.run()
    assert table(run.path).height == frame.height


def test_a_controller_killed_before_it_is_told_goes_on(run):
    controller = process.make_controller(run.read())
    hopeful(controller)
    with killed_at(RecordedSearch, "tell", when=lambda *_, final=False: final):
        controller.run()
        pytest.fail("it was not killed")
    again = process.make_controller(run.read())
    hopeful(again)
    again.run()
    assert len(journal_events(run.path, "finished")) == table(run.path).height
    assert [event["iteration"] for event in journal_events(run.path, "told")] == [0, 1]
    assert journal_events(run.path, "ended")[-1]["outcome"] == "done"


def test_a_recommendation_that_was_tried_costs_nothing(unstarted_run):
    run = unstarted_run(search__iterations=0, search__stored=False)
    process.make_controller(run.read()).run()
    assert "recommended" not in table(run.path)["source"].to_list()
    assert len(journal_events(run.path, "told")) == 1


def test_a_recommendation_that_fails_again_does_not_end_the_run_as_failed(run):
    """As one that fails the first time does not."""
    controller = process.make_controller(run.read())
    hopeful(controller)
    controller.run()
    [last] = table(run.path).filter(pl.col("source") == "recommended")["trial"]
    shutil.rmtree(run.trial(last))
    fails = {"setup": ["exit 9"], "max_attempts": 1}
    profile = yaml.safe_load(run.profile_file.read_text()) | fails
    run.profile_file.write_text(yaml.safe_dump(profile))
    with closing(Journal(run.journal_file)) as journal:
        journal.append("retried", earlier={last: 0})  # as `resume --retry-failed` does
    again = process.make_controller(run.read())
    hopeful(again)
    again.run()
    assert table(run.path).filter(pl.col("trial") == last)["state"].to_list() == ["INFRA_FAILED"]
    assert journal_events(run.path, "ended")[-1]["outcome"] == "done"
