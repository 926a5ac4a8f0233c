"""Every figure as SVG, PNG and PDF."""

from __future__ import annotations

import struct
from xml.etree import ElementTree

import pytest

from agenttts.errors import UserError
from agenttts.report.figures import files
from agenttts.report.figures.files import write_figures


@pytest.fixture
def undrawn(monkeypatch):
    """Files with nothing in them, for tests of their names: drawing takes ten seconds a run."""
    for ending, content in (("svg", ""), ("png", b""), ("pdf", b"")):
        monkeypatch.setattr(files, ending, lambda figure, content=content: content)


def test_every_figure_is_written_three_times_and_is_readable(read_runs, tmp_path):
    folder = tmp_path / "paper" / "figures"
    written = write_figures(read_runs(), folder)
    assert sorted(written) == sorted(folder.iterdir())
    stems = {path.stem for path in written}
    assert {
        "best-trials",
        "pareto-budget",
        "samples-answer",
        "stages-retrieval-answer",
        "time",
    } <= stems
    assert len(written) == 3 * len(stems)
    for stem in stems:
        root = ElementTree.parse(folder / f"{stem}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        image = (folder / f"{stem}.png").read_bytes()
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", image[16:24])
        assert width > 600, "for print"
        assert height > 200
        document = (folder / f"{stem}.pdf").read_bytes()
        assert document.startswith(b"%PDF-")
        assert b"%%EOF" in document[-20:]


@pytest.mark.usefixtures("undrawn")
def test_runs_have_folders_of_their_own(read_runs, tmp_path):
    report = read_runs("one", "two")
    write_figures(report, tmp_path / "figures")
    assert (tmp_path / "figures/best-trials.svg").exists()
    assert (tmp_path / "figures/one/pareto-budget.pdf").exists()
    assert (tmp_path / "figures/two/pareto-budget.pdf").exists()


@pytest.mark.usefixtures("undrawn")
def test_runs_of_one_name_do_not_replace_each_other(read_runs, tmp_path):
    report = read_runs("one", "../elsewhere/one")
    write_figures(report, tmp_path / "figures")
    assert (tmp_path / "figures/one/time.svg").exists() or (tmp_path / "figures/one/best-trials.svg").exists()  # fmt: skip
    assert (tmp_path / "figures/one-2/best-trials.svg").exists()


def test_a_folder_that_cannot_be_made_is_named(read_runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="figures cannot be written.*--figures") as caught:
        write_figures(read_runs(), tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_run_without_trials_has_none(read_runs, tmp_path):
    report = read_runs(rows=None)
    for run in report.runs:
        object.__setattr__(run, "cost", None)
        object.__setattr__(run.background, "outlook", None)
    assert write_figures(report, tmp_path / "figures") == []
