"""Rows of squeue with the number of a run's job that are of other jobs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agenttts.dispatch.base import JobRequest
from agenttts.dispatch.profile import JobResources, Profile
from agenttts.dispatch.run_jobs import RunJobs
from agenttts.dispatch.service import Service
from agenttts.dispatch.slurm import foreign
from agenttts.dispatch.slurm.foreign import why_foreign
from agenttts.dispatch.slurm.queue_reader import SQUEUE_FORMAT, QueueRow, read_squeue
from agenttts.dispatch.slurm.scheduler import SlurmScheduler

TOKEN = "1a2b3c"
HEADER = "JOBID NODELIST|STATE|REASON|COMMENT |COMMAND"
OWN = f"agenttts trial=t0 batch=small-{TOKEN}-0-0"
OTHER = "agenttts trial=t0 batch=small-9f9f9f-0-0"


@pytest.fixture
def place(tmp_path) -> Path:
    """The directory of a run, with a batch file; beside it are one of a copy and another file."""
    run = tmp_path / "results" / "small"
    for folder in (run, tmp_path / "results" / "copy"):
        (folder / "slurm" / "trials").mkdir(parents=True)
        (folder / "slurm" / "trials" / "b.sh").touch()
    (tmp_path / "job.sh").touch()
    return run


@pytest.fixture
def scheduler(place, fake, tmp_path):
    """Make a scheduler of the run's trials, for what squeue says of job 7: state, comment, file."""

    def make(comment: str, file: object, state: str = "RUNNING", **known: object) -> SlurmScheduler:
        fake("squeue", f"cat <<'END'\n{HEADER}\n7 n1|{state}|None|{comment} |{file}\nEND")
        fake("scancel", f"echo $@ >> {tmp_path}/cancelled")
        fake("scontrol", f"echo $@ >> {tmp_path}/updated")
        profile = Profile(kind="slurm", trial=JobResources(time="10"), never_patience_minutes=0)
        settings = {"directories": (place.resolve(),), "ids": (TOKEN,), **known}
        return SlurmScheduler(profile, place / "slurm" / "trials", RunJobs(**settings))

    return make


def is_own(scheduler: SlurmScheduler, tmp_path: Path) -> bool:
    """Whether job 7 counts as the run's; checks that all the methods agree."""
    status = scheduler.poll(["7"])["7"]
    service = Service(f"small-{TOKEN}-controller", "s1", "7")
    live = scheduler.live_services(service)
    scheduler.cancel(["7"])
    cancelled = (tmp_path / "cancelled").exists()
    assert cancelled == bool(live) == (not status.ended), status
    assert scheduler.service_status(service).ended == status.ended
    if status.ended:
        assert status.detail.startswith("the queue has another job of this number: its "), status
    return not status.ended


CASES = [
    # A run's own job, as the site shows it.
    (OWN, "{run}/slurm/trials/b.sh", True),
    ("(null)", "{run}/slurm/trials/b.sh", True),
    ("project=a100", "{run}/slurm/trials/b.sh", True),
    ("project=a100", "(null)", True),
    ("", "", True),
    (OWN, "(null)", True),
    (OWN, "b.sh", True),
    # The site's sbatch submits a copy of the batch file.
    (OWN, "/tmp/gone/sbatch.1234", True),
    # Another run's job, another program, a job of the original of a copy.
    (OTHER, "(null)", False),
    (OTHER, "{run}/../copy/slurm/trials/b.sh", False),
    ("(null)", "{run}/../copy/slurm/trials/b.sh", False),
    (OWN, "{run}/../copy/slurm/trials/b.sh", False),
    ("(null)", "{run}/../../job.sh", False),
    ("train batch=64", "{run}/../../job.sh", False),
    ("train batch=64", "{run}/slurm/trials/b.sh", True),
    ("(null)", "/tmp/gone/job.sh", False),
    # The beginning of a name or token is not the name or token.
    (OWN.replace(TOKEN, f"{TOKEN}4"), "(null)", False),
    ("(null)", "{run}2/slurm/trials/b.sh", False),
]


@pytest.mark.parametrize(("comment", "file", "own"), CASES)
def test_a_row_is_foreign_only_with_evidence(scheduler, place, tmp_path, comment, file, own):
    tried = scheduler(comment, file.format(run=place))
    assert is_own(tried, tmp_path) is own


def test_a_directory_behind_a_link_is_the_run_s(scheduler, place, tmp_path):
    (tmp_path / "link").symlink_to(place.parent)
    assert is_own(
        scheduler("x", tmp_path / "link" / "small" / "slurm" / "trials" / "b.sh"), tmp_path
    )
    (tmp_path / "cancelled").unlink()
    linked = (tmp_path / "link" / "small",)
    assert is_own(scheduler("x", place / "slurm" / "trials" / "b.sh", directories=linked), tmp_path)


def test_a_link_that_could_not_be_followed_once_is_followed_later(place, tmp_path, monkeypatch):
    """While a file system is in trouble, ``realpath`` returns the path as it is."""
    (tmp_path / "link").symlink_to(place.parent)
    file = tmp_path / "link" / "small" / "slurm" / "trials" / "b.sh"
    row, run = QueueRow("RUNNING", "", OWN, batch_file=file), RunJobs((place.resolve(),), (TOKEN,))

    def stale(self: Path, other: object = None) -> bool:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(foreign.os.path, "realpath", os.fspath)
        patched.setattr(Path, "samefile", stale)
        patched.setattr(Path, "exists", stale)
        assert why_foreign(row, run) == "", "its comment is the run's"
    assert why_foreign(row, run) == ""


def test_a_moved_run_knows_its_jobs(scheduler, place, tmp_path):
    """Its name was a part of the marks; the site may have removed these."""
    moved = place.rename(place.parent / "renamed")
    file = place / "slurm" / "trials" / "b.sh"
    assert is_own(scheduler(OWN, file, directories=(moved,)), tmp_path)
    (tmp_path / "cancelled").unlink()
    assert is_own(scheduler("x", file, directories=(moved, place)), tmp_path)


def test_of_an_unknown_run_each_row_is_its_own(scheduler, tmp_path):
    for comment in (OWN, OTHER, "x"):
        assert is_own(scheduler(comment, "/tmp/job.sh", directories=(), ids=()), tmp_path)
        (tmp_path / "cancelled").unlink()


def test_a_foreign_job_is_not_changed_found_or_given_up(scheduler, place, tmp_path):
    original = place.parent / "copy" / "slurm" / "trials" / "b.sh"
    request = JobRequest("t0", tmp_path, ("true",), {}, gpus=0, name="t0", comment="c")
    comment = f"{OWN} start=s1 run=small"
    for state in ("PENDING", "RUNNING", "COMPLETING", "SPECIAL_EXIT"):
        tried = scheduler(comment, original, state)
        assert tried.poll(["7"])["7"].ended
        assert tried.avoid(["7"], ["n1"]) == []
        assert tried.find(f"small-{TOKEN}-0-0", [request]) == {}
        assert tried.strays(f"small-{TOKEN}-0", known=()) == {}
        assert tried.find_service(Service(f"small-{TOKEN}-0-0", "s1")) is None
        assert tried.find_service(Service(f"small-{TOKEN}-0-0")) is None
    assert not (tmp_path / "cancelled").exists()
    assert not (tmp_path / "updated").exists()
    own = scheduler(comment, place / "slurm" / "trials" / "b.sh")
    assert own.find(f"small-{TOKEN}-0-0", [request]) == {"t0": "7"}
    assert list(own.strays(f"small-{TOKEN}-0", known=())) == ["7"]
    assert own.find_service(Service(f"small-{TOKEN}-0-0", "s1")) == "7"


@pytest.mark.parametrize(
    ("sacct", "cancelled"), [("exit 1", []), ("echo 'Connection refused' >&2; exit 1", ["8"])]
)
def test_a_foreign_job_is_not_cancelled_while_sacct_is_down(
    scheduler, fake, tmp_path, sacct, cancelled
):
    tried = scheduler(OTHER, "/tmp/job.sh")
    fake("sacct", sacct)
    tried.cancel(["7", "8"])
    file = tmp_path / "cancelled"
    assert (file.read_text().split() if file.exists() else []) == cancelled


@pytest.mark.parametrize(
    ("line", "comment", "file"),
    [
        ("(null) |/a b/c.sh", "(null)", "/a b/c.sh"),
        (" |/a/c.sh", "", "/a/c.sh"),
        ("agenttts x | y |/a/c.sh", "agenttts x | y", "/a/c.sh"),
        ("agenttts x |", "agenttts x", None),
        ("agenttts x |(null)", "agenttts x", None),
        ("agenttts x", "agenttts x", None),
        ("a | b || c", "a | b || c", None),
    ],
)
def test_the_batch_file_comes_after_the_comment(line, comment, file):
    row = read_squeue(f"{HEADER}\n7 n1|RUNNING|None|{line}\n".encode()).rows["7"]
    assert (row.comment, row.batch_file) == (comment, None if file is None else Path(file))


def test_the_jobs_that_a_cancel_leaves_are_told_with_the_reason(scheduler, place):
    tried = scheduler(OTHER, "(null)")
    assert tried.others_with_numbers(["7", "8"]) == {
        "7": "its comment has batch=small-9f9f9f-0-0, which is of another run"
    }
    assert scheduler(OWN, "(null)").others_with_numbers(["7"]) == {}
    assert scheduler(OTHER, "(null)", "COMPLETED").others_with_numbers(["7"]) == {}


def test_squeue_is_asked_for_the_batch_file_in_the_same_call(scheduler, fake, tmp_path):
    tried = scheduler(OWN, "(null)")
    fake("squeue", f"echo $@ >> {tmp_path}/asked; echo '{HEADER}'")
    tried.poll(["7"])
    [asked] = (tmp_path / "asked").read_text().splitlines()
    assert asked.endswith(SQUEUE_FORMAT)
    assert "%o" in SQUEUE_FORMAT
