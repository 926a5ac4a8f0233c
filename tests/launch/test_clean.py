"""``clean``: what a run that is over no longer needs."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import polars as pl
import pytest

from agenttts.dispatch.in_process import InProcessScheduler
from agenttts.launch import clean, create
from agenttts.launch.plan import make_plan
from agenttts.run import store_users
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal, read_state
from agenttts.spec import load_spec
from tests.support import command_line
from tests.support.runs import attempts, journal_events, kill_controller, outcome, table
from tests.support.scripted import one_trial_a_job, small_spec
from tests.support.waiting import until

SMALL = {
    "search__iterations": 2,
    "search__batch_size": 2,
    "task__examples": 2,
    "search__method": "genetic",
    "search__test_split": {"examples": 3},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The results directory of two runs that are over."""
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("small", 1), ("other", 2)):
        spec = small_spec(folder, name, **SMALL, search__seed=seed)
        done = command_line.call("launch", spec, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "results"


@pytest.fixture
def run(made, tmp_path) -> Path:
    """One of two runs that are over, both copies."""
    shutil.copytree(made, tmp_path / "results")
    run = tmp_path / "results" / "small"
    (run / "slurm" / "trials").mkdir(exist_ok=True)
    (run / "slurm" / "trials" / "7_0_log.err").write_text("a line\n")
    (run / "trials" / "t0000" / "log.txt").write_text("a line\n")
    (run / "trials" / ".t0009.damaged-abc").mkdir()
    (run / "trials" / ".t0009.damaged-abc" / "log.txt").write_text("a line\n")
    return run


def contents(run: Path) -> dict[Path, bytes]:
    return {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def documents(cli, tmp_path: Path) -> list[object]:
    """What the commands that read runs say, without what depends on the moment."""
    said: list[object] = []
    for command in (
        ("status", "small", "--json"),
        ("report", "small", "--format", "json"),
        ("compare", "small", "other", "--json"),
        ("list", "--json"),
    ):
        done = cli(*command)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    status = said[0]
    assert isinstance(status, dict)
    del status["controller"]["log"]  # logs may go
    page = tmp_path / "page.html"
    assert cli("report", "small", "--format", "html", "--out", page).returncode == 0
    said.append(page.read_text().count("t0000"))
    report = tmp_path / "report.csv"
    assert cli("report", "small", "--format", "csv", "--out", report).returncode == 0
    spec, trace = tmp_path / "results" / "small" / "spec.yaml", tmp_path / "trace.csv"
    replayed = cli(
        "replay", report, "--space", spec, "--searcher", "random", "--trials", 3, "--out", trace
    )
    assert replayed.returncode == 0, replayed.stderr
    said.append(pl.read_csv(trace).height)
    return said


def test_reports_compare_and_replay_work_as_before(run, cli, tmp_path):
    before, files = documents(cli, tmp_path), contents(run)
    shown = cli("clean", "small", "--json")
    assert shown.returncode == 0, shown.stderr
    assert contents(run) == files, "only shown"
    document = json.loads(shown.stdout)
    done = cli("clean", "small", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == document | {"removed": True}
    [cleaned] = document["runs"]
    gone = files.keys() - contents(run).keys()
    assert cleaned["bytes"] == sum(len(files[path]) for path in gone) > 0
    assert sum(part["files"] for part in cleaned["parts"]) == len(gone)
    assert Path("slurm/trials/7_0_log.err") in gone
    assert Path("trials/t0000/log.txt") in gone
    assert any(path.parts[0] == "samples" for path in gone)
    assert not any(path.parts[0] == "samples" for path in contents(run))
    assert not (run / "trials" / ".t0009.damaged-abc").exists()
    assert documents(cli, tmp_path) == before
    again = cli("clean", "small", "--yes")
    assert (again.returncode, "nothing to remove" in again.stdout) == (0, True)


def test_what_cannot_be_done_any_more_is_said(run, cli):
    done = cli("clean", "small", "other")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "resume, extend and other runs draw these samples again" in said
    assert "without them, 'logs RUN' shows only the reasons in the journal" in said
    assert "nothing was removed; --yes removes the files" in said
    assert "can be removed" in said
    assert cli("logs", "small").returncode == 0


def test_a_cleaned_run_is_extended_and_gets_a_new_journal(run, cli):
    before = outcome(run)
    assert cli("clean", "small", "--yes").returncode == 0
    (run / "journal.jsonl").unlink()
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run) == before
    done = cli("extend", "small", "--set", "search.iterations=3", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(run)[: len(before)] == before
    assert len(table(run)) > len(before)
    assert all(len(attempts(run, trial)) == 1 for trial in table(run)["trial"])


@pytest.mark.parametrize("place", ["another run", "a link", "elsewhere"])
def test_samples_that_others_may_use_stay(run, cli, tmp_path, place):
    record = json.loads((run / "run.json").read_text())
    if place == "another run":
        other = tmp_path / "results" / "other" / "run.json"
        sharing = json.loads(other.read_text()) | {"samples": str(run / "samples")}
        other.write_text(json.dumps(sharing))
    elif place == "a link":
        (run / "samples").rename(tmp_path / "store")
        (run / "samples").symlink_to(tmp_path / "store")
    else:
        (run / "samples").rename(tmp_path / "store")
        (run / "run.json").write_text(json.dumps(record | {"samples": str(tmp_path / "store")}))
    store = run / "samples" if place == "another run" else tmp_path / "store"
    kept = contents(store)
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr
    assert "samples in" in done.stdout
    assert "stay" in done.stdout
    assert contents(store) == kept != {}


@pytest.mark.parametrize("user", ["there", "unreadable", "closed", "moved", "gone for good"])
def test_samples_that_a_run_of_another_results_directory_uses_stay(
    run, cli, tmp_path, user, monkeypatch
):
    elsewhere = tmp_path / "elsewhere"
    spec = small_spec(tmp_path, "user", **SMALL, samples=str(run / "samples"))
    done = cli("launch", spec, "--results", elsewhere)
    assert done.returncode == 0, done.stderr
    [record] = (run / "samples").glob(".user-*")
    if user == "unreadable":
        (elsewhere / "user" / "run.json").write_text("{")
    elif user == "closed":
        read = Path.read_bytes

        def closed(path: Path) -> bytes:
            if path.is_relative_to(elsewhere):
                raise PermissionError(13, "Permission denied", str(path))
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", closed)
    elif user != "there":
        elsewhere.rename(tmp_path / "moved")
        if user == "gone for good":
            record.unlink()
    kept = contents(run / "samples")
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr
    if user == "gone for good":
        assert contents(run / "samples") == {}
    else:
        assert contents(run / "samples") == kept != {}
        said = "".join(done.stdout.split())
        assert f"{elsewhere / 'user'}" in said
        assert (f"remove{record}" in said) == (user != "there")


@pytest.mark.parametrize("fault", ["closed", "not text", "just removed"])
def test_the_record_of_a_user_that_cannot_be_read_keeps_the_samples(run, cli, monkeypatch, fault):
    """A colleague's umask may close it; other programs may write such files, too."""
    record = run / "samples" / ".user-0123456789abcdef.txt"
    record.write_bytes(b"/a/run/\xff\n")
    kept = contents(run / "samples")
    if fault != "not text":
        read = Path.read_text
        error = {"closed": PermissionError(13, "closed"), "just removed": FileNotFoundError(2, "")}

        def refused(path: Path, *args: Any, **options: Any) -> str:
            if path == record:
                raise error[fault]
            return read(path, *args, **options)

        monkeypatch.setattr(Path, "read_text", refused)
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr
    if fault == "just removed":
        assert contents(run / "samples") == {}
    else:
        assert contents(run / "samples") == kept != {}
        assert f"perhapstherunthat{record}names" in "".join(done.stdout.split())


class Launch(Thread):
    """Makes a run that uses a store, and waits for `go` before it renames the run."""

    def __init__(self, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(daemon=True)
        self.plan = make_plan(
            load_spec(small_spec(folder, "user", **SMALL, samples=str(store))),
            [folder],
            folder / "results",
        )
        self.run_made = RunDirectory(folder / "results" / "user")
        self.made: bool | None = None
        self._recorded, self._go = Event(), Event()
        rename = Path.rename

        def waiting(path: Path, target: Path) -> Path:
            if target == self.run_made.path:
                self._recorded.set()
                self._go.wait()
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", waiting)
        self.start()
        self._recorded.wait()

    def run(self) -> None:
        try:
            self.made = create.create_run(self.run_made, self.plan)
        finally:
            self._recorded.set()

    def finish(self) -> None:
        """Rename the run, and wait until that is done."""
        self._go.set()
        self.join()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", ["store_users", "runs_being_made", "run_paths", "_remove"])
def test_samples_of_a_run_that_is_renamed_meanwhile_stay(run, tmp_path, monkeypatch, step, before):
    """`clean` missed a run that was renamed after it had listed the runs beside it."""
    launching = Launch(tmp_path, run / "samples", monkeypatch)
    look = getattr(clean, step)

    def renamed_at(*arguments: Any) -> Any:
        if before:
            launching.finish()
        found = look(*arguments)
        launching.finish()
        return found

    monkeypatch.setattr(clean, step, renamed_at)
    kept = contents(run / "samples")
    done = clean.clean(RunDirectory(run))
    assert launching.made
    assert contents(run / "samples") == kept != {}
    [reason] = done.kept
    assert "user" in reason


def test_a_launch_is_refused_while_the_samples_that_it_wants_are_removed(
    run, cli, tmp_path, monkeypatch
):
    spec = small_spec(tmp_path, "user", **SMALL, samples=str(run / "samples"))
    refused = []

    def removed(parts: Any) -> None:
        if "samples" in [part.name for part in parts]:
            refused.append(cli("launch", spec))
        remove(parts)

    remove = clean._remove
    monkeypatch.setattr(clean, "_remove", removed)
    assert clean.clean(RunDirectory(run)).kept == ()
    [done] = refused
    assert done.returncode == 3
    assert f"is removing the samples in {run / 'samples'}" in done.stderr
    assert not (run.parent / "user").exists()
    assert contents(run / "samples") == {}
    assert cli("launch", spec).returncode == 0


@pytest.mark.parametrize("marked", ["before", "while the launch records its run"])
def test_the_mark_of_a_clean_that_was_killed_is_named_and_removed_by_the_next(
    run, cli, tmp_path, monkeypatch, marked
):
    mark = run / "samples" / ".cleaned"
    write = store_users.atomic_write_text

    def write_and_mark(path: Path, text: str) -> None:
        write(path, text)
        mark.touch()

    spec = small_spec(tmp_path, "user", **SMALL, samples=str(run / "samples"))
    with monkeypatch.context() as patched:
        if marked == "before":
            mark.touch()
        else:
            patched.setattr(store_users, "atomic_write_text", write_and_mark)
        done = cli("launch", spec)
    assert (done.returncode, f"remove {mark} first" in " ".join(done.stderr.split())) == (3, True)
    assert cli("clean", "small", "--yes").returncode == 0
    assert contents(run / "samples") == {}
    assert cli("launch", spec).returncode == 0


def test_a_run_that_a_launch_was_making_does_not_use_the_samples(run, cli):
    """Such a directory is left when the launch is killed. It was taken for an unreadable run."""
    left = run.parent / ".other.0123abcd"
    left.mkdir()
    (left / "spec.yaml").write_text("name: other\n")
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr
    assert ".other" not in done.stdout
    assert contents(run / "samples") == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PermissionError(13, "Permission denied")])
def test_a_launch_that_does_not_end_leaves_no_directory(cli, tmp_path, monkeypatch, error):
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(create, "write_record", interrupted)
    assert cli("launch", small_spec(tmp_path, "user", **SMALL)).returncode != 0
    assert not list((tmp_path / "results").iterdir())


def test_a_store_that_cannot_be_written_to_is_named(cli, tmp_path, monkeypatch):
    store = tmp_path / "store"
    spec = small_spec(tmp_path, "user", **SMALL, samples=str(store))

    def refuses(store: Path, run: Path) -> None:
        raise PermissionError(13, "Permission denied", str(store))

    monkeypatch.setattr(create, "record_store_user", refuses)
    done = cli("launch", spec)
    assert done.returncode == 3
    assert f"the sample store {store} cannot be written to: Permission denied" in done.stderr
    assert not list((tmp_path / "results").iterdir())


def test_another_run_that_cannot_be_read_keeps_the_samples(run, cli):
    (run.parent / "other" / "run.json").write_text("{")
    kept = contents(run / "samples")
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr
    assert contents(run / "samples") == kept != {}
    assert "perhaps other (which cannot be read)" in " ".join(done.stdout.split())


def test_a_run_that_is_not_over_is_refused(unstarted_run, cli):
    run = unstarted_run()
    before = contents(run.path)
    done = cli("clean", "small", "--yes")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "the run is not over" in done.stderr
    assert "agenttts-hpc cancel" in done.stderr
    assert contents(run.path) == before


@pytest.mark.processes
def test_a_run_whose_jobs_still_run_is_refused_until_they_are_cancelled(cli, tmp_path):
    """It ended by an error, and its jobs could not be cancelled then."""
    slow = {"seconds_per_sample": 1.0}
    options = {"models__weak__options": slow, "models__strong__options": slow}
    spec = small_spec(tmp_path, "slow", **SMALL, **options)
    assert cli("launch", spec, "--cluster", one_trial_a_job(tmp_path, "local")).returncode == 0
    run = RunDirectory(tmp_path / "results" / "slow")
    until(lambda: journal_events(run.path, "submitted") if run.journal_file.exists() else [])
    assert kill_controller(run.path)
    [jobs] = [set(event["jobs"].values()) for event in journal_events(run.path, "submitted")]
    with closing(Journal(run.journal_file)) as journal:
        journal.append("ended", outcome="the disk failed; its jobs may still run")
    before = set(contents(run.path))
    done = cli("clean", "slow", "--yes")
    assert done.returncode == 2, done.stdout
    assert f"its jobs {', '.join(sorted(jobs))} still run" in done.stderr
    assert f"agenttts-hpc cancel {run.path}" in done.stderr
    assert before <= set(contents(run.path))
    assert cli("cancel", "slow").returncode == 0
    done = cli("clean", "slow", "--yes")
    assert done.returncode == 0, done.stderr
    assert contents(run.samples) == {}


def test_the_queue_is_not_asked_for_the_jobs_of_a_run_that_is_done(run, cli, monkeypatch):
    """It is where its trials ran: its results may have been copied elsewhere."""
    monkeypatch.setattr(InProcessScheduler, "strays", None)
    done = cli("clean", "small", "--yes")
    assert done.returncode == 0, done.stderr


def test_one_run_that_cannot_be_cleaned_leaves_all_as_they_are(run, cli):
    journal = run.parent / "other" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"ended"' not in line))
    assert read_state(RunDirectory(run.parent / "other").journal_file).finished is None
    before = contents(run)
    done = cli("clean", "small", "other", "--yes")
    assert done.returncode == 2
    assert contents(run) == before
