"""Where the time went."""

from __future__ import annotations

from agenttts.report.figures.costs import time_figure


def texts_of(figure):
    """The texts beside the bars, by part."""
    [rows] = [rows for rows in figure.spec["datasets"].values() if "text" in rows[0]]
    return {row["part"]: row["text"] for row in rows}


def test_gpu_time_by_part_in_a_fitting_unit(read_runs):
    [run] = read_runs(gpus=2).runs
    figure = time_figure([run], ["demo"], "time")
    assert figure is not None
    assert "GPU-minutes" in str(figure.spec)
    assert texts_of(figure)["generating"] == "10 (71%)"
    assert texts_of(figure)["waiting for trials"] == "0.667 (5%)"


def test_thousands_of_hours_are_written_out(read_runs):
    [run] = read_runs(gpus=20_000).runs
    figure = time_figure([run], ["demo"], "time")
    assert figure is not None
    assert texts_of(figure)["generating"] == "1,667 (71%)"


def test_without_gpus_it_is_the_time_of_jobs(read_runs):
    [run] = read_runs(gpus=0).runs
    figure = time_figure([run], ["demo"], "time")
    assert figure is not None
    assert "minutes of jobs" in str(figure.spec)
    assert texts_of(figure)["generating"] == "5 (71%)"
    assert figure.caption.endswith("No job had a GPU.")


def test_without_records_there_is_none(make_run):
    from agenttts.report import build_report

    assert time_figure(build_report([make_run()]).runs, ["demo"], "time") is None
