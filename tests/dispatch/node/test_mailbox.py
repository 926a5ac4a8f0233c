"""A worker and its mailbox: the lists that it takes, and when it ends."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
import threading
import time
from pathlib import Path

import pytest

from agenttts.dispatch.attempts import HANDED_OVER, Attempt, read_attempts, write_attempt
from agenttts.dispatch.base import JobTrial
from agenttts.dispatch.job_starts import read_job_starts
from agenttts.dispatch.node.job import TrialJob
from agenttts.dispatch.node.limits import Limits
from agenttts.dispatch.node.mailbox import GivenList, Mailbox
from agenttts.inference.base import ModelConfig
from agenttts.trial.part import PART_FILE, Part, write_part
from agenttts.trial.phase import PHASE_FILE
from agenttts.trial.questions import Question, QuestionBox
from agenttts.trial.result import read_result
from agenttts.trial.spec import SPEC_FILE
from tests.support.trials import store_result
from tests.support.waiting import until

# A trial's program that imports nothing of the package. A trial is its spec file, or SPEC:STAGES.
PROGRAM = f"""
{store_result()}
import json, sys

def finish(text):
    spec, _, upto = text.rpartition(":")
    if spec:
        pathlib.Path(spec).with_name("{PART_FILE}").write_text(json.dumps(dict(stages=int(upto))))
    else:
        store_result(pathlib.Path(text).parent)

for spec in sys.argv[1:]:
    finish(spec)
for line in sys.stdin:
    work = json.loads(line)
    if isinstance(work, dict):
        pathlib.Path(work["question"]).with_suffix(".handed").touch()
        continue
    for spec in work:
        finish(spec)
"""


class Worker:
    """A worker in a thread, with the trials ``first`` and, in its mailbox, ``later``."""

    def __init__(
        self,
        folder: Path,
        stays_for: float,
        limit: float = 10_000.0,
        limits: Limits | None = None,
    ) -> None:
        self.first, self.later, place = (folder / name for name in ("first", "later", "worker"))
        for directory in (self.first, self.later, place):
            directory.mkdir()
        self.place = place
        self.mailbox = Mailbox(place)
        self.mailbox.prepare()
        self.job = TrialJob(
            place,
            (sys.executable, "-c", PROGRAM, str(self.first / SPEC_FILE)),
            {},
            gpus=0,
            limit_seconds=limit,
            grace_seconds=5,
            max_timeouts=1,
            trials=(JobTrial(self.first),),
            linger_seconds=stays_for,
            limits=limits,
        )
        self.thread = threading.Thread(target=self.job)

    def __enter__(self) -> Worker:
        self.thread.start()
        until(lambda: read_result(self.first), "the result of the first trial")
        return self

    def start_again(self) -> None:
        """Start the job anew, as Slurm does on another node: its clock has another origin."""
        self.thread.join(60)
        self.job._next_list = time.monotonic() + 1e6
        self.job = pickle.loads(pickle.dumps(self.job))
        self.thread = threading.Thread(target=self.job)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.mailbox.retire()
        self.thread.join(60)

    def ask(self) -> Path:
        """Ask a question; return the file that appears when the program is handed it."""
        model = ModelConfig("m", "/m", engine="scripted")
        name = QuestionBox(self.place).ask("abcd", Question(model, (), 9, 0.7, 1))
        return self.place / "questions" / f"{name}.handed"

    def give(
        self,
        seconds: float = 0.0,
        number: int = 1,
        trial: Path | None = None,
        upto: int | None = None,
    ) -> None:
        given = JobTrial(trial or self.later, upto=upto)
        self.mailbox.give(number, GivenList((given,), seconds))


@pytest.mark.processes
def test_a_worker_takes_a_list_and_ends_when_it_is_retired(tmp_path):
    with Worker(tmp_path, stays_for=600) as worker:
        worker.give()
        until(lambda: read_result(worker.later), "the result of the second list")
        worker.mailbox.retire()
        worker.thread.join(60)
        assert not worker.thread.is_alive()
    assert [a.state for a in read_attempts(worker.later)] == ["COMPLETED"]


@pytest.mark.processes
def test_a_worker_without_a_sign_of_its_controller_ends(tmp_path):
    with Worker(tmp_path, stays_for=1.0) as worker:
        worker.thread.join(60)
        assert not worker.thread.is_alive()
        assert not worker.mailbox.is_retired


@pytest.mark.processes
def test_signs_keep_a_worker(tmp_path):
    stays_for = 4.0
    for number in range(5):
        place = tmp_path / str(number)
        place.mkdir()
        with Worker(place, stays_for) as worker:
            gap = _give_signs(worker, 2 * stays_for)
            # Where this thread stood still for so long, the worker is right to end.
            if gap > stays_for / 2 and not worker.thread.is_alive():
                continue
            assert worker.thread.is_alive()
            worker.give()
            until(lambda: read_result(worker.later), "the result of the second list")
            return
    pytest.fail("this machine stood still for seconds, five times")


def _give_signs(worker: Worker, seconds: float) -> float:
    """Give signs for some seconds; return the longest time between two of them."""
    began = last = time.monotonic()
    gap = 0.0
    while last < began + seconds:
        worker.mailbox.give_sign()
        time.sleep(0.1)
        gap, last = max(gap, time.monotonic() - last), time.monotonic()
    return gap


@pytest.mark.processes
def test_a_worker_ends_instead_of_taking_what_does_not_fit_its_time_limit(tmp_path):
    with Worker(tmp_path, stays_for=600, limit=1000) as worker:
        worker.give(seconds=1001)
        worker.thread.join(60)
        assert not worker.thread.is_alive()
    assert read_attempts(worker.later) == [], "another job may have it"


@pytest.mark.processes
def test_a_worker_without_trials_is_handed_questions_and_lists(tmp_path):
    with Worker(tmp_path, stays_for=600) as worker:
        until(worker.ask().exists, "the first question")
        worker.give()
        until(lambda: read_result(worker.later), "the result of the second list")
        until(worker.ask().exists, "the second question")


@pytest.mark.processes
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_whose_questions_cannot_be_read_for_a_while_goes_on(
    tmp_path, monkeypatch, number, asked
):
    """Before the question is handed over, or when it is looked for an answer to it."""
    seen, failed = Path.exists, []

    def exists(file: Path) -> bool:
        if file.parent.name == "answers" and file.suffix == ".json" and len(failed) < fails:
            failed.append(file)
            raise OSError(number, os.strerror(number), str(file))
        return seen(file)

    fails = 0 if asked else 2
    monkeypatch.setattr(Path, "exists", exists)
    limits = Limits(start_seconds=1.0, stall_seconds=60.0)  # it looks ten times a second
    with Worker(tmp_path, stays_for=600, limits=limits) as worker:
        handed = worker.ask()
        until(lambda: seen(handed), "the question")
        fails += 2 if asked else 0
        until(lambda: len(failed) == 2, "the file system's trouble")
        until(worker.ask().exists, "the second question")
        worker.give()
        until(lambda: read_result(worker.later), "the result of the second list")


@pytest.mark.processes
def test_a_worker_near_its_time_limit_is_handed_no_question(tmp_path):
    with Worker(tmp_path, stays_for=600, limit=5.0) as worker:
        handed = worker.ask()
        time.sleep(2.5)  # the job looks once a second
        assert not handed.exists()


@pytest.mark.processes
def test_a_worker_that_is_started_again_goes_on_with_its_lists(tmp_path):
    """What is complete is not run again, and its program begins with what is due."""
    third = tmp_path / "third"
    third.mkdir()
    with Worker(tmp_path, stays_for=1.0) as worker:
        worker.thread.join(60)
        worker.give()
        worker.job.linger_seconds = 600
        worker.start_again()
        until(lambda: read_result(worker.later), "the result of the list from before")
        worker.give(number=2, trial=third)
        until(lambda: read_result(third), "the result of the list after it")
    assert len(read_attempts(worker.first)) == 1
    assert [a.state for a in read_attempts(worker.later)] == ["COMPLETED"]


def states(directory: Path) -> list[str | None]:
    return [attempt.state for attempt in read_attempts(directory)]


@pytest.mark.processes
def test_a_worker_hands_a_trial_over_and_goes_on_with_it_if_it_is_given_the_rest(tmp_path):
    with Worker(tmp_path, stays_for=600) as worker:
        worker.give(upto=1)
        until(lambda: states(worker.later) == [HANDED_OVER], "the end of the part")
        assert read_result(worker.later) is None
        worker.give(number=2)
        until(lambda: read_result(worker.later), "the result of the rest")
    assert states(worker.later) == [HANDED_OVER, "COMPLETED"]
    [part, _] = read_attempts(worker.later)
    assert (part.error, part.retry, part.node_fault, part.stopped) == (None, None, False, None)
    assert part.gpu_seconds is not None
    [start] = read_job_starts(worker.place)
    assert (start.attempts, start.lost_seconds) == (3, 0)


def drawn_here_and_then_by_another(worker: Worker) -> None:
    """Note that the worker and then another job have drawn a stage of its later trial each."""
    moment = "2026-01-01T00:00:00+00:00"
    for number, job in enumerate((worker.job._job_id(), "another"), 1):
        write_attempt(worker.later, Attempt(number, job, "n1", 0, "", moment, state=HANDED_OVER))


@pytest.mark.processes
def test_a_worker_runs_the_rest_of_a_trial_that_comes_back_from_another_job(tmp_path):
    """A small model's stages are before and after those of a large one, which has another job."""
    with Worker(tmp_path, stays_for=600) as worker:
        drawn_here_and_then_by_another(worker)
        worker.give()
        until(lambda: read_result(worker.later), "the result of the rest")
    assert states(worker.later) == [HANDED_OVER, HANDED_OVER, "COMPLETED"]


@pytest.mark.processes
def test_a_worker_that_is_started_again_runs_such_a_trial_of_a_new_list(tmp_path):
    third = tmp_path / "third"
    third.mkdir()
    with Worker(tmp_path, stays_for=1.0) as worker:
        worker.thread.join(60)
        worker.give(trial=third)  # it has this list when it starts again
        worker.job.linger_seconds = 600
        worker.start_again()
        until(lambda: read_result(third), "the result of the list from before")
        drawn_here_and_then_by_another(worker)
        worker.give(number=2)
        until(lambda: read_result(worker.later), "the result of the rest")
    assert states(worker.later) == [HANDED_OVER, HANDED_OVER, "COMPLETED"]


@pytest.mark.processes
def test_a_worker_that_is_started_again_leaves_a_trial_that_another_job_has(tmp_path):
    third = tmp_path / "third"
    third.mkdir()
    with Worker(tmp_path, stays_for=1.0) as worker:
        worker.thread.join(60)
        drawn_here_and_then_by_another(worker)
        worker.give()  # before the start, so that an earlier start may have had it
        worker.give(number=2, trial=third)
        worker.job.linger_seconds = 600
        worker.start_again()
        until(lambda: read_result(third), "the result of the list after it")
    assert states(worker.later) == [HANDED_OVER, HANDED_OVER]


@pytest.mark.processes
def test_a_worker_that_is_started_again_draws_no_part_twice(tmp_path):
    """Slurm requeues it: it goes through its lists again, and takes the rest that it was given."""
    with Worker(tmp_path, stays_for=1.0) as worker:
        worker.give(upto=1)
        worker.thread.join(60)
        assert states(worker.later) == [HANDED_OVER]
        worker.give(number=2)
        worker.job.linger_seconds = 600
        worker.start_again()
        until(lambda: read_result(worker.later), "the result of the rest")
    assert states(worker.later) == [HANDED_OVER, "COMPLETED"]


@pytest.mark.processes
def test_a_part_whose_end_could_not_be_recorded_is_recorded_by_the_next_start(tmp_path):
    """The job was killed after its program had drawn the part; or another job has drawn it."""
    with Worker(tmp_path, stays_for=600) as worker:
        write_part(worker.later, Part(1))
        cut_off = Attempt(1, worker.job._job_id(), "n1", 0, "", "2026-01-01T00:00:00+00:00")
        write_attempt(worker.later, cut_off)
        worker.give(upto=1)
        until(lambda: HANDED_OVER in states(worker.later), "the record")
        worker.give(number=2)
        until(lambda: read_result(worker.later), "the result of the rest")
    assert states(worker.later) == [None, HANDED_OVER, "COMPLETED"]


def test_a_job_of_one_trial_hands_it_over_when_it_ends(tmp_path):
    script = "from agenttts.trial.part import *; write_part(Path(sys.argv[1]), Part(1))"
    command = (sys.executable, "-c", f"import sys; {script}", str(tmp_path))
    trials = (JobTrial(tmp_path, upto=1),)
    job = TrialJob(
        tmp_path, command, {}, gpus=0, limit_seconds=1000, grace_seconds=5, max_timeouts=1,
        trials=trials,
    )  # fmt: skip
    assert job() == "COMPLETED"
    assert states(tmp_path) == [HANDED_OVER]
    job.command = (sys.executable, "-c", "import sys; sys.exit(3)")
    assert job() == "COMPLETED", "the part is not drawn again"
    job.trials = (JobTrial(tmp_path),)
    assert job() == "INFRA_FAILED", "the rest is run"
    assert states(tmp_path) == [HANDED_OVER, "INFRA_FAILED"]


@pytest.mark.processes
def test_a_worker_that_waits_need_not_make_progress(tmp_path):
    """Not even if the last note of its program says that an engine starts."""
    limits = Limits(start_seconds=3.0, stall_seconds=3.0)
    with Worker(tmp_path, stays_for=600, limits=limits) as worker:
        (tmp_path / "worker" / PHASE_FILE).write_text('{"phase": "load"}')
        worker.thread.join(8)
        assert worker.thread.is_alive()
        worker.give()
        until(lambda: read_result(worker.later), "the result of the second list")


@pytest.mark.processes
def test_a_worker_that_does_not_answer_is_ended_by_the_stall_limit(tmp_path, capfd):
    """An engine call that hangs would keep its GPUs as long as the controller gives signs."""
    limits = Limits(start_seconds=60.0, stall_seconds=1.0)
    with Worker(tmp_path, stays_for=600, limits=limits) as worker:
        phase = {"number": 1, "name": "generate", "model": "m"}
        (tmp_path / "worker" / PHASE_FILE).write_text(json.dumps(phase))
        worker.ask()
        worker.thread.join(60)
        assert not worker.thread.is_alive()
    assert "a call of model 'm' made no progress" in capfd.readouterr().err
    assert [a.state for a in read_attempts(worker.first)] == ["COMPLETED"]


@pytest.mark.processes
@pytest.mark.parametrize("given_up", [True, False])
def test_a_worker_that_has_answered_need_not_make_progress(tmp_path, given_up):
    limits = Limits(start_seconds=1.0, stall_seconds=3.0)
    with Worker(tmp_path, stays_for=600, limits=limits) as worker:
        handed = worker.ask()
        until(handed.exists, "the question", pause=0.02)
        if given_up:
            QuestionBox(worker.place).give_up(handed.stem)
        else:
            (worker.place / "answers").mkdir()
            (worker.place / "answers" / f"{handed.stem}.json").write_text("{}")
        (tmp_path / "worker" / PHASE_FILE).write_text('{"number": 1, "name": "load", "model": "m"}')
        worker.thread.join(6)
        assert worker.thread.is_alive()


def test_a_list_is_read_as_it_was_given(tmp_path):
    mailbox = Mailbox(tmp_path)
    mailbox.prepare()
    given = GivenList((JobTrial(tmp_path, 2, 1), JobTrial(tmp_path / "b", 3)), 7.0)
    mailbox.give(1, given)
    assert mailbox.read(1) == given


def test_nothing_is_written_for_a_worker_whose_directory_was_removed(tmp_path):
    gone = Mailbox(tmp_path / "gone")
    gone.give(1, GivenList((JobTrial(tmp_path),)))
    gone.give_sign()
    gone.retire()
    assert list(tmp_path.iterdir()) == []
    assert (gone.read(1), gone.sign, gone.is_retired) == (None, "", False)


@pytest.mark.parametrize("seconds", ["soon", None, [], float("inf")])
def test_a_list_of_another_version_has_no_expected_time(tmp_path, seconds):
    mailbox = Mailbox(tmp_path)
    mailbox.prepare()
    document = {"trials": [[str(tmp_path), 0]], "seconds": seconds}
    (tmp_path / "lists" / "0001.json").write_text(json.dumps(document))
    assert mailbox.read(1) == GivenList((JobTrial(tmp_path),), 0.0)
