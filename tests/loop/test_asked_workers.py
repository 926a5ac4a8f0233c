"""Whole runs whose served agent is one of the search's models: its workers are asked.

The agent is the scripted model ``strong``. Its server, where one is needed, is a real process.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from agenttts.files.processes import command_line
from tests.support.llm import talking_script
from tests.support.processes import pids, processes_with
from tests.support.runs import (
    journal_events,
    kill_controller,
    outcome,
    transcript_events,
    until_more_events,
)
from tests.support.waiting import until

pytestmark = pytest.mark.processes

PROFILE = """
kind: {kind}
max_running: 1
gpus_per_node: 0
poll_seconds: 0.1
grace_seconds: 5
trials_per_job: 2
linger_seconds: {linger_seconds}
"""
AGENT = {
    "kind": "serve",
    "model": "strong",
    "max_tokens": 500,
    "timeout_seconds": 60,
    "start_seconds": 120,
    "retries": 1,
}


@pytest.fixture
def spec(scripted_spec, tmp_path):
    """Write a spec whose strong model also answers the search's questions."""

    def make(name: str = "small", kind: str = "in_process", linger_seconds: float = 600) -> Path:
        profile = PROFILE.format(kind=kind, linger_seconds=linger_seconds)
        (tmp_path / f"{name}-profile.yaml").write_text(profile)
        changes = {"task__examples": 4, "search__iterations": 2, "search__batch_size": 2}
        scripted_spec(name, **changes)  # writes the scripts
        place = str(talking_script(tmp_path / "strong.json"))
        changes |= {"models__strong__path": place, "agent": AGENT}
        return scripted_spec(name, cluster=f"./{name}-profile.yaml", **changes)

    return make


def served(run: Path) -> list[str]:
    if not (run / "agent.jsonl").exists():
        return []
    return [event["what"] for event in transcript_events(run, "served")]


def questions(run: Path) -> list[Path]:
    return sorted(run.glob("workers/*/questions/[!.]*.json"))


def program_of(worker: Path) -> list[int]:
    """The processes of a worker's program of trials."""
    found = [(pid, command_line(pid)) for pid in pids()]
    return [
        pid for pid, line in found if b"agenttts.trial" in line and str(worker).encode() in line
    ]


def check_asked_workers(run: Path) -> None:
    replies = transcript_events(run, "reply")
    assert {event["purpose"] for event in replies} == {"propose"}
    for event in replies:
        assert event["notes"][0].startswith("answered by worker "), event
    assert served(run) == [], "no server was started"
    assert not (run / "agent" / "serve.json").exists()


def test_a_worker_answers_in_place_of_the_server_with_the_same_result(cli, spec, tmp_path):
    done = cli("launch", spec("asked"), "--wait")
    assert done.returncode == 0, done.stderr
    asked = tmp_path / "results/asked"
    check_asked_workers(asked)
    assert any(e["usable"] for e in transcript_events(asked, "proposals"))
    answered = list(asked.glob("workers/*/answers/*.json"))
    assert len(answered) == len(transcript_events(asked, "reply"))
    # Without workers that stay, the server answers.
    done = cli("launch", spec("served", linger_seconds=0), "--wait")
    assert done.returncode == 0, done.stderr
    other = tmp_path / "results/served"
    assert served(other)[0].startswith("started as job")
    assert "released" in served(other)[-1]
    assert questions(other) == []
    assert outcome(other) == outcome(asked)
    texts = [
        [(e["key"], e["reply"]) for e in transcript_events(run, "reply")] for run in (asked, other)
    ]
    assert texts[0] == texts[1]


def test_the_server_answers_if_a_worker_dies_with_a_question_open(cli, spec, tmp_path):
    assert cli("launch", spec("calm"), "--wait").returncode == 0
    calm, killed = tmp_path / "results/calm", tmp_path / "results/killed"
    check_asked_workers(calm)
    assert cli("launch", spec("killed", kind="local")).returncode == 0
    asked = until(lambda: questions(killed), "a question", seconds=120, pause=0.005)
    assert [pid for file in asked for pid in _stop(program_of(file.parents[1]))]
    assert not list(killed.glob("workers/*/answers/*.json")), "the question is open"
    for worker in (killed / "workers").iterdir():
        for pid in program_of(worker):
            os.kill(pid, signal.SIGKILL)
    done = cli("resume", "killed", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(killed) == outcome(calm)
    assert any("ended before it answered" in what for what in served(killed))
    texts = [
        [(e["key"], e["reply"]) for e in transcript_events(run, "reply")] for run in (killed, calm)
    ]
    assert texts[0] == texts[1]
    assert not (killed / "agent" / "key").exists()
    until(lambda: not processes_with(str(killed)), "no process is left", seconds=60)


def test_a_controller_that_is_killed_repeats_no_question(cli, spec, tmp_path):
    assert cli("launch", spec("whole"), "--wait").returncode == 0
    assert cli("launch", spec("killed", kind="local")).returncode == 0
    whole, killed = tmp_path / "results/whole", tmp_path / "results/killed"
    until(lambda: questions(killed), "a question", seconds=120, pause=0.005)
    assert kill_controller(killed)
    assert cli("resume", "killed").returncode == 0
    until_more_events(killed, 3)
    if kill_controller(killed):
        assert cli("resume", "killed").returncode == 0
    assert cli("resume", "killed", "--wait").returncode == 0
    assert outcome(killed) == outcome(whole)
    check_asked_workers(killed)
    asked = [[e["key"] for e in transcript_events(run, "reply")] for run in (killed, whole)]
    assert asked[0] == asked[1]
    names = Counter(file.stem.rpartition("-")[0] for file in questions(killed))
    assert names == dict.fromkeys(asked[0], 1), "each was asked once"


def test_a_cancel_with_a_question_open_leaves_nothing_behind(cli, spec, tmp_path):
    assert cli("launch", spec(kind="local")).returncode == 0
    run = tmp_path / "results/small"
    asked = until(lambda: questions(run), "a question", seconds=120, pause=0.005)
    assert [pid for file in asked for pid in _stop(program_of(file.parents[1]))]
    done = cli("cancel", "small")
    assert done.returncode == 0, done.stderr
    assert [event["outcome"] for event in journal_events(run, "ended")] == ["cancelled"]
    until(lambda: not processes_with(str(run)), "no process is left", seconds=60)
    assert not (run / "agent" / "key").exists()


def _stop(processes: list[int]) -> list[int]:
    """Have processes do nothing more; they can be killed."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    return processes
