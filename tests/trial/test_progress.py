"""What a program writes of the progress of its trials."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from agenttts.inference.draw_counts import DrawCounter, DrawCounts, WantedPrompts
from agenttts.inference.engine_process import create_engine
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.progress import Progress, ProgressNotes, TrialStage, read_progress
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE


def test_trials_write_how_far_they_have_come(make_trial, tmp_path, monkeypatch):
    seen: list[Progress] = []
    counted = ProgressNotes.counted

    def count(notes: ProgressNotes, counts: DrawCounts) -> None:
        counted(notes, counts)
        progress = read_progress(tmp_path / "worker")
        assert progress is not None
        seen.append(progress)

    monkeypatch.setattr(ProgressNotes, "counted", count)
    monkeypatch.setattr(ProgressNotes, "is_due", property(lambda notes: True))
    (tmp_path / "worker").mkdir()
    specs = [make_trial("t0000", ("weak", 3), ("strong", 2)), make_trial("t0001", ("weak", 1), ("weak", 1))]  # fmt: skip
    due = tuple(DueTrial(Path(spec.directory) / SPEC_FILE) for spec in specs)
    command = TrialCommand(due, tmp_path / "worker", False)
    assert run_trials(command, create_engine, out=io.StringIO(), err=io.StringIO()) == 0
    first = seen[0]
    assert list(first.trials) == [
        TrialStage("t0000", "retrieval", 1, 2, 6, 0), TrialStage("t0001", "retrieval", 1, 2, 6, 0),
    ]  # fmt: skip
    assert (first.model, first.tokens, first.tokens_per_second) == ("weak", 0, None)
    within = {trial.done for progress in seen for trial in progress.trials if trial.number == 1}
    assert {0, 1, 5, 6} <= within, "it is written while an engine works"
    assert any(progress.tokens_per_second for progress in seen)
    last = read_progress(tmp_path / "worker")
    assert last is not None
    assert {(t.trial, t.stage, t.done, t.examples) for t in last.trials} == {
        ("t0000", "answer", 6, 6), ("t0001", "answer", 6, 6),
    }  # fmt: skip


def test_during_a_call_it_is_written_every_few_seconds(tmp_path):
    now = [0.0]
    notes = ProgressNotes(tmp_path, clock=lambda: now[0])
    notes.begin("m", [TrialStage("t", "answer", 1, 1, 2)])
    samples: dict[str, list[int]] = {"a": [], "b": []}
    counter = DrawCounter(notes, {"t": WantedPrompts(("a", "b", "a"), 2)}, samples)
    counter.tell()
    counter.engine_call()
    samples["a"] = [0, 1]
    counter.add(30)
    assert read_progress(tmp_path).trials[0].done == 0, "it was written just now"
    now[0] = 6.0
    counter.add(30)
    progress = read_progress(tmp_path)
    assert (progress.trials[0].done, progress.tokens) == (2, 60), "equal prompts count each"


def test_without_a_place_to_write_the_program_goes_on(tmp_path):
    notes = ProgressNotes(tmp_path / "gone")
    notes.begin("m", [TrialStage("t", "answer", 1, 1, 2)])
    notes.counted(DrawCounts({"t": 1, "another": 3}))
    assert read_progress(tmp_path / "gone") is None


@pytest.mark.parametrize("content", ["", "[]", '{"started": "2026-01-01T00:00:00"}', '{"started": "x"}'])  # fmt: skip
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path, content):
    (tmp_path / "progress.json").write_text(content)
    assert read_progress(tmp_path) is None
