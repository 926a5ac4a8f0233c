"""When a served model's job is found, stopped and started again, on a queue in this process."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Collection, Iterable

import pytest

from agenttts.dispatch.base import JobStatus, QueueUnavailable, SubmitLimitReached
from agenttts.dispatch.service import Service, ServiceRequest
from agenttts.errors import MissingRequirement
from agenttts.search.llm.base import LLMError
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
        self.state = "RUNNING"
        self.refusals: list[Exception] = []
        self.asked = 0

    def start_service(self, request: ServiceRequest) -> Service:
        if self.refusals:
            raise self.refusals.pop()
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
            job: JobStatus(self.state, ended=False, node="n1")
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
    monkeypatch.setattr(lifecycle, "answers", lambda base_url, key: True)

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


def test_a_model_that_is_not_asked_is_not_started_ahead_again(served):
    """The search asks a model seldom, or no more, if its proposals have been bad."""
    queue, make, _, _ = served
    model = make()

    def end_of_a_batch() -> list[str]:
        model.trials_run(8, 8, True)
        model._used -= 601
        model.trials_run(8, 8, True)
        assert queue.live == [], "it was idle"
        model.trials_run(1, 8, True)
        return queue.live

    assert end_of_a_batch() == ["1"]
    assert end_of_a_batch() == []
    assert end_of_a_batch() == []
    model.locate()
    assert queue.live == ["2"]
    assert end_of_a_batch() == ["3"]
    model.locate()
    assert queue.live == ["3"], "this time the question came"
    assert end_of_a_batch() == ["4"]


def test_the_queue_is_asked_as_often_as_the_profile_says(served, monkeypatch):
    """Sites may limit that; the server itself is asked more often."""
    queue, make, _, _ = served
    probes: list[str] = []
    monkeypatch.setattr(lifecycle, "answers", lambda base_url, key: len(probes) > 20 or probes.append(base_url))  # fmt: skip
    make(queue_seconds=600.0).locate()
    assert len(probes) == 21
    assert queue.asked == 3, "whether a job runs, the start, and its state"


def address_of(folder, job: str, **more: object) -> None:
    known = {
        "hosts": ["n1", "10.0.0.1"],
        "node": "n1.cluster",
        "port": 1,
        "job": job,
        "started": "",
    }
    (folder / ADDRESS_FILE).write_text(json.dumps({**known, **more}))


@pytest.mark.parametrize(
    "refusal",
    [
        SubmitLimitReached("AssocMaxSubmitJobLimit", fix="wait"),
        QueueUnavailable("Socket timed out", fix="wait"),
        subprocess.TimeoutExpired("sbatch", 60),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_submission_that_may_succeed_later_is_made_again(served, monkeypatch, refusal):
    queue, make, _, _ = served
    monkeypatch.setattr(lifecycle, "_SUBMIT_AGAIN_S", 0.02)
    queue.refusals = [refusal] * 4
    assert make(restarts=0).locate()
    assert queue.live == ["1"]


def test_a_submission_that_is_refused_for_long_is_said(served, monkeypatch):
    queue, make, _, _ = served
    monkeypatch.setattr(lifecycle, "_SUBMIT_AGAIN_S", 0.02)
    queue.refusals = [SubmitLimitReached("AssocMaxSubmitJobLimit", fix="wait")] * 1000
    with pytest.raises(LLMError, match="start_seconds \\(0.2\\); .*AssocMaxSubmitJobLimit"):
        make(start_seconds=0.2).locate()


def test_a_submission_that_is_refused_is_not_made_at_each_look_while_trials_run(served):
    queue, make, _, _ = served
    queue.refusals = [QueueUnavailable("Socket timed out", fix="wait")] * 4
    model = make()
    for _ in range(8):
        model.trials_run(1, 8, True)
    assert len(queue.refusals) == 3


def test_a_submission_that_cannot_succeed_is_an_error_at_once(served):
    queue, make, _, _ = served
    queue.refusals = [MissingRequirement("Invalid account", fix="correct the profile")]
    with pytest.raises(LLMError, match="Invalid account"):
        make().locate()


def test_a_server_that_answers_on_its_node_alone_is_given_up(served, monkeypatch):
    """A firewall between the nodes, or names that do not resolve: waiting costs GPU time."""
    queue, make, folder, notes = served
    monkeypatch.setattr(lifecycle, "answers", lambda base_url, key: False)
    monkeypatch.setattr(lifecycle, "_UNREACHABLE_S", 0.05)
    model = make(restarts=1)
    start = model._start

    def start_and_listen() -> None:
        start()
        address_of(folder, str(model._job), ready="2026-01-01T00:00:00+00:00")

    monkeypatch.setattr(model, "_start", start_and_listen)
    with pytest.raises(
        LLMError, match="2 times in a row; its server answers on n1.cluster, and not"
    ) as caught:
        model.locate()
    assert "n1:1, 10.0.0.1:1" in str(caught.value)
    assert notes[1].startswith("job 1 is given up: its server answers on n1")
    assert queue.excluded == [(), ("n1",)]
    assert queue.live == []


@pytest.mark.parametrize(("job", "ready"), [("1", None), ("earlier", "2026-01-01T00:00:00+00:00")])
def test_a_server_that_loads_its_model_is_waited_for(served, monkeypatch, job, ready):
    """An address that a killed job left behind says nothing of the present one."""
    queue, make, folder, _ = served
    monkeypatch.setattr(lifecycle, "answers", lambda base_url, key: False)
    monkeypatch.setattr(lifecycle, "_UNREACHABLE_S", 0.05)
    address_of(folder, job, ready=ready)
    with pytest.raises(LLMError, match="a higher start_seconds gives it more time"):
        make(start_seconds=0.5).locate()
    assert queue.excluded == [()]


@pytest.mark.parametrize("state", ["RUNNING", "SUSPENDED"])
def test_a_server_that_was_reached_or_is_suspended_is_not_unreachable(served, monkeypatch, state):
    """It may be busy; a suspended job goes on where it was."""
    queue, make, folder, notes = served
    model = make(start_seconds=0.5)
    monkeypatch.setattr(lifecycle, "_UNREACHABLE_S", 0.05)
    queue.state = state
    address_of(folder, "1", ready="2026-01-01T00:00:00+00:00")
    answers = [state == "RUNNING"]
    monkeypatch.setattr(lifecycle, "answers", lambda base_url, key: bool(answers and answers.pop()))
    if state == "RUNNING":
        model.locate()
    wanted = "no longer answers" if state == "RUNNING" else "is still suspended"
    with pytest.raises(LLMError, match=f"its job 1 .*{wanted}"):
        model.locate()
    assert queue.excluded == [()]
    assert not [note for note in notes if "open these ports" in note]


@pytest.mark.parametrize(
    ("state", "silent", "said"),
    [
        ("PENDING", False, "its job 1 is still pending"),
        ("RUNNING", True, "the queue does not say whether its job 1 runs"),
        ("RUNNING", False, "its job 1 runs and is still loading it"),
    ],
)
def test_what_keeps_the_model_from_answering_is_said_as_it_is(
    served, monkeypatch, state, silent, said
):
    queue, make, folder, _ = served
    (folder / ADDRESS_FILE).unlink()
    model = make(start_seconds=0.1)
    start = model._start

    def start_then_fall_silent() -> None:
        start()
        queue.state, queue.silent = state, silent

    monkeypatch.setattr(model, "_start", start_then_fall_silent)
    with pytest.raises(LLMError, match=said):
        model.locate()


def test_the_host_that_answered_is_asked_first(served, monkeypatch):
    _, make, folder, _ = served
    model = make()
    asked: list[str] = []

    def answers(base_url: str, key: str) -> bool:
        asked.append(base_url)
        return "10.0.0.1" in base_url

    monkeypatch.setattr(lifecycle, "answers", answers)
    address_of(folder, "1")
    model.locate()
    model.locate()
    assert asked == [f"http://{host}:1/v1" for host in ("n1", "10.0.0.1", "10.0.0.1")]
