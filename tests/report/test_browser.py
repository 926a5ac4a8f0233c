"""The page in a real browser: figures are drawn, and nothing is asked for or complained of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agenttts.report import render

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
    # Chromium looks for updates of its own; the page's requests would be of its document.
    assert not re.search(r"https?://(?!www\.w3\.org|(\w+\.)*(google|googleapis|gvt1)\.com)", _asked(log))  # fmt: skip


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed here")
def test_it_prints(read_runs, tmp_path):
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    render(read_runs(), "html", page)
    _chromium(tmp_path, page, f"--print-to-pdf={printed}")
    assert printed.read_bytes().startswith(b"%PDF-")
    assert printed.stat().st_size > 20_000


def _asked(log: Path) -> str:
    """The addresses in Chromium's log of the network."""
    return "\n".join(re.findall(r'"url":"([^"]+)"', log.read_text(errors="replace")))


def _chromium(home: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless=new", *_QUIET, "--no-sandbox", "--disable-gpu", f"--user-data-dir={home / 'profile'}",
        "--window-size=1280,2000", "--virtual-time-budget=20000", "--enable-logging=stderr", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
