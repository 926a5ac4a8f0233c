"""``finish``: end a search early, with its finalists and its final test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.loop.recorded_search import RecordedSearch
from agenttts.run.journal import read_state
from agenttts.run.starts import RunCancelled
from agenttts.tables.schema import AFTER_SEARCH, FINALIST_SOURCE, RECOMMENDED_SOURCE, TEST_SOURCE
from tests.support.runs import journal_events, kill_controller, table, until_more_events
from tests.support.shared_jobs import one_worker
from tests.support.waiting import until

AFTER = {
    "search__iterations": 4,
    "search__finalists": {"examples": 12, "top": 2},
    "search__test_split": {"examples": 6},
}


def stopped_at(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let the next controller end, as by a cancel, after its first call of a method."""
    original = getattr(RecordedSearch, where)

    def stops(self: RecordedSearch, *args: object, **options: object) -> None:
        original(self, *args, **options)
        monkeypatch.setattr(RecordedSearch, where, original)
        raise RunCancelled("stopped")

    monkeypatch.setattr(RecordedSearch, where, stops)


def check_finished(run: Path, searched: set[str]) -> None:
    """The run is done with these trials of the search, its finalists and its final test."""
    assert read_state(run / "journal.jsonl").finished == "done"
    rows = table(run)
    by_source: dict[str, set[str]] = {}
    for trial, source in rows.select("trial", "source").iter_rows():
        by_source.setdefault(source, set()).add(trial)
    assert set().union(*(t for s, t in by_source.items() if s not in AFTER_SEARCH)) == searched
    assert len(by_source[FINALIST_SOURCE]) == 2
    assert by_source[TEST_SOURCE]
    assert RECOMMENDED_SOURCE not in by_source
    assert set(rows["state"]) == {"COMPLETED"}
    [event] = journal_events(run, "finishing")
    state = read_state(run / "journal.jsonl")
    tried = [p.planned.allocation.to_records() for p in state.trials.values()]
    assert event["recommended"] in tried
    assert state.recommended in tried


@pytest.mark.parametrize(("asynchronous", "where"), [(False, "conclude"), (True, "tell_some")])
def test_a_stopped_run_is_finished(cli, scripted_spec, tmp_path, monkeypatch, asynchronous, where):
    spec = scripted_spec(**AFTER, search__asynchronous=asynchronous)
    stopped_at(monkeypatch, where)
    cli("launch", spec)
    run = tmp_path / "results" / "small"
    proposed = {t["trial"] for e in journal_events(run, "proposed") for t in e["trials"]}
    assert read_state(run / "journal.jsonl").finished == "cancelled"
    done = cli("finish", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert "after them the finalists, then the final test" in done.stdout
    assert "the search ends early" in done.stdout
    check_finished(run, proposed)

    before = (run / "journal.jsonl").read_bytes()
    done = cli("finish", "small")
    assert (done.returncode, "the run is over" in done.stdout) == (0, True)
    assert cli("resume", "small", "--wait").returncode == 0
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_new_journal_keeps_to_it(cli, scripted_spec, tmp_path, monkeypatch):
    stopped_at(monkeypatch, "conclude")
    cli("launch", scripted_spec(**AFTER))
    run = tmp_path / "results" / "small"
    proposed = {t["trial"] for e in journal_events(run, "proposed") for t in e["trials"]}
    (run / "finish.json").write_text("{}")
    (run / "journal.jsonl").unlink()
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    check_finished(run, proposed)


def test_a_run_without_a_score_has_nothing_to_recommend(cli, scripted_spec, tmp_path, monkeypatch):
    stopped_at(monkeypatch, "plan")
    cli("launch", scripted_spec(**AFTER))
    done = cli("finish", "small")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "no trial has a score yet" in done.stderr
    assert "agenttts-hpc cancel" in done.stderr
    assert not (tmp_path / "results" / "small" / "finish.json").exists()


def test_rivals_are_compared_on_common_examples(cli, scripted_spec, tmp_path, monkeypatch):
    """With `search.examples` the best allocations were not all scored on the same ones."""
    stopped_at(monkeypatch, "conclude")
    cli(
        "launch",
        scripted_spec(
            search__examples=3,
            search__method="random",
            search__batch_size=3,
            search__iterations=4,
        ),
    )
    run = tmp_path / "results" / "small"
    searched = {t["trial"] for e in journal_events(run, "proposed") for t in e["trials"]}
    before = table(run)
    done = cli("finish", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert "after them trials of the best allocations on common examples" in done.stdout
    rows = table(run)
    last = rows.filter(rows["source"] == RECOMMENDED_SOURCE)
    assert set(rows["trial"]) - set(last["trial"]) == searched, "no trial of the search is proposed"
    assert last.height in (1, 2, 3)
    tried = before["allocation"].to_list()
    assert all(allocation in tried for allocation in last["allocation"].to_list())
    planned = [p.planned for p in read_state(run / "journal.jsonl").trials.values()]
    common = {p.examples for p in planned if p.source == RECOMMENDED_SOURCE}
    assert len(common) == 1
    scores = {
        str(p.allocation): rows.filter(rows["trial"] == p.trial)["score"].item()
        for p in planned
        if p.examples in common
    }
    [chosen] = [
        str(p.allocation)
        for p in planned
        if p.trial in searched
        and p.allocation.to_records() == read_state(run / "journal.jsonl").recommended
    ]
    assert scores[chosen] == max(scores.values())


@pytest.mark.processes
def test_a_running_search_is_finished_also_if_its_controller_is_killed(
    cli, scripted_spec, tmp_path
):
    slow = {"seconds_per_sample": 0.004}
    spec = scripted_spec(
        **AFTER | {"search__iterations": 30},
        models__strong__options=slow,
        models__weak__options=slow,
        cluster=one_worker(tmp_path),
    )
    assert cli("launch", spec).returncode == 0
    run = tmp_path / "results" / "small"
    until(lambda: (run / "journal.jsonl").exists() and journal_events(run, "told"))
    done = cli("finish", "small", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finishing"] is True
    until(lambda: journal_events(run, "finishing"))
    until_more_events(run, 1)
    assert kill_controller(run), "the run was over before it could be killed"
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    searched = table(run).filter(~table(run)["source"].is_in(list(AFTER_SEARCH)))
    assert searched["iteration"].max() < 30
    check_finished(run, set(searched["trial"]))
