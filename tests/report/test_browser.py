"""The page in a real browser: figures are drawn, and nothing is asked for or complained of."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from agenttts.report import render
from tests.support.written_runs import START, trial

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")  # fmt: skip


# Its own requests, which may take long without a network, and shared memory, which may be small.
_QUIET = (
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed here")
def test_a_browser_draws_every_figure_without_a_word(read_runs, tmp_path):
    page, log = tmp_path / "page.html", tmp_path / "net.json"
    render(read_runs("one", "two"), "html", page)
    done = _chromium(tmp_path, page, f"--log-net-log={log}", "--dump-dom")
    assert "CONSOLE" not in done.stderr
    figures = re.findall(r"<figure id=\"[^\"]+\"[^>]*>", done.stdout)
    assert len(figures) > 10
    assert all("is-live" in figure for figure in figures)
    assert not _asked(log)


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed here")
@pytest.mark.parametrize(
    ("column", "clicks", "order"),
    [
        ("time", 1, "20413"),
        ("time", 2, "14023"),
        ("GPU-seconds", 1, "41023"),
        ("trial", 2, "43210"),
    ],
)
def test_rows_are_sorted_by_numbers_whatever_their_unit(read_runs, tmp_path, column, clicks, order):
    seconds, gpu_seconds = [61.0, 7500.0, 9.0, None, 3000.0], [7.5, 0.25, 1200.0, 30000.0, 1.5e-05]
    rows = [
        trial(n, 0.5, 1.0, gpu_seconds=gpus, finished=None if s is None else START + timedelta(seconds=s))
        for n, (s, gpus) in enumerate(zip(seconds, gpu_seconds, strict=True))
    ]  # fmt: skip
    page = tmp_path / "page.html"
    render(read_runs(rows=rows), "html", page)
    click = f"""<script>for (const head of document.querySelectorAll(".sortable th"))
      if (head.textContent === "{column}") for (let n = 0; n < {clicks}; n++) head.click();</script>"""
    page.write_text(page.read_text().replace("</body>", f"{click}</body>"))
    drawn = _chromium(tmp_path, page, "--dump-dom").stdout
    table = drawn[drawn.index('class="sortable"') :]
    found = re.findall(r"<tr><td[^>]*>t000(\d)</td>", table[: table.index("</table>")])
    assert "".join(found) == order


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed here")
def test_it_prints(read_runs, tmp_path):
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    render(read_runs(), "html", page)
    _chromium(tmp_path, page, f"--print-to-pdf={printed}")
    assert printed.read_bytes().startswith(b"%PDF-")
    assert printed.stat().st_size > 20_000


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed here")
def test_what_a_page_asks_for_is_seen(tmp_path):
    page, log = tmp_path / "page.html", tmp_path / "net.json"
    page.write_text("<img src='https://pictures.invalid/a.png'><p>a page</p>", encoding="utf-8")
    _chromium(tmp_path, page, f"--log-net-log={log}", "--dump-dom")
    assert _asked(log) == {"https://pictures.invalid/a.png"}


def _asked(log: Path) -> set[str]:
    """The addresses that pages asked for, in Chromium's log of the network: an event a line.

    Chromium's own requests, for its updates, come from no page: "not an origin".
    """
    asked = set()
    for line in log.read_text(errors="replace").splitlines():
        by = re.search(r'"initiator":"([^"]*)"', line)
        address = re.search(r'"url":"(https?://[^"]*)"', line)
        if by and address and by[1] != "not an origin":
            asked.add(address[1])
    return asked


def _chromium(home: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless=new", *_QUIET, "--no-sandbox", "--disable-gpu", f"--user-data-dir={home / 'profile'}",
        "--window-size=1280,2000", "--virtual-time-budget=20000", "--enable-logging=stderr", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
