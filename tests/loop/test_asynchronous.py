"""Searches that propose a trial as soon as another one has ended (``search.asynchronous``)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agenttts.dispatch.base import JobStatus
from agenttts.loop import controller_job as process
from agenttts.loop.search_loop import SearchLoop
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, read_state
from tests.support.killing import killed_at
from tests.support.runs import journal_events, kill_controller, table, told_of, until_more_events
from tests.support.scripted import one_trial_a_job
from tests.support.shared_jobs import one_worker

SIZE, ITERATIONS = 3, 3


def spec(scripted_spec, **changes: object) -> Path:
    values = {
        "search__asynchronous": True,
        "search__batch_size": SIZE,
        "search__iterations": ITERATIONS,
    }
    path: Path = scripted_spec(**values | changes)
    return path


def check(
    run: Path, method: str = "agenttts", iterations: int = ITERATIONS
) -> list[dict[str, Any]]:
    """The run has all its trials, each told once; return the journal's events.

    Never more trials are under way than allowed, and never fewer without a reason.
    """
    events = journal_events(run)
    searched = table(run).filter(~table(run)["source"].is_in(["recommended"]))
    initial = searched.filter(searched["iteration"] == 0).height
    if method == "agenttts":
        assert searched.height == initial + SIZE * iterations
    told: list[str] = []
    proposed = 0
    finished: set[str] = set()
    for event in events:
        if event["event"] == "proposed":
            proposed += len(event["trials"])
            under_way = proposed - len(told)
            assert under_way <= max(initial, SIZE) or proposed == initial
            if proposed > initial:
                assert under_way <= SIZE
        elif event["event"] == "finished":
            finished.add(event["trial"])
        elif event["event"] == "told_results":
            told += event["trials"]
            assert finished.issuperset(event["trials"]), "it is told what has ended"
    names = [name for name in told if name in set(searched["trial"])]
    assert sorted(names) == sorted(searched["trial"])
    assert len(told) == len(set(told))
    return events


@pytest.mark.parametrize("method", ["agenttts", "random", "gp"])
def test_every_trial_of_the_budget_is_run_and_told_once(cli, scripted_spec, tmp_path, method):
    done = cli("launch", spec(scripted_spec, search__method=method), "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    check(run, method)
    iterations = table(run).group_by("iteration").len().sort("iteration").rows()
    assert [n for _, n in iterations[1:ITERATIONS]] == [SIZE] * (ITERATIONS - 1)


def test_a_slow_trial_holds_up_no_other(unstarted_run, tmp_path, monkeypatch):
    """The controller is told that the first trial runs, as long as it has another one."""
    run = unstarted_run(
        cluster=one_trial_a_job(tmp_path, max_running=2),
        search__asynchronous=True,
        search__batch_size=2,
        search__method="random",
        search__iterations=6,
    )
    controller = process.make_controller(run.read())
    scheduler, state = controller._evaluation._scheduler, controller._journal.state
    poll = scheduler.poll

    def first_one_last(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        statuses = poll(job_ids)
        job = state.trials["t0000"].job_id
        if job in statuses and len(state.unfinished()) > 1:
            statuses[job] = JobStatus("RUNNING", ended=False)
        return statuses

    monkeypatch.setattr(scheduler, "poll", first_one_last)
    controller.run()
    ends = [event["trial"] for event in journal_events(run.path, "finished")]
    assert ends.index("t0000") == 2 * 6 - 1, "all others of the search ended while it went on"


@pytest.mark.processes
def test_a_controller_killed_at_any_point_goes_on(cli, scripted_spec, tmp_path):
    slow = {"seconds_per_sample": 0.01}
    path = spec(
        scripted_spec,
        models__strong__options=slow,
        models__weak__options=slow,
        search__iterations=1,
    )
    assert cli("launch", path, "--cluster", one_worker(tmp_path)).returncode == 0
    run = tmp_path / "results" / "small"
    for events in (3, 2):
        until_more_events(run, events)
        assert kill_controller(run), "the run was over before it could be killed"
        assert cli("resume", "small").returncode == 0
    assert cli("resume", "small", "--wait").returncode == 0
    check(run, iterations=1)
    ends = [event["trial"] for event in journal_events(run, "finished")]
    assert len(ends) == len(set(ends)) == table(run).height


def restored_archive(directory):
    """What a new controller has told its searcher before it goes on."""
    controller = process.make_controller(directory.read())
    with killed_at(SearchLoop, "_search_asynchronously"):
        controller.run()
    return controller._searcher.archive


def test_a_new_controller_knows_what_the_old_one_was_told(cli, scripted_spec, tmp_path):
    """Results in the order in which they were told, and what was pending."""
    done = cli("launch", spec(scripted_spec), "--wait")
    assert done.returncode == 0, done.stderr
    directory = RunDirectory(tmp_path / "results" / "small")
    state = read_state(directory.journal_file)
    # As if the controller had died before the last three results were told.
    lines = directory.journal_file.read_text().splitlines(keepends=True)
    told = [n for n, line in enumerate(lines) if '"told_results"' in line]
    directory.journal_file.write_text("".join(lines[: told[-3]]))
    archive = restored_archive(directory)
    # After these, the trial of the recommendation may have been told, too.
    kept = state.tells[: len(told) - 3]
    known = [state.trials[n].planned.allocation for names in kept for n in names]
    trials = [name for names in kept for name in names]
    told = [r for n in trials for r in told_of(directory, state.trials[n])]
    assert [result.allocation for result in archive.results] == list(
        dict.fromkeys(result.allocation for result in told)
    )
    assert set(known) <= {result.allocation for result in archive.results}
    before = read_state(directory.journal_file)
    pending = {p.planned.allocation for p in before.trials.values()} - set(known)
    stored = {result.allocation for result in archive.results} - set(known)
    assert set(archive.pending) == pending - stored


def test_a_run_whose_every_trial_fails_ends(cli, scripted_spec, tmp_path):
    options = {"fail": "OOM"}
    path = spec(scripted_spec, models__strong__options=options, models__weak__options=options)
    done = cli("launch", path, "--wait")
    assert done.returncode == 4
    assert re.search(r"the last (\d+ trials all|trial) failed; the first: ", done.stderr)


def test_cancel_and_resume(cli, scripted_spec, tmp_path):
    done = cli("launch", spec(scripted_spec, search__method="random"), "--wait")
    run = tmp_path / "results" / "small"
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    middle = [n for n, line in enumerate(lines) if '"told_results"' in line][3]
    (run / "journal.jsonl").write_text("".join(lines[:middle]))
    assert cli("cancel", "small").returncode == 0
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    check(run, "random")


def test_trials_that_are_tried_again_run_beside_the_others(cli, scripted_spec, tmp_path):
    """They are told once more, and a later controller is told their last results only."""
    done = cli("launch", spec(scripted_spec, search__method="random"), "--wait")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results" / "small"
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    # Before the second time that trials are given to a job: they have been proposed only.
    given = [n for n, e in enumerate(journal_events(run)) if e["event"] in ("submitting", "assigned")]  # fmt: skip
    (run / "journal.jsonl").write_text("".join(lines[: given[1]]))
    again = read_state(run / "journal.jsonl").tells[0][0]
    journal = Journal(run / "journal.jsonl")
    journal.append("retried", earlier={again: 0})  # as `resume --retry-failed` does
    journal.close()
    told = {name for names in journal.state.tells for name in names}
    for directory in (run / "trials").iterdir():
        if directory.name == again or directory.name not in told:
            shutil.rmtree(directory)

    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    events = journal_events(run)
    retried = next(n for n, event in enumerate(events) if event["event"] == "retried")
    batch = next(event for event in events[retried:] if event["event"] == "submitting")
    assert again in batch["trials"]
    assert len(batch["trials"]) > 1, "it goes together with those that were proposed"
    told = [name for e in events if e["event"] == "told_results" for name in e["trials"]]
    assert told.count(again) == 2
    assert all(told.count(name) == 1 for name in set(told) - {again})
    numbers = [event["told"] for event in events if event["event"] == "told_results"]
    assert numbers == sorted(numbers), "no iteration is open again"
    results = restored_archive(RunDirectory(run)).evaluated
    assert len(results) == table(run).height == len({r.allocation for r in results})
    ended = table(run).filter(table(run)["trial"] == again)
    assert ended["state"].to_list() == ["COMPLETED"]


@pytest.mark.parametrize(
    ("changes", "ends_with"),
    [
        ({}, "all trials"),
        ({"search__finalists": {"examples": 12}}, "finalists"),
        ({"search__stop": {"within": 0.9, "confidence": 0.5}, "search__iterations": 6}, "stop"),
        ({"search__budget": 9, "search__iterations": 20}, "all allocations"),
    ],
)
def test_it_is_told_when_no_trial_follows_so_that_workers_and_server_end(
    unstarted_run, tmp_path, changes, ends_with
):
    """They held their GPUs until the last trial of the search, or of the run, had ended.

    Trials run one at a time, so the controller sees one end at each look, however slow it is.
    """
    values = {
        "search__asynchronous": True,
        "search__batch_size": SIZE,
        "search__iterations": ITERATIONS,
        "search__stored": False,
    }
    run = unstarted_run(cluster=one_trial_a_job(tmp_path), **values | changes)
    controller = process.make_controller(run.read())
    evaluate, follow, goes_on, under_way = controller._evaluation.evaluate, {}, [], []
    state = controller._journal.state

    def noted(trials: list[Any], **options: Any) -> None:
        if options.get("until_one_ends"):
            searched = len(state.trials) - len(state.closing)
            follow.setdefault(searched, []).append(options["trials_follow"])
            goes_on.append(options["iteration_follows"])
            under_way.append(len(trials))
        evaluate(trials, **options)

    controller._evaluation.evaluate = noted
    controller.run()
    numbers = sorted(follow)
    assert all(follow[number] == [True] for number in numbers[:-2])
    last = follow[numbers[-1]]
    assert under_way[-SIZE:] == list(range(SIZE, 0, -1)), "it is asked after each of the last"
    assert goes_on[-1] is False
    if ends_with == "finalists":
        assert set(last) == {True}
    else:
        assert last[-1] is False
        assert last == sorted(last, reverse=True), "first asked while some may follow"


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_job_is_told_of_all_trials_that_run_with_it_and_no_others(
    unstarted_run, tmp_path, monkeypatch, asynchronous
):
    """By them it divides the samples and a server's requests.

    Of an asynchronous search it was told of its own iteration: of trials that had ended, and not of
    those of the iteration before that still ran. Here the controller is told that jobs have ended
    one by one, the last one first, and of none while a trial has no job.
    """
    run = unstarted_run(
        cluster=one_trial_a_job(tmp_path, max_running=2),
        search__asynchronous=asynchronous,
        search__batch_size=2,
        search__iterations=3,
        search__method="random",
    )
    controller = process.make_controller(run.read())
    builder, state = controller._evaluation._builder, controller._journal.state
    write_specs, iterations = builder.write_specs, set()

    def noted(trials: Any, jobs: Any) -> Any:
        told = [planned for job in jobs for planned in job]
        assert [p.trial for p in told] == [p.planned.trial for p in state.unfinished()]
        iterations.add(len({p.iteration for p in told}))
        return write_specs(trials, jobs)

    builder.write_specs = noted
    scheduler = controller._evaluation._scheduler
    poll = scheduler.poll

    def last_one_first(job_ids: Iterable[str]) -> dict[str, JobStatus]:
        statuses = poll(job_ids)
        may_end = 0 if any(p.job_id is None for p in state.unfinished()) else 1
        kept = list(statuses)[: len(statuses) - may_end]
        return statuses | dict.fromkeys(kept, JobStatus("RUNNING", ended=False))

    monkeypatch.setattr(scheduler, "poll", last_one_first)
    controller.run()
    assert iterations == ({1, 2} if asynchronous else {1})
