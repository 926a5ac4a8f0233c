"""``resume --from-tables``: a new journal from the trials' own files; ``resume --retry-failed``."""

from __future__ import annotations

import json
import resource
import shutil
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.launch import launch
from agenttts.run.journal import Journal, read_state
from tests.support.runs import attempts, journal_events, outcome, table


@pytest.fixture
def finished(finished_run):
    return finished_run(search__iterations=1, search__batch_size=2, task__examples=2)


def garbage(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[len(lines) // 2] = b"\0\xff not a line\n"
    journal.write_bytes(b"".join(lines))


DAMAGE = {
    "a line": garbage,
    "missing": Path.unlink,
    "empty": lambda journal: journal.write_bytes(b""),
    "binary": lambda journal: journal.write_bytes(bytes(range(256)) * 4 + b"\n"),
    "no line end": lambda journal: journal.write_bytes(bytes(200)),
    "an event of another type": lambda journal: journal.write_text('{"event": "told"}\n'),
    "an unknown trial": lambda journal: journal.write_text(
        journal.read_text() + '{"event": "submitted", "jobs": {"t9999": "1"}}\n'
    ),
    "a row of another type": lambda journal: journal.write_text(
        journal.read_text().replace('"score": 0', '"score": [0], "x": 0', 1)
    ),
    "deep": lambda journal: journal.write_bytes(b"[" * 100_000 + b"\n"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_journal_is_told_with_the_way_out(finished, cli, how):
    DAMAGE[how](finished / "journal.jsonl")
    for command in ("status", "report", "resume", "cancel"):
        done = cli(command, "small")
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert "journal.jsonl" in done.stderr
        assert f"agenttts-hpc resume {finished} --from-tables" in done.stderr


@pytest.mark.parametrize("how", ["a line", "missing"])
def test_a_journal_made_anew_keeps_every_result(finished, cli, how):
    before = outcome(finished)
    left = (finished / "journal.jsonl").read_bytes()
    starts = attempts(finished)
    DAMAGE[how](finished / "journal.jsonl")
    done = cli("resume", "small", "--from-tables", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    rebuilt = json.loads(done.stdout)["rebuilt"]
    assert rebuilt["from_results"] == table(finished)["trial"].to_list()
    assert rebuilt["from_table"] == rebuilt["again"] == rebuilt["lost"] == []
    assert outcome(finished) == before
    assert attempts(finished) == starts, "no trial ran again"
    assert read_state(finished / "journal.jsonl").finished == "done"
    if how == "a line":
        kept = (finished / "journal.jsonl.damaged-1").read_bytes()
        assert len(kept.splitlines()) == len(left.splitlines())
    record = json.loads((finished / "run.json").read_text())
    assert len(record["earlier_tokens"]) == 1
    assert record["token"] not in record["earlier_tokens"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_journal_made_anew_keeps_the_guidelines(finished_run, cli, asynchronous):
    """Also those that only a proposal has."""
    run = finished_run(search__iterations=3, search__batch_size=2, search__asynchronous=asynchronous, task__examples=8)  # fmt: skip
    before = read_state(run / "journal.jsonl").guidelines
    events = journal_events(run)
    assert len(before) > 2
    assert any(event["guidelines"] for event in events if event["event"] == "proposed")
    assert sum(len(event.get("guidelines", ())) for event in events) == len(before)
    with (run / "journal.jsonl").open("ab") as journal:
        journal.write(b"damaged\n")
    assert cli("resume", "small", "--from-tables", "--wait").returncode == 0
    assert read_state(run / "journal.jsonl").guidelines == before


def test_what_is_kept_and_what_is_lost_is_said(finished, cli):
    """Results damaged in every way: by their rows, again, or lost."""
    trials = table(finished)["trial"].to_list()
    by_row, again, lost = trials[1], trials[2], trials[3]
    (finished / "trials" / by_row / "result.json").write_text("{}")
    (finished / "trials" / again / "examples.parquet").unlink()
    (finished / "trials" / lost / "trial.json").write_bytes(b"\xff")
    (finished / "journal.jsonl").unlink()
    frame = pl.read_parquet(finished / "trials.parquet")
    frame.filter(~pl.col("trial").is_in([again, lost])).write_parquet(finished / "trials.parquet")
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"1 trial ({by_row}) from their rows in the table of trials" in said
    assert f"run again: 1 trial ({again})" in said
    assert f"they cannot be restored without their allocation: 1 trial ({lost})" in said
    after = table(finished)
    assert set(after["state"]) == {"COMPLETED"}
    assert after.height >= len(trials) - 1
    assert list((finished / "trials").glob(f".{lost}.damaged-*"))
    done = cli("export", "small", "--samples", "samples.jsonl")
    assert done.returncode == 0, done.stderr


def test_a_sound_journal_is_not_replaced(finished, cli):
    before = (finished / "journal.jsonl").read_bytes()
    done = cli("resume", "small", "--from-tables")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "is not damaged" in done.stderr
    assert (finished / "journal.jsonl").read_bytes() == before


def test_nothing_to_rebuild_from(finished, cli):
    (finished / "journal.jsonl").write_bytes(b"x\n")
    (finished / "trials.parquet").unlink()
    shutil.rmtree(finished / "trials")
    done = cli("resume", "small", "--from-tables")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no trial has usable files" in done.stderr


def test_failed_trials_are_tried_again(cli, scripted_spec, tmp_path):
    """The model that failed works again: as after a mistake outside of the run was put right."""
    spec = scripted_spec(search__iterations=1, search__batch_size=2, task__examples=2)
    run = tmp_path / "results" / "small"
    broken = tmp_path / "broken.json"
    good = scripted_spec(name="good").with_name("weak.json").read_bytes()
    broken.write_bytes(good)
    args = ("launch", spec, "--set", f"models.weak.path={broken}", "--wait")
    from agenttts.launch import launch as module

    def breaks_instead(run: object) -> None:
        broken.write_text("{")

    start, module.start_controller = module.start_controller, breaks_instead
    try:
        cli(*args[:-1], "--json")
    finally:
        module.start_controller = start
    done = cli("resume", "small", "--wait")
    assert done.returncode == 4, done.stderr
    failed = table(run).filter(pl.col("state") != "COMPLETED")["trial"].to_list()
    assert failed
    before = attempts(run)
    broken.write_bytes(good)
    done = cli("resume", "small", "--retry-failed", "--wait")
    assert done.returncode == 0, done.stderr
    assert f"to be tried again: {len(failed)} trial" in done.stdout
    after = table(run)
    assert set(after["state"]) == {"COMPLETED"}
    assert after["trial"].to_list() == sorted(after["trial"])
    by_trial = dict(after.select("trial", "attempts").iter_rows())
    for trial in failed:
        records = attempts(run, trial)
        assert [r["state"] for r in records][-1] == "COMPLETED"
        assert by_trial[trial] == len(records) >= 2
    assert len(attempts(run)) > len(before)
    [event] = journal_events(run, "retried")
    assert set(event["earlier"]) == set(failed)
    assert journal_events(run, "told")[-1]["recommended"] is not None
    done = cli("resume", "small", "--retry-failed", "--wait")
    assert (done.returncode, "no trial is tried again" in done.stdout) == (0, True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_trial_that_is_tried_again_is_so_after_a_cancel_too(finished_run, cli, asynchronous):
    """Its iteration is over, and the search has been told that it failed."""
    run = finished_run(search__iterations=1, search__asynchronous=asynchronous)
    again = table(run)["trial"][0]
    shutil.rmtree(run / "trials" / again)
    with closing(Journal(run / "journal.jsonl")) as journal:
        journal.append("retried", earlier={again: 0})  # as `resume --retry-failed` does
    assert cli("cancel", "small").returncode == 0
    states = dict(table(run).select("trial", "state").iter_rows())
    assert states[again] == "CANCELLED"
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    assert set(table(run)["state"]) == {"COMPLETED"}
    assert read_state(run / "journal.jsonl").finished == "done"


def test_a_full_disk_at_cancel_stops_the_jobs_and_says_what_is_left_to_do(finished, cli, tmp_path):
    """A limit on the size of files stands for a full disk: the journal cannot grow."""
    journal = finished / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if b'"finished"' in line)
    journal.write_bytes(b"".join(lines[:first]))
    before = journal.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        done = cli("cancel", "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert "are cancelled, but the cancel cannot be recorded" in done.stderr
    assert "journal.jsonl" in done.stderr
    assert journal.read_bytes() == before, "no part of a line is left"
    done = cli("cancel", "small", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"


def test_a_disk_too_full_to_record_the_cancel_stops_the_jobs_too(finished, cli, monkeypatch):
    """The record of the cancel is the first that cannot be written."""
    journal = finished / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if b'"finished"' in line)
    journal.write_bytes(b"".join(lines[:first]))
    stopped = []
    monkeypatch.setattr(
        launch, "stop_controllers", lambda run, on_record: stopped.append((run.path, on_record))
    )
    cancelled = []
    monkeypatch.setattr(
        InProcessScheduler, "cancel", lambda self, jobs: cancelled.append(list(jobs))
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (finished / "controller.json").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 10, limits[1]))
    try:
        done = cli("cancel", "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (3, 1), done.stderr
    assert "are cancelled, but the cancel cannot be recorded" in done.stderr
    assert stopped == [(finished, False)]
    assert cancelled
    monkeypatch.undo()
    done = cli("cancel", "small", "--json")
    assert json.loads(done.stdout)["outcome"] == "cancelled"
    assert json.loads((finished / "controller.json").read_text())["cancelled"]
