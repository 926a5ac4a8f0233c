"""What the program of a job records of its engines: starts, draws, seconds by phase."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from agenttts.inference.engine_use import ModelDraw
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.result import read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE
from agenttts.trial.usage import USAGE, UsageNotes, read_usages
from tests.support.trial_lists import LISTS, Engines, folder, make_list
from tests.support.trials import trial_writer


def run(specs, notes, engines=None, more=(), stays=False):
    due = tuple(DueTrial(Path(spec.directory) / SPEC_FILE) for spec in specs)
    return run_trials(
        TrialCommand(due, notes, stays), engines or Engines(), out=io.StringIO(),
        err=io.StringIO(), more=more,
    )  # fmt: skip


def new_tokens(specs):
    found = [read_result(Path(spec.directory)) for spec in specs]
    return sum(r.prompt_tokens + r.decode_tokens - r.reused_tokens for r in found)


def test_starts_draws_and_seconds_of_a_list(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS)
    notes = tmp_path / "worker"
    notes.mkdir()
    engines = Engines()
    assert run(specs, notes, engines) == 0
    [usage] = read_usages(notes)
    assert [start.model for start in usage.starts] == engines.started == ["weak", "strong"]
    assert sum(start.seconds for start in usage.starts) <= usage.seconds.load + 0.002
    by_model = {draw.model: draw for draw in usage.draws}
    assert by_model.keys() == {"weak", "strong"}
    for name, draw in by_model.items():
        assert draw.sequences == sum(n for model, n in engines.calls if model == name)
        assert draw.calls == sum(model == name for model, _ in engines.calls)
    assert sum(draw.seconds for draw in usage.draws) == pytest.approx(
        usage.seconds.generate, abs=0.01
    )
    # Trials that draw samples of one prompt in one engine call: its tokens count for the first.
    assert sum(d.prompt_tokens + d.decode_tokens for d in usage.draws) == new_tokens(specs)
    assert (usage.awake, list(usage.asleep), usage.idles) == (None, [], False), "all are closed"


def test_each_start_of_the_program_has_a_file_of_its_own(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS[:1])
    place = Path(specs[0].directory)
    run(specs, None)
    [usage] = read_usages(place)
    assert sum(d.prompt_tokens + d.decode_tokens for d in usage.draws) == new_tokens(specs)
    first = json.loads((place / USAGE / "01.json").read_text())
    run(specs, None)
    assert json.loads((place / USAGE / "01.json").read_text()) == first
    assert [usage.number for usage in read_usages(place)] == [1, 2]
    assert list(read_usages(place)[1].starts) == [], "its trial was complete"


def test_a_worker_notes_its_engines_and_its_waits(tmp_path):
    make = trial_writer(tmp_path)
    specs = make_list(make, LISTS[:2])
    notes = tmp_path / "worker"
    notes.mkdir()
    seen = []

    waited = []

    def lists():
        seen.append(read_usages(notes)[0])
        began = time.monotonic()
        time.sleep(0.3)
        waited.append(time.monotonic() - began)
        yield [DueTrial(Path(specs[1].directory) / SPEC_FILE)]
        seen.append(read_usages(notes)[0])

    assert run(specs[:1], notes, more=lists(), stays=True) == 0
    waiting, after = seen
    assert (waiting.idles, waiting.awake, list(waiting.asleep)) == (True, "strong", ["weak"])
    assert after.seconds.idle >= waited[0] >= 0.3
    assert after.seconds.idle < after.seconds.total
    [usage] = read_usages(notes)
    assert [start.model for start in usage.starts] == ["weak", "strong"], "they stay loaded"
    assert usage.seconds.idle >= after.seconds.idle
    assert usage.seconds.total >= 0.3


def test_phases_add_up_to_the_time_of_the_program(tmp_path):
    specs = make_list(
        trial_writer(tmp_path), LISTS, options={"weak": {"seconds_per_sample": 0.002}}
    )
    notes = tmp_path / "worker"
    notes.mkdir()
    began = time.monotonic()
    run(specs, notes)
    passed = time.monotonic() - began
    [usage] = read_usages(notes)
    assert usage.seconds.generate >= 0.002 * 6 * 5
    assert usage.seconds.generate < usage.seconds.total <= passed + 0.01


def test_a_start_and_a_call_that_fail_take_seconds_and_are_no_start(tmp_path):
    specs = make_list(trial_writer(tmp_path), LISTS[:1])
    engines = Engines(no_start=("strong",))

    def slow(config):
        time.sleep(0.05)
        return engines(config)

    assert run(specs, None, slow) == 1
    [usage] = read_usages(Path(specs[0].directory))
    assert [start.model for start in usage.starts] == ["weak"]
    assert usage.seconds.load >= 0.1

    specs = make_list(trial_writer(folder(tmp_path, "b")), LISTS[:1])
    assert run(specs, None, Engines(breaks=lambda request: True)) == 1
    [usage] = read_usages(Path(specs[0].directory))
    assert list(usage.draws) == []


def test_names_that_share_an_engine_are_told_apart(tmp_path):
    """One engine call serves both names; each has the tokens of its own prompts."""
    notes = UsageNotes(tmp_path)
    notes.called([ModelDraw("a", 10, 30, 3, 1.0), ModelDraw("b", 5, 15, 2, 0.5)], 1.5)
    notes.called([ModelDraw("b", 5, 5, 1, 0.25)], 0.25)
    [usage] = read_usages(tmp_path)
    a, b = usage.draws
    assert (a.model, a.prompt_tokens, a.decode_tokens, a.sequences, a.calls) == ("a", 10, 30, 3, 1)
    assert (b.prompt_tokens, b.decode_tokens, b.sequences, b.seconds) == (10, 20, 3, 0.75)
    assert b.calls == 2


def test_a_reader_takes_what_it_can(tmp_path):
    assert read_usages(tmp_path) == []
    UsageNotes(tmp_path).work_ended()
    folder_of = tmp_path / USAGE
    document = json.loads((folder_of / "01.json").read_text())
    (folder_of / "02.json").write_text("{")
    (folder_of / "03.json").write_text(json.dumps({**document, "number": 3, "later": [1]}))
    (folder_of / "04.json").write_text(json.dumps({**document, "starts": "many"}))
    (folder_of / ".05.json.x.agenttts-tmp").write_text("{")
    (folder_of / "06.json").write_text(json.dumps({**document, "started": "2026-01-01"}))
    assert [usage.number for usage in read_usages(tmp_path)] == [1, 3]
    assert UsageNotes(tmp_path)._usage.number == 7


def test_a_program_goes_on_where_nothing_can_be_written(tmp_path):
    (tmp_path / USAGE).write_text("a file")
    specs = make_list(trial_writer(tmp_path), LISTS[:1])
    assert run(specs, tmp_path) == 0
    assert read_usages(tmp_path) == []
