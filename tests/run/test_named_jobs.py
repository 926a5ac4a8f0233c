"""A run that is looked for by name while only its jobs are left, or while it is elsewhere."""

from __future__ import annotations

import re

import pytest

from agenttts.errors import UserError
from agenttts.run.find import find_run
from agenttts.run.named_jobs import told_by_jobs


@pytest.fixture
def queue(fake, tmp_path):
    """A queue with a controller and an element of a run ``wanted``, submitted from ``folder``."""

    def make(folder, comment: str = "agenttts run=wanted") -> None:
        rows = f"""\
80 n1|RUNNING|None|{comment} controller
81_0 n2|PENDING|Priority|{comment} iteration=0 trial=t0000 batch=wanted-1
82 n2|COMPLETED|None|{comment} iteration=0 trial=t0001 batch=wanted-2
83 n2|RUNNING|None|agenttts run=wanted2 controller"""
        files = f"""\
80|ctl-wanted-1|{folder}/slurm/controller/submission_file_a.sh
81_0|i0t0-wanted|{folder}/slurm/submission_file_b.sh"""
        fake("squeue", f"case \"$*\" in *%j*) echo '{files}';; *) echo '{rows}';; esac")

    return make


@pytest.mark.parametrize("command", ["cancel", "status", "logs", "report"])
def test_jobs_of_a_directory_that_was_removed_are_named(queue, cli, tmp_path, command):
    queue(tmp_path / "results" / "wanted")
    done = cli(command, "wanted")
    assert done.returncode == 2
    text = " ".join(done.stderr.split())
    assert (
        f"run 'wanted' does not exist in {tmp_path / 'results'}: its directory was removed" in text
    )
    assert "80 (ctl-wanted-1 RUNNING), 81_0 (i0t0-wanted PENDING)" in text
    assert "They end by themselves" in text
    assert "'scancel 80 81_0' ends them now" in text
    jobs = re.findall(r"(?<![\w-])\d+(?:_\d+)?", text.partition("running or waiting:")[2])
    assert sorted(set(jobs)) == ["80", "81_0"], "82 has ended, 83 is another run's"


def test_a_run_that_is_elsewhere_is_named_by_its_jobs(queue, tmp_path):
    place = tmp_path / "other" / "wanted"
    place.mkdir(parents=True)
    queue(place)
    with pytest.raises(UserError, match="give this path as RUN") as told:
        find_run("wanted", tmp_path / "results")
    assert str(place) in str(told.value)
    assert "removed" not in str(told.value)


def test_the_jobs_of_another_run_of_the_name_that_was_removed_too_are_not_told(queue, tmp_path):
    queue(tmp_path / "other" / "wanted")
    assert told_by_jobs("wanted", [tmp_path / "results" / "wanted"]) == ""


def test_where_squeue_shows_no_batch_files_the_jobs_are_told_all_the_same(fake, tmp_path):
    fake("squeue", "case \"$*\" in *%j*) echo '80|ctl-wanted-1|(null)';; *) echo '80 n1|RUNNING|None|agenttts run=wanted controller';; esac")  # fmt: skip
    assert "'scancel 80' ends them" in told_by_jobs("wanted", [tmp_path / "wanted"])


@pytest.mark.parametrize("squeue", ["exit 1", "echo welcome", "exit 0"])
def test_a_queue_that_says_nothing_of_it_changes_nothing(fake, tmp_path, squeue):
    fake("squeue", squeue)
    with pytest.raises(UserError, match="has no runs|does not exist") as told:
        find_run("wanted", tmp_path / "results")
    assert "jobs" not in str(told.value)


def test_what_is_left_of_a_directory_does_not_hide_the_jobs(queue, tmp_path):
    place = tmp_path / "results" / "wanted"
    (place / "trials").mkdir(parents=True)
    queue(place)
    with pytest.raises(UserError, match="spec.yaml: the file does not exist") as told:
        find_run("wanted", tmp_path / "results")
    assert "'scancel 80 81_0'" in str(told.value)


def test_processes_of_a_local_run_are_found_by_their_folder(monkeypatch, tmp_path):
    from agenttts.dispatch import local

    folder = tmp_path / "wanted" / "slurm" / "controller"
    own = [b"python", b"-m", local.RUNNER, str(folder).encode()]
    shell = [b"/bin/bash", b"-c", b"true; " + b" ".join(own)]
    lines = {"7": own, "8": shell, "9": [b"python", b"-m", b"other", str(folder).encode()]}
    monkeypatch.setattr(local, "pids", lambda: list(lines))
    monkeypatch.setattr(local, "command_line", lambda pid: b"\0".join(lines[pid]) + b"\0")
    [job] = local.LocalScheduler.jobs_of("wanted")
    assert (job.job_id, job.folder) == ("7", folder)
    assert "'kill 7' ends them now" in told_by_jobs("wanted", [tmp_path / "wanted"])
    assert told_by_jobs("want", [tmp_path / "want"]) == ""
