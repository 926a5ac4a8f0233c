"""When a served model's job is found, stopped and started again, on a queue in this process."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

import pytest

from agenttts.dispatch.base import JobStatus, QueueUnavailable
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.serving import lifecycle
from agenttts.serving.job import ADDRESS_FILE, KEY_FILE, LEASE_FILE, Serving, service_request
from agenttts.serving.lifecycle import ServedLimits, ServedModel


class Queue:
    """A queue whose jobs run at once, and which does not answer while it is ``silent``."""

    def __init__(self) -> None:
        self.live: list[str] = []
        self.ends: dict[str, str] = {}
        self.excluded: list[tuple[str, ...]] = []
        self.silent = False
        self.asked = 0

    def start_service(self, request: ServiceRequest) -> Service:
        self.excluded.append(request.exclude)
        self.live.append(str(len(self.excluded)))
        self._answer()
        return Service(request.name, request.start, self.live[-1])

    def find_service(self, service: Service) -> str | None:
        self._answer()
        return next(iter(self.live), None)

    def live_services(self, service: Service) -> list[str]:
        self._answer()
        return list(self.live)

    def stop_service(self, service: Service, job_ids: Collection[str]) -> None:
        self._answer()
        self.live = [job for job in self.live if job not in job_ids]

    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        self._answer()
        return {
            job: JobStatus("RUNNING", ended=False, node="n1")
            if job in self.live
            else JobStatus(self.ends.get(job, "CANCELLED"), ended=True, node="n1")
            for job in job_ids
        }

    def end(self, state: str) -> None:
        self.ends[self.live.pop()] = state

    def _answer(self) -> None:
        self.asked += 1
        if self.silent:
            raise QueueUnavailable("Socket timed out", fix="try again")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A queue, and a function that makes one controller's model on it; its server answers at once."""
    queue, folder, notes = Queue(), tmp_path / "agent", []
    folder.mkdir()
    (folder / ADDRESS_FILE).write_text(
        json.dumps({"hosts": ["n1"], "node": "n1", "port": 1, "job": "1", "started": ""})
    )
    monkeypatch.setattr(lifecycle, "_answers", lambda base_url, key: True)

    def make(**limits: float) -> ServedModel:
        request = service_request(folder, run="r", token="r-1", gpus=0)
        serving = Serving(("true",), {}, (), "0.0.0.0", 60.0, "agent", {})
        settings = {"start_seconds": 60.0, "idle_seconds": 600.0, "restarts": 0}
        limited = ServedLimits(**settings | limits, poll_seconds=0.01)  # type: ignore[arg-type]
        return ServedModel(folder, serving, queue, request, limited, notes.append)  # type: ignore[arg-type]

    return queue, make, folder, notes


def test_a_controller_that_was_queued_again_finds_the_model_before_it_starts_one(served):
    queue, make, folder, notes = served
    make().locate()
    second = make()
    (folder / LEASE_FILE).unlink()
    for remaining in (8, 2, 1):
        second.trials_run(remaining, 8, True)
    assert (folder / LEASE_FILE).exists()
    assert queue.live == ["1"]
    assert "found running as job 1" in notes
    second.trials_run(1, 8, False)
    assert queue.live == [], "no question is left"


def test_it_idles_by_the_same_rule(served):
    queue, make, _, _ = served
    make().locate()
    second = make()
    second.trials_run(8, 8, True)
    second._used -= 601
    second.trials_run(7, 8, True)
    assert queue.live == []


def test_it_is_looked_for_until_the_queue_answers_and_then_no_more(served):
    queue, make, _, _ = served
    queue.live.append("1")
    second = make()
    queue.silent = True
    second.trials_run(1, 8, True)
    assert queue.live == ["1"], "there may be one"
    queue.silent = False
    second.trials_run(8, 8, False)
    assert queue.live == []
    asked = queue.asked
    second.trials_run(8, 8, False)
    assert queue.asked == asked


def test_a_job_whose_submission_got_no_answer_is_found_too(served):
    queue, make, _, _ = served
    model = make()
    model.trials_run(8, 8, True)
    queue.silent = True
    model.trials_run(1, 8, True)
    assert queue.live == ["1"]
    queue.silent = False
    model.trials_run(1, 8, True)
    model.trials_run(1, 8, False)
    assert queue.live == []


@pytest.mark.parametrize("more", [True, False])
def test_a_model_that_could_not_be_stopped_is_stopped_later(served, more):
    queue, make, folder, notes = served
    model = make(idle_seconds=0.0 if more else 600.0)
    model.locate()
    queue.silent = True
    (folder / LEASE_FILE).unlink()
    for _ in range(2):
        model.trials_run(8, 8, more)
    assert queue.live == ["1"]
    assert not (folder / LEASE_FILE).exists(), "it also ends if it can never be stopped"
    assert [note for note in notes if "Socket timed out" in note] == notes[-1:], "noted once"
    queue.silent = False
    model.trials_run(8, 8, more)
    assert queue.live == []
    assert notes[-1].startswith("released: ")


def test_the_key_stays_with_a_model_that_may_still_run(served):
    queue, make, folder, notes = served
    model = make()
    address = model.locate()
    queue.silent = True
    model.release()
    assert notes[-1].startswith("other jobs that serve the model could not be listed")
    queue.silent = False
    assert model.locate() == address
    assert queue.live == ["1"], "it is used again"
    model.release()
    assert (queue.live, notes[-1]) == ([], "released")
    assert not (folder / KEY_FILE).exists()


def test_a_model_that_a_release_could_not_stop_is_found_and_stopped(
    served,
):
    queue, make, _, _ = served
    model = make()
    model.locate()
    queue.silent = True
    model.release()
    queue.silent = False
    model.trials_run(8, 8, False)
    assert queue.live == []


def test_a_job_that_ends_after_it_was_listed_is_no_stray(served, monkeypatch):
    """It was completing when the model was looked for, and has ended when its state is asked."""
    queue, make, _, notes = served
    model = make()
    model.locate()
    model.trials_run(0, 8, False)
    monkeypatch.setattr(queue, "live_services", lambda service: ["1"])
    model.release()
    assert notes[-1] == "released: no more calls"


@pytest.mark.parametrize(
    ("state", "avoided"),
    [
        ("FAILED", ()),
        ("COMPLETED", ()),
        ("COMPLETING", ()),
        ("TIMEOUT", ()),
        ("NODE_FAIL", ("n1",)),
    ],
)
def test_a_node_on_which_the_server_answered_is_not_avoided(served, state, avoided):
    """A job that is stopped near its time limit ends as FAILED."""
    queue, make, _, _ = served
    model = make(restarts=1)
    model.locate()
    queue.end(state)
    model.locate()
    assert queue.excluded == [(), avoided]
