"""A trial is complete exactly when its marker matches spec, result and table."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from agenttts.trial.result import (
    EXAMPLES_FILE,
    FAULT_FILE,
    MARKER_FILE,
    RESULT_FILE,
    Fault,
    TrialOutput,
    read_fault,
    read_result,
    result_problem,
    write_fault,
    write_result,
)
from agenttts.trial.spec import SPEC_FILE

OUTPUT = TrialOutput(0.25, {"answer.em": 0.25}, 100, 50, 20, 1, 4, {"load": 1.5, "generate": 2.0})


@pytest.fixture
def complete(tmp_path) -> Path:
    (tmp_path / SPEC_FILE).write_text("{}")
    write_result(tmp_path, OUTPUT, pl.DataFrame({"example": ["a", "b"]}))
    return tmp_path


def test_what_was_written_is_read(complete):
    assert read_result(complete) == OUTPUT


def test_an_empty_directory_is_no_result(tmp_path):
    assert read_result(tmp_path) is None
    assert read_result(tmp_path / "none") is None


@pytest.mark.parametrize("name", [SPEC_FILE, RESULT_FILE, EXAMPLES_FILE, MARKER_FILE])
def test_without_any_of_its_files_a_trial_is_not_complete(complete, name):
    (complete / name).unlink()
    assert read_result(complete) is None


@pytest.mark.parametrize("name", [RESULT_FILE, EXAMPLES_FILE, MARKER_FILE])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_no_result(complete, name, keep):
    content = (complete / name).read_bytes()
    (complete / name).write_bytes(content[: int(len(content) * keep)])
    assert read_result(complete) is None


def test_one_changed_byte_of_the_table_is_seen(complete):
    content = bytearray((complete / EXAMPLES_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (complete / EXAMPLES_FILE).write_bytes(content)
    assert read_result(complete) is None


def test_the_result_of_another_spec_is_none_of_this_trial(complete):
    (complete / SPEC_FILE).write_text('{"seed": 2}')
    assert read_result(complete) is None


@pytest.mark.parametrize("marker", ["[]", "null", "7", '{"result.json": "0"}'])
def test_a_marker_of_another_kind_is_none(complete, marker):
    (complete / MARKER_FILE).write_text(marker)
    assert read_result(complete) is None


def test_a_score_of_zero_is_a_result(tmp_path):
    (tmp_path / SPEC_FILE).write_text("{}")
    zero = TrialOutput(0.0, {}, 0, 0, 0, 0, 1, {})
    write_result(tmp_path, zero, pl.DataFrame({"example": ["a"]}))
    assert read_result(tmp_path) == zero


def test_faults(tmp_path):
    assert read_fault(tmp_path) is None
    write_fault(tmp_path, Fault("OOM", "the weights do not fit"))
    assert read_fault(tmp_path) == Fault("OOM", "the weights do not fit")
    (tmp_path / FAULT_FILE).write_text('{"kind": "OO')
    assert read_fault(tmp_path) is None


def test_files_are_plain_json(complete):
    assert json.loads((complete / RESULT_FILE).read_text())["metrics"] == {"answer.em": 0.25}
    assert set(json.loads((complete / MARKER_FILE).read_text())) == {SPEC_FILE, RESULT_FILE, EXAMPLES_FILE}  # fmt: skip


def rewrite(directory: Path, **changes: object) -> None:
    """Change fields of the result (None: leave one out), and the marker with it, as another
    image would have.
    """
    document = json.loads((directory / RESULT_FILE).read_text()) | changes
    document = {name: value for name, value in document.items() if value is not None}
    content = json.dumps(document).encode()
    (directory / RESULT_FILE).write_bytes(content)
    marker = json.loads((directory / MARKER_FILE).read_text())
    marker[RESULT_FILE] = hashlib.sha256(content).hexdigest()
    (directory / MARKER_FILE).write_text(json.dumps(marker))


def test_fields_of_a_later_image_are_left_out(complete):
    rewrite(complete, later={"x": 1}, score_stderr=0.5)
    assert read_result(complete) == replace(OUTPUT, score_stderr=0.5)


def test_a_result_without_a_field_is_no_result_and_the_field_is_named(complete):
    rewrite(complete, score=None)
    assert read_result(complete) is None
    assert "'score'" in result_problem(complete)


def test_what_is_wrong_with_a_result_is_told(complete):
    (complete / EXAMPLES_FILE).write_bytes(b"")
    assert "does not match" in result_problem(complete)
    (complete / MARKER_FILE).unlink()
    assert f"{complete / MARKER_FILE} is missing" in result_problem(complete)


def test_faults_are_read_across_versions(tmp_path):
    (tmp_path / FAULT_FILE).write_text('{"kind": "FAILED", "message": "m", "later": 1}')
    assert read_fault(tmp_path) == Fault("FAILED", "m")
    for content in ("[]", "3", "null", '{"kind": "FAILED"}'):
        (tmp_path / FAULT_FILE).write_text(content)
        assert read_fault(tmp_path) is None
