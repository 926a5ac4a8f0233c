"""The records of attempts: read whatever state they are in, pauses and nodes to avoid worked
out from them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.attempts import (
    EXCLUDED_FOR,
    HANDED_OVER,
    NODES_AT_FAULT,
    Attempt,
    Loss,
    nodes_to_exclude,
    read_attempts,
    retry_pause,
    write_attempt,
)
from agenttts.tables.schema import TrialState

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def attempt(state: str | None = "INFRA_FAILED", node: str = "n1", *, ago: float = 60, fault: bool = False, number: int = 1) -> Attempt:  # fmt: skip
    """One that ended ``ago`` seconds before `NOW`."""
    end = NOW - timedelta(seconds=ago)
    return Attempt(
        number=number,
        job_id="7",
        node=node,
        gpus=1,
        devices="0",
        started=(end - timedelta(seconds=10)).isoformat(),
        finished=end.isoformat() if state else None,
        state=state,
        node_fault=fault,
    )


def test_a_record_is_read_as_it_was_written(tmp_path):
    one = attempt(fault=True)
    write_attempt(tmp_path, one)
    assert read_attempts(tmp_path) == [one]


def test_fields_of_a_later_version_are_left_out(tmp_path):
    one = attempt()
    write_attempt(tmp_path, one)
    path = tmp_path / "attempts" / "01.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": [1]}))
    assert read_attempts(tmp_path) == [one]


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "3", '{"number": 1}', '{"number": 1, "job_id": "1", "node": "n", "gpus": 0, "devices": "", "started": "yesterday"}', '{"number": 1, "job_id": "1", "node": "n", "gpus": 0, "devices": "", "started": "2026-01-01T00:00:00+00:00", "state": "LATER"}'])  # fmt: skip
def test_a_record_that_cannot_be_read_is_an_attempt_that_was_cut_off(tmp_path, content, caplog):
    write_attempt(tmp_path, attempt(number=1))
    (tmp_path / "attempts" / "02.json").write_text(content)
    first, second = read_attempts(tmp_path)
    assert first == attempt(number=1)
    assert (second.number, second.state, second.finished, second.gpus) == (2, None, None, 0)
    assert datetime.fromisoformat(second.started).tzinfo is not None
    assert "02.json cannot be read" in caplog.text


@given(st.sets(st.integers(1, 12000), max_size=12))
def test_records_are_in_the_order_of_their_numbers_however_many_digits_these_have(numbers):
    with TemporaryDirectory() as folder:
        for number in numbers:
            write_attempt(Path(folder), attempt(number=number))
        assert [one.number for one in read_attempts(Path(folder))] == sorted(numbers)


def test_a_damaged_record_keeps_its_place_past_the_hundredth(tmp_path):
    for number in (9, 10, 99, 100, 101):
        write_attempt(tmp_path, attempt(number=number))
    (tmp_path / "attempts" / "100.json").write_text("{")
    (tmp_path / "attempts" / "copy of 7.json").write_text("{")
    found = read_attempts(tmp_path)
    assert [one.number for one in found] == [0, 9, 10, 99, 100, 101]
    assert [one.state for one in found][-2:] == [None, "INFRA_FAILED"]


PAUSES = (0.0, 30.0, 120.0)


@pytest.mark.parametrize(
    ("states", "lost", "pause"),
    [
        ([], 0, 0),
        ([], 2, 30),  # the trial's directory could not be written: there are no records
        (["INFRA_FAILED"], 1, 0),
        (["INFRA_FAILED", "INFRA_FAILED"], 2, 30),
        (["INFRA_FAILED", "PREEMPTED", "PREEMPTED"], 1, 0),
        (["INFRA_FAILED", None, "INFRA_FAILED"], 3, 120),
        (["INFRA_FAILED"] * 9, 9, 120),
    ],
)
def test_pauses_grow_with_the_failures(states, lost, pause):
    attempts = [attempt(state, number=n) for n, state in enumerate(states, 1)]
    assert retry_pause(attempts, lost, PAUSES) == pause
    assert retry_pause(attempts, lost, ()) == 0


NODES = [
    ("a message of the node's own is enough", {"t0": [attempt(fault=True)]}, ("n1",)),
    ("one unexplained failure is not", {"t0": [attempt()]}, ()),
    ("nor are two of one trial", {"t0": [attempt(), attempt()]}, ()),
    ("two of different trials are", {"t0": [attempt()], "t1": [attempt()]}, ("n1",)),
    ("failures of the trials' own say nothing", {"t0": [attempt("FAILED")], "t1": [attempt("OOM")]}, ()),
    ("nor do preemptions", {"t0": [attempt("PREEMPTED")], "t1": [attempt("PREEMPTED")]}, ()),
    ("a trial that completed there since speaks for the node", {"t0": [attempt(ago=90)], "t1": [attempt("COMPLETED", ago=60)], "t2": [attempt(ago=30)]}, ()),
    ("so does one whose leading stages were drawn there", {"t0": [attempt(ago=90)], "t1": [attempt(HANDED_OVER, ago=60)], "t2": [attempt(ago=30)]}, ()),
    ("one that completed before does not", {"t0": [attempt("COMPLETED", ago=90)], "t1": [attempt(ago=60)], "t2": [attempt(ago=30)]}, ("n1",)),
    ("a day later the node is tried again", {"t0": [attempt(fault=True, ago=EXCLUDED_FOR.total_seconds() + 1)]}, ()),
    ("nodes are told apart", {"t0": [attempt(node="n2", fault=True)], "t1": [attempt(node="n1")]}, ("n2",)),
    ("attempts that were cut off have no verdict", {"t0": [attempt(None)], "t1": [attempt(None)]}, ()),
    ("many nodes at fault and nothing ever worked: not the nodes", {f"t{n}": [attempt(node=f"n{n}", fault=True)] for n in range(NODES_AT_FAULT + 1)}, ()),
    ("many nodes at fault and nothing works any more: not the nodes", {f"t{n}": [attempt(node=f"n{n}", fault=True)] for n in range(NODES_AT_FAULT + 1)} | {"t9": [attempt("COMPLETED", node="n9", ago=90)]}, ()),
    ("many nodes at fault, and others work", {f"t{n}": [attempt(node=f"n{n}", fault=True)] for n in range(NODES_AT_FAULT + 1)} | {"t9": [attempt("COMPLETED", node="n9", ago=30)]}, tuple(f"n{n}" for n in range(NODES_AT_FAULT + 1))),
]  # fmt: skip


@pytest.mark.parametrize(("trials", "nodes"), [case[1:] for case in NODES], ids=[case[0] for case in NODES])  # fmt: skip
def test_nodes_to_exclude(trials, nodes):
    assert nodes_to_exclude(trials, NOW) == nodes


ATTEMPTS = st.builds(
    attempt,
    st.none() | st.sampled_from([HANDED_OVER, *(state.value for state in TrialState)]),
    st.sampled_from(["", "n1", "n2", "n3", "n4", "n5"]),
    ago=st.floats(0, 2e5),
    fault=st.booleans(),
)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(ATTEMPTS, max_size=5)))
def test_only_nodes_with_a_failure_are_excluded(trials):
    failed = {a.node for attempts in trials.values() for a in attempts if a.state == "INFRA_FAILED"}
    assert set(nodes_to_exclude(trials, NOW)) <= failed - {""}


def loss(trial: str, node: str = "n1", *, job: str = "7", fault: bool = False, ago: float = 60) -> Loss:  # fmt: skip
    return Loss(trial, job, node, fault, (NOW - timedelta(seconds=ago)).isoformat())


def test_a_job_that_left_no_record_counts_against_its_node():
    trials = {"t0": [], "t1": [attempt(None)]}
    assert nodes_to_exclude(trials, NOW, [loss("t0", fault=True)]) == ("n1",)
    assert nodes_to_exclude(trials, NOW, [loss("t0")]) == ()
    assert nodes_to_exclude(trials, NOW, [loss("t0"), loss("t0")]) == (), "of one trial"
    assert nodes_to_exclude(trials, NOW, [loss("t0"), loss("t1")]) == ("n1",)
    assert nodes_to_exclude(trials, NOW, [loss("t0", ago=2 * 86400, fault=True)]) == ()


def test_a_trial_that_completed_on_a_node_clears_it_of_what_the_jobs_themselves_wrote_down_before():
    """The queue's word is taken down later than the job's, as after the settle time of a shared
    file system.
    """
    failed, done = attempt(ago=90), attempt("COMPLETED", ago=60)
    trials = {"t0": [failed], "t1": [done]}
    assert nodes_to_exclude(trials, NOW, [loss("t0", ago=30), loss("t1", ago=20)]) == ()
    assert nodes_to_exclude(trials, NOW, [loss("t0", ago=30, fault=True)]) == ("n1",)
    assert nodes_to_exclude(trials, NOW, [loss("t0", ago=70, fault=True)]) == ()


def test_a_setup_line_that_works_nowhere_is_no_node_s_fault():
    unbegun = [loss("t0", "n1", fault=True), loss("t1", "n2", job="8", fault=True)]
    assert nodes_to_exclude({"t0": [], "t1": []}, NOW, unbegun[:1]) == ("n1",), "it may be"
    assert nodes_to_exclude({"t0": [], "t1": []}, NOW, unbegun) == ()
    running = {"t0": [], "t1": [], "t2": [attempt(None, "n3")]}
    assert nodes_to_exclude(running, NOW, unbegun) == ("n1", "n2"), "it works elsewhere"
