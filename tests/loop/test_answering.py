"""Which workers are asked, and which make room for a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.node.mailbox import Mailbox
from agenttts.errors import RunFailed
from agenttts.inference.base import ModelConfig
from agenttts.loop.answering import IdleWorkers
from agenttts.loop.workers import Workers
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.progress import PlannedTrial, worker_name
from agenttts.run.rows import row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import TrialState
from tests.support.written_runs import ROWS

RUNNING = JobStatus("RUNNING", ended=False)
PENDING = JobStatus("PENDING", ended=False)
ENDED = JobStatus("COMPLETED", ended=True, verdict=TrialState.COMPLETED)
MODELS = {name: ModelConfig(name, f"/m/{name}", gpus=1) for name in ("weak", "strong")}
JOBS = ("7", "8", "9")


class Queue:
    """The states of jobs, as a scheduler gives them; None: the queue gives no answer."""

    def __init__(self) -> None:
        self.states: dict[str, JobStatus] | None = dict.fromkeys(JOBS, RUNNING)

    def poll(self, job_ids: list[str]) -> dict[str, JobStatus]:
        if self.states is None:
            raise QueueUnavailable("squeue gives no answer", fix="wait")
        return {job: self.states[job] for job in job_ids}


class Bench:
    """A run with three workers of 1, 1 and 2 GPUs, each with one trial."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.run, self.queue = RunDirectory(folder), Queue()
        self.journal = Journal(folder / "journal.jsonl")
        self.trials = [f"t{n:04}" for n in range(3)]
        choice = Allocation((Choice("answer", "weak", 1),))
        self.journal.propose([PlannedTrial(t, 0, choice, "x", "", 1.0) for t in self.trials])
        for batch, names, gpus in (("s-0", self.trials[:2], 1), ("s-1", self.trials[2:], 2)):
            lists = [[name] for name in names]
            self.journal.append(
                "submitting", batch=batch, trials=names, lists=lists, stays=True, gpus=gpus
            )
            jobs = {name: JOBS[self.trials.index(name)] for name in names}
            self.journal.append("submitted", batch=batch, jobs=jobs)
        self.names = [worker_name("s-0", 0), worker_name("s-0", 1), worker_name("s-1", 0)]
        for name in self.names:
            self.run.worker(name).mkdir(parents=True)
            Mailbox(self.run.worker(name)).prepare()
        self.workers = Workers(self.run, self.journal, 600.0)
        values = {"time_limit": 3600.0, "poll_seconds": 0.0} | settings
        self.idle = IdleWorkers(self.run, self.workers, self.queue, MODELS, **values)  # type: ignore[arg-type]

    def finish(self, *numbers: int) -> None:
        for number in numbers:
            self.journal.append("finished", trial=self.trials[number], row=row_to_json(ROWS[0]))

    def has(self, number: int, awake: str | None, *asleep: str) -> None:
        folder = self.run.worker(self.names[number]) / "usage"
        folder.mkdir()
        moment = "2026-11-27T00:00:00.000+00:00"
        usage = {"number": 1, "started": moment, "written": moment, "awake": awake, "asleep": asleep}  # fmt: skip
        (folder / "01.json").write_text(json.dumps(usage))

    def free(self, gpus: int = 1, seconds: float = 60.0) -> list[int]:
        model = ModelConfig("strong", "/m/strong", gpus=gpus)
        return [self.names.index(path.name) for path in self.idle.free(model, seconds)]


@pytest.fixture
def bench(tmp_path):
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()


def test_a_worker_without_trials_is_asked_that_has_the_gpus_and_the_time(bench):
    run = bench()
    assert run.free() == [], "all have trials"
    run.finish(0, 2)
    assert run.free() == [0, 2]
    assert run.free(gpus=2) == [2]
    assert run.free(seconds=3700.0) == [], "their time limit comes before the answer"
    run.queue.states["7"] = ENDED
    assert run.free() == [2]
    run.workers.retire([run.names[2]])
    assert run.free() == []


def test_a_new_controller_first_looks_which_workers_there_are(bench):
    run = bench()
    run.finish(0, 1, 2)
    run.queue.states |= {"8": PENDING, "9": ENDED}
    assert run.free() == [0]
    assert run.idle.lives(run.run.worker(run.names[0]))
    assert not run.idle.lives(run.run.worker(run.names[2]))
    assert len(run.idle.directories()) == 3


def test_the_engine_that_is_awake_comes_first_then_one_that_is_loaded(bench):
    run = bench()
    run.finish(0, 1, 2)
    run.has(0, "weak")
    run.has(1, "weak", "strong")
    run.has(2, "strong", "weak")
    assert run.free() == [2, 1, 0]


def test_a_worker_with_trials_may_answer_later_and_one_in_the_queue_may_not(bench):
    run = bench()
    model = ModelConfig("strong", "/m/strong", gpus=2)
    run.idle.look()
    assert run.idle.may_answer(model)
    run.queue.states["9"] = PENDING
    run.idle.look()
    assert not run.idle.may_answer(model)


def test_workers_get_signs_while_one_answers_and_a_cancel_is_seen(bench):
    def check() -> None:
        if stop:
            raise RunFailed("cancelled")

    stop: list[bool] = []
    run = bench(check=check)
    run.finish(0, 1, 2)
    run.idle.look()
    assert all(Mailbox(run.run.worker(name)).sign for name in run.names)
    stop.append(True)
    with pytest.raises(RunFailed):
        run.idle.look()


def test_a_queue_that_gives_no_answer_leaves_what_was_known(bench):
    run = bench()
    run.finish(0, 1, 2)
    assert run.free() == [0, 1, 2]
    run.queue.states = None
    run.idle.look()
    assert run.free() == [0, 1, 2]


def test_only_workers_without_trials_make_room(bench, monkeypatch):
    run = bench()
    run.finish(0)
    retired = Workers.retire

    def retire(self: Workers, names: list[str]) -> None:
        retired(self, names)
        assert run.queue.states is not None
        run.queue.states["7"] = ENDED

    monkeypatch.setattr(Workers, "retire", retire)
    run.idle.make_room()
    assert Mailbox(run.run.worker(run.names[0])).is_retired
    assert not Mailbox(run.run.worker(run.names[1])).is_retired
    assert run.free() == []
