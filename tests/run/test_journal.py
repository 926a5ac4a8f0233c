"""The journal: what is written is what is read, whatever a crash left at its end."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts.errors import MissingRequirement, UserError
from agenttts.files.trouble import PASSING, FilesUnavailable, passing_trouble
from agenttts.run.journal import Journal, read_state
from agenttts.run.progress import IN_SHARED_JOB, NOT_TAKEN, PlannedTrial
from agenttts.run.rows import row_to_json
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import TrialRow, TrialState


def planned(number: int, iteration: int = 0) -> PlannedTrial:
    allocation = Allocation((Choice("answer", "small", number + 1),))
    return PlannedTrial(f"t{number:04}", iteration, allocation, "initial", "because", 3.5)


def row(number: int, state: str = "COMPLETED") -> dict[str, object]:
    """The row of `planned`'s trial, as the journal keeps it."""
    trial = planned(number)
    score = 0.5 if state == "COMPLETED" else None
    made = TrialRow("r", trial.trial, trial.iteration, trial.source, TrialState(state), score, trial.cost, trial.allocation)  # fmt: skip
    return row_to_json(made)


def test_a_run_is_told_by_its_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("started")
    journal.propose([planned(0), planned(1)])
    journal.append("submitting", batch="r-0", trials=["t0000", "t0001"])
    journal.append("submitted", batch="r-0", jobs={"t0000": "7_0", "t0001": "7_1"})
    journal.append("finished", trial="t0000", row=row(0))
    journal.append("lost", trials=["t0001"], reason="node")
    journal.append("submitting", batch="r-1", trials=["t0001"])
    journal.close()
    for state in (journal.state, read_state(path), Journal(path).state):
        assert [t.planned for t in state.trials.values()] == [planned(0), planned(1)]
        assert [t.planned.trial for t in state.unfinished()] == ["t0001"]
        waiting = state.trials["t0001"]
        assert (waiting.batch, waiting.job_id, waiting.submissions) == ("r-1", None, 2)
        assert state.finished is None


@pytest.mark.parametrize("keep", range(1, 40, 3))
def test_a_line_cut_short_never_happened(tmp_path, keep):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.propose([planned(0)])
    whole = path.stat().st_size
    journal.append("ended", outcome="done")
    journal.close()
    content = path.read_bytes()
    path.write_bytes(content[: whole + keep])
    assert read_state(path).finished is None
    again = Journal(path)
    assert path.stat().st_size == whole
    again.append("ended", outcome="done")
    assert read_state(path).finished == "done"


def test_damage_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("started")
    journal.close()
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(UserError, match=r"journal.jsonl:1: not a valid line of a journal"):
        read_state(path)


def test_what_follows_a_resume_reopens_the_run(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("started")
    journal.append("ended", outcome="cancelled")
    journal.append("started")
    assert journal.state.finished is None


def test_a_resume_after_cancel_runs_what_was_cut_off_and_only_that(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.propose([planned(0), planned(1)])
    for number, state in ((0, "CANCELLED"), (1, "COMPLETED")):
        journal.append("finished", trial=f"t{number:04}", row=row(number, state))
    journal.append("told", iteration=0, guidelines=[])
    journal.propose([planned(2, 1), planned(3, 1)])
    journal.append("submitting", batch="r-0", trials=["t0002", "t0003"])
    journal.append("submitted", batch="r-0", jobs={"t0002": "7_0", "t0003": "7_1"})
    journal.append("finished", trial="t0002", row=row(2, "CANCELLED"))
    journal.append("finished", trial="t0003", row=row(3, "FAILED"))
    journal.append("ended", outcome="cancelled")
    assert journal.state.unfinished() == []
    journal.append("started")
    [waiting] = journal.state.unfinished()
    assert waiting.planned == planned(2, 1)
    assert (waiting.batch, waiting.job_id, waiting.submissions) == (None, None, 0)
    assert journal.state.trials["t0000"].row, "the searcher was told that it failed"


def test_a_guideline_is_written_once_and_known_after_every_event(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    found = ["small is enough"]
    journal.propose([planned(0)], found)
    for number in range(50):
        found.append(f"number {number}")
        journal.append("told", iteration=number, guidelines=found)
        found.append(f"after {number}")
        journal.propose([planned(number + 1, number + 1)], found)
        assert journal.state.guidelines == found
    journal.append("finishing", guidelines=found)
    journal.close()
    assert all(path.read_text().count(json.dumps(text)) == 1 for text in found)
    for state in (journal.state, read_state(path)):
        assert state.guidelines == found
        dated = {text: state.guidelines_from[text] for text in ("small is enough", "number 3", "after 3")}  # fmt: skip
        assert dated == {"small is enough": -1, "number 3": 3, "after 3": 3}


def test_the_guidelines_of_an_older_journal_are_the_same(tmp_path):
    """Its events have all guidelines."""
    path = tmp_path / "journal.jsonl"
    events = [
        {"event": "told", "iteration": 0, "guidelines": ["a"]},
        {"event": "told", "iteration": 1, "guidelines": ["a", "b"]},
    ]
    path.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    state = read_state(path)
    assert (state.guidelines, state.guidelines_from) == (["a", "b"], {"a": 0, "b": 1})


def test_a_trial_that_must_run_alone_does_so_after_a_cancel_too(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.propose([planned(0)])
    journal.append("submitting", batch="r-0", trials=["t0000"])
    journal.append("lost", trials=["t0000"], reason=IN_SHARED_JOB, earlier={"t0000": 1})
    journal.append("submitting", batch="r-1", trials=["t0000"])
    journal.append("finished", trial="t0000", row=row(0, "CANCELLED"))
    journal.append("ended", outcome="cancelled")
    journal.append("started")
    [waiting] = journal.state.unfinished()
    assert (waiting.alone, waiting.earlier_attempts, waiting.submissions) == (True, 1, 0)


def test_what_is_not_an_event_is_named_by_its_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("started")
    journal.propose([planned(0)])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"event": "submitted", "jobs": 7}\n' + b"not json\n" + lines[1])
    with pytest.raises(UserError, match=r"journal.jsonl:2: not a valid event"):
        Journal(path)
    assert path.read_bytes().endswith(lines[1]), "a damaged journal is left as it is"


class Failing:
    """A journal's stream that fails as a disk does: after ``whole`` bytes, at fsync or at
    truncating.
    """

    def __init__(self, stream, whole: int, number: int, truncates: bool) -> None:
        self._stream, self._whole, self._number, self._truncates = stream, whole, number, truncates

    def write(self, data: bytes) -> int:
        done = self._stream.write(data[: self._whole])
        self._whole -= done
        if not done:
            raise OSError(self._number, "it fails")
        return done

    def truncate(self, size: int) -> int:
        if not self._truncates:
            raise OSError(self._number, "it fails")
        return self._stream.truncate(size)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.sampled_from(sorted(PASSING)), st.booleans())),
    st.booleans(),
)
def test_an_append_that_failed_has_not_happened_and_may_be_done_later(troubles, restarts):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        journal = Journal(path)
        journal.append("started")
        done = 0
        for trouble in troubles:
            journal._file._stream = Failing(journal._file._stream, *trouble)
            error = None
            try:
                journal.propose([planned(done)])
            except MissingRequirement as raised:
                error = raised
            if error is not None:
                assert passing_trouble(error)
                assert len(journal.state.trials) == done
                if restarts:
                    journal.close()
                    assert len(read_state(path).trials) in (done, done + 1), "readable in any case"
                    journal = Journal(path)
                    done = len(journal.state.trials)
                    continue
                journal.propose([planned(done)])
            done += 1
            assert len(journal.state.trials) == done
            assert len(read_state(path).trials) == done
        journal.close()
        assert len(Journal(path).state.trials) == done


def test_a_journal_whose_end_was_lost_is_not_written_behind_the_gap(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("started")
    journal._file._stream = Failing(journal._file._stream, 0, errno.ESTALE, True)
    with pytest.raises(MissingRequirement, match="it fails"):
        journal.append("ended", outcome="done")
    path.write_bytes(b"")
    with pytest.raises(FilesUnavailable, match="lost the end of the journal"):
        journal.append("ended", outcome="done")
    path.unlink()
    with pytest.raises(MissingRequirement, match="No such file"):
        journal.append("ended", outcome="done")
    assert not path.exists()


def given_in_part(path: Path, kind: str) -> Journal:
    """A journal of a trial whose first of two stages a job draws."""
    journal = Journal(path)
    journal.propose([planned(0)])
    journal.append(
        "submitting", batch="r-a-0", trials=["t0000"], lists=[["t0000"]], stays=True,
        upto={"t0000": 1} if kind == "submitted" else {},
    )  # fmt: skip
    journal.append("submitted", batch="r-a-0", jobs={"t0000": "7"})
    if kind == "assigned":
        journal.append("lost", trials=["t0000"], reason=NOT_TAKEN)
        [worker] = journal.state.workers
        journal.append("assigned", worker=worker, attempts={"t0000": 0}, upto={"t0000": 1})
    return journal


def test_a_trial_given_to_a_worker_has_the_place_of_its_job(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.propose([planned(0), planned(1)])
    lists = [["t0000"], ["t0001"]]
    trials = ["t0000", "t0001"]
    journal.append("submitting", batch="r-a-0", trials=trials, lists=lists, stays=True)
    journal.append("submitted", batch="r-a-0", jobs={"t0000": "7_0", "t0001": "7_1"})
    journal.append("finished", trial="t0001", row=row(1, "COMPLETED"))
    journal.append("lost", trials=["t0000"], reason=NOT_TAKEN)
    [worker] = [w for w in journal.state.workers.values() if w.job_id == "7_1"]
    journal.append("assigned", worker=worker.name, attempts={"t0000": 0})
    for state in (journal.state, read_state(path)):
        trial = state.trials["t0000"]
        assert (trial.batch, trial.position, trial.job_id) == ("r-a-0", 1, "7_1")


@pytest.mark.parametrize("kind", ["submitted", "assigned"])
def test_a_trial_that_is_handed_over_waits_for_another_job(tmp_path, kind):
    path = tmp_path / "journal.jsonl"
    journal = given_in_part(path, kind)
    assert read_state(path).trials["t0000"].upto == 1
    journal.append("handed_over", trials={"t0000": 1})
    for state in (journal.state, read_state(path)):
        trial = state.trials["t0000"]
        assert (trial.batch, trial.job_id, trial.upto, trial.drawn) == (None, None, None, 1)
        assert trial.submissions == 0, "it does not count as an attempt"
        assert trial.lost_at is None
        assert not state.losses
    journal.append("submitting", batch="r-a-1", trials=["t0000"])
    assert journal.state.trials["t0000"].upto is None, "the rest"
    assert journal.state.trials["t0000"].submissions == 1


def test_what_was_drawn_stays_when_a_trial_is_started_again(tmp_path):
    journal = given_in_part(tmp_path / "journal.jsonl", "submitted")
    journal.append("handed_over", trials={"t0000": 1})
    journal.append("finished", trial="t0000", row=row(0, "CANCELLED"))
    journal.append("started")
    assert journal.state.trials["t0000"].drawn == 1
    journal.append("finished", trial="t0000", row=row(0, "FAILED"))
    journal.append("retried", earlier={"t0000": 2})
    assert journal.state.trials["t0000"].drawn == 1
    assert journal.state.trials["t0000"].earlier_attempts == 2
