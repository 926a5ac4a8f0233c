"""What a report shows of a run beside its trials, of a real run."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from agenttts.loop import reports
from agenttts.loop.backgrounds import background_of
from agenttts.loop.reports import report_of, write_report
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state


@pytest.fixture
def finished(finished_run):
    return RunDirectory(finished_run())


def test_a_run_knows_what_it_was_made_with_and_why(finished, cli):
    state = read_state(finished.journal_file)
    found = background_of(finished, state)
    assert set(found.reasons) == set(state.trials)
    assert found.reasons["t0000"] == state.trials["t0000"].planned.reason
    made = found.provenance
    assert made is not None
    assert made.facts["task"] == "retrieval_qa"
    assert made.facts["score"] == "answer.em"
    assert [model[:2] for model in made.models] == [("strong", "scripted"), ("weak", "scripted")]
    assert set(made.examples) == {"examples.jsonl"}
    assert found.outlook is not None
    assert {(c.stage, c.model) for c in found.outlook.curves} == {
        (stage, model) for stage in ("retrieval", "answer") for model in ("weak", "strong")
    }
    beside = [trial.allocation for curve in found.outlook.curves for trial in curve.trials]
    own = {str(progress.planned.allocation) for progress in state.trials.values()}
    assert all(beside.count(allocation) == 2 for allocation in own), "a curve of each stage"
    assert set(beside) > own, "stored trials too"

    # The command that repeats the run does so.
    program, *arguments = shlex.split(made.command)
    assert program == "agenttts-hpc"
    again = cli(*arguments, "--wait")
    assert again.returncode == 0, again.stderr
    one, two = (
        json.loads(cli("report", name, "--format", "json").stdout)["runs"][0]["trials"]
        for name in ("small", "small-again")
    )
    same = ("allocation", "score", "source")
    assert [[t[k] for k in same] for t in one] == [[t[k] for k in same] for t in two]


def test_the_page_and_the_figures_of_a_run(finished, cli, tmp_path):
    out = tmp_path / "page.html"
    done = cli("report", "small", "--format", "html", "--out", str(out), "--figures", "figures")
    assert done.returncode == 0, done.stderr
    page = out.read_text(encoding="utf-8")
    for expected in ("The command that repeats it", "Saturation", "Iterations of the search", "Recommended allocation"):  # fmt: skip
        assert expected in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"samples-retrieval.svg", "stages-retrieval-answer.png", "time.pdf"} <= names
    assert f"{len(names)} files of figures written to figures" in done.stderr
    assert len(re.findall("<figure id", page)) * 3 == len(names)


def test_other_formats_do_not_fit_the_surrogate(finished):
    assert report_of([finished]).runs[0].background.outlook is None
    assert report_of([finished], page=True).runs[0].background.outlook is not None


def test_a_run_whose_record_is_lost_still_has_a_page(finished, cli, caplog):
    finished.record_file.unlink()
    found = background_of(finished, read_state(finished.journal_file))
    assert (found.provenance, found.outlook) == (None, None)
    assert found.reasons["t0000"]
    assert "lacks what the run was made with" in caplog.text
    done = cli("report", "small", "--format", "html")
    assert "Recommended allocation" in done.stdout


def test_the_report_of_a_large_run_is_written_by_a_process_of_its_own(
    finished, monkeypatch, caplog
):
    """It is the same; a failure costs a line in the log."""
    document, state = finished.report / "report.json", read_state(finished.journal_file)
    write_report(finished, state, "cancelled: enough")
    here = document.read_text()
    document.unlink()
    monkeypatch.setattr(reports, "MOST_TRIALS_HERE", 0)
    write_report(finished, state, "cancelled: enough")
    assert document.read_text() == here
    assert "cancelled: enough" in here
    assert not caplog.text
    monkeypatch.setattr(reports.sys, "executable", "false")
    write_report(finished, state, "done")
    assert "could not be written: its process ended with exit code 1" in caplog.text
    assert "Traceback" not in caplog.text
