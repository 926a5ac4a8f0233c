"""Trials in parts: the leading stages by one program, the rest by another."""

from __future__ import annotations

import io
import json
import shutil
import threading
from pathlib import Path

import polars as pl
import pytest

from agenttts.inference import sampler
from agenttts.inference.engine_process import create_engine
from agenttts.trial.command import DueTrial, TrialCommand
from agenttts.trial.part import NOTHING_DRAWN, PART_FILE, Part, read_part, write_part
from agenttts.trial.result import EXAMPLES_FILE, TrialOutput, read_fault, read_result
from agenttts.trial.run import run_trials
from agenttts.trial.spec import SPEC_FILE
from tests.support.trial_lists import LISTS, Engines, folder, make_list
from tests.support.trials import trial_writer


def run_list(specs, upto=None, engines=None):
    """Evaluate a list with a program of its own; return its exit code and what has ended."""
    ended: list[str] = []
    due = tuple(DueTrial(Path(spec.directory) / SPEC_FILE, upto) for spec in specs)
    code = run_trials(
        TrialCommand(due), engines or Engines(), out=io.StringIO(), err=io.StringIO(),
        ended=lambda directory: ended.append(directory.name),
    )  # fmt: skip
    return code, ended


def measured(spec) -> TrialOutput:
    found = read_result(Path(spec.directory))
    assert found is not None
    return found


def test_a_trial_in_parts_has_the_result_of_the_whole_one(tmp_path):
    whole = make_list(trial_writer(folder(tmp_path, "a")), LISTS)
    parts = make_list(trial_writer(folder(tmp_path, "b")), LISTS)
    for spec in whole:
        run_list([spec])
    for spec in parts:
        assert run_list([spec], upto=1) == (0, [spec.trial])
        assert read_result(Path(spec.directory)) is None
        assert read_part(Path(spec.directory)).stages == 1
    for spec in parts:
        assert run_list([spec]) == (0, [spec.trial])
    # All but the seconds and the engine starts, which depend on what was loaded.
    for a, b in zip(map(measured, whole), map(measured, parts), strict=True):
        assert (a.score, a.metrics, a.cut_samples) == (b.score, b.metrics, b.cut_samples)
        assert (a.prompt_tokens, a.decode_tokens) == (b.prompt_tokens, b.decode_tokens)


@pytest.mark.parametrize("allocation", LISTS)
def test_the_costs_of_a_part_are_the_trials(tmp_path, allocation):
    whole = trial_writer(folder(tmp_path, "a"))("t0000", *allocation)
    part = trial_writer(folder(tmp_path, "b"))("t0000", *allocation)
    run_list([whole])
    run_list([part], upto=1)
    drawn = read_part(Path(part.directory))
    assert drawn.engine_starts == 1
    run_list([part])
    assert measured(part).reused_tokens == measured(whole).reused_tokens
    assert measured(part).engine_starts == 2
    assert measured(part).seconds["generate"] >= drawn.seconds["generate"] > 0
    tables = [
        pl.read_parquet(Path(spec.directory) / EXAMPLES_FILE).drop("trial")
        for spec in (whole, part)
    ]
    assert tables[0].equals(tables[1]), "by example too"


def test_samples_of_others_stay_reused(tmp_path):
    first, second = make_list(trial_writer(tmp_path), [LISTS[0], LISTS[0]])
    run_list([first])
    run_list([second], upto=1)
    run_list([second])
    output = measured(second)
    assert output.reused_tokens == output.prompt_tokens + output.decode_tokens
    assert output.engine_starts == 0


def test_a_part_starts_no_engine_of_later_stages(tmp_path):
    engines = Engines(no_start=("strong",))
    specs = make_list(trial_writer(tmp_path), [LISTS[0], [("weak", 3), ("strong", 2)]])
    assert run_list(specs, 1, engines) == (0, ["t0000", "t0001"])
    assert engines.started == ["weak"]
    rest = Engines(no_start=("weak",))
    assert run_list(specs, None, rest)[0] == 0
    assert rest.started == ["strong"], "the part's samples are stored"


def test_parts_and_whole_trials_share_a_list(tmp_path):
    specs = make_list(trial_writer(tmp_path), [LISTS[0], LISTS[3]])
    paths = [Path(spec.directory) / SPEC_FILE for spec in specs]
    due = (DueTrial(paths[0], 1), DueTrial(paths[1]))
    out = io.StringIO()
    assert run_trials(TrialCommand(due), create_engine, out=out, err=io.StringIO()) == 0
    assert out.getvalue().splitlines()[0] == "t0000: stages drawn: 1"
    assert read_result(Path(specs[0].directory)) is None
    assert read_result(Path(specs[1].directory)) is not None


def test_a_part_that_fails_leaves_a_fault_and_no_part(tmp_path):
    spec = trial_writer(tmp_path)("t0000", *LISTS[0])
    assert run_list([spec], 1, Engines(no_start=("weak",)))[0] == 1
    fault = read_fault(Path(spec.directory))
    assert fault is not None
    assert fault.kind == "OOM"
    assert read_part(Path(spec.directory)) == NOTHING_DRAWN


def test_a_program_waits_for_samples_that_are_not_visible_yet(tmp_path, monkeypatch):
    """As NFS shows another node's new files late; without the wait they were drawn again."""
    monkeypatch.setattr(sampler, "_LOOK_S", 0.02)
    spec = trial_writer(tmp_path)("t0000", *LISTS[0])
    run_list([spec], upto=1)
    samples, away = tmp_path / "samples", tmp_path / "away"
    samples.rename(away)
    samples.mkdir()
    engines = Engines(no_start=("weak",))
    threading.Timer(0.3, lambda: [f.rename(samples / f.name) for f in away.iterdir()]).start()
    assert run_list([spec], None, engines)[0] == 0
    assert engines.started == ["strong"]


def test_samples_that_are_lost_are_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "VISIBLE_WITHIN_S", 0.1)
    make = trial_writer(tmp_path)
    spec = make("t0000", *LISTS[0])
    run_list([spec])
    before = measured(spec)
    shutil.rmtree(spec.directory)
    spec = make("t0000", *LISTS[0])
    run_list([spec], upto=1)
    shutil.rmtree(tmp_path / "samples")
    engines = Engines()
    assert run_list([spec], None, engines)[0] == 0
    assert engines.started == ["weak", "strong"]
    assert (measured(spec).score, measured(spec).metrics) == (before.score, before.metrics)


@pytest.mark.parametrize("content", ["", "{", "3", '{"stages": "two"}', '{"computed": 7}'])
def test_a_part_that_cannot_be_read_is_drawn_again(tmp_path, content):
    (tmp_path / PART_FILE).write_text(content)
    assert read_part(tmp_path) == NOTHING_DRAWN


def test_a_part_is_what_was_written_and_a_later_version_may_add_to_it(tmp_path):
    part = Part(2, {"load": 1.5, "generate": 2.0}, 1, [[1, 2], [3, 4]])
    write_part(tmp_path, part)
    document = json.loads((tmp_path / PART_FILE).read_text())
    (tmp_path / PART_FILE).write_text(json.dumps({**document, "invented": "later"}))
    assert read_part(tmp_path) == part
