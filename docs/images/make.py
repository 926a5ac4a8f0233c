"""Makes the pictures of the documentation from a real run of the demo: ``make pictures``.

The demo runs once (some minutes of two cores) under ``.cache/pictures``. While it runs, its state is
looked at as ``status --watch`` does, and the last state with trials under way is drawn. A second call
draws the pictures of the same run again.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from agenttts.cli.watch import watch_lines
from agenttts.run.directory import RunDirectory
from agenttts.run.find import find_run
from agenttts.status.run_status import follow

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
KEPT = (ROOT / ".cache").resolve() / "pictures"
FIGURE = "samples-answer"
"""The figure that is shown as a file: the expected scores over the samples of the second stage."""
WIDTHS = (80, 120)
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Without the fonts that rich takes from the network.
_SVG = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Run the demo unless it has run, and make every picture.

    With an argument, the directory of a finished run, make those of its report alone.
    """
    if sys.argv[1:]:
        draw_report(sys.argv[1])
        return
    results = KEPT / "results"
    watched = KEPT / "watched.json"
    if not watched.is_file():
        results.mkdir(parents=True, exist_ok=True)
        _cli("launch", str(ROOT / "jobs" / "demo.yaml"), "--results", str(results))
        state = watched_state(find_run("demo", results))
        watched.write_text(json.dumps(state), encoding="utf-8")
    state = json.loads(watched.read_text(encoding="utf-8"))
    for width in WIDTHS:
        draw_watch(state, width, FOLDER / f"watch-{width}.svg")
    draw_report(str(results / "demo"))


def draw_report(run: str) -> None:
    """Photograph the page of a run's report, and copy one of its figures."""
    with tempfile.TemporaryDirectory() as scratch:
        page, figures = Path(scratch) / "report.html", Path(scratch) / "figures"
        _cli("report", run, "--format", "html", "--out", str(page), "--figures", str(figures))
        _without_place(page, Path(run))
        photograph(page, FOLDER / "report.png")
        for ending in ("svg", "pdf"):
            shutil.copy(figures / f"{FIGURE}.{ending}", FOLDER)


def watched_state(run: RunDirectory) -> dict[str, Any]:
    """Follow a run to its end; return the last state that shows most, and when it was so."""
    seen: list[dict[str, Any]] = []

    def look(status: dict[str, Any]) -> None:
        seen.append({"now": datetime.now().astimezone().isoformat(), "status": status})

    follow(run, look, interval=2.0)
    return max(reversed(seen), key=lambda state: _shown(state["status"]))


def _shown(status: dict[str, Any]) -> tuple[bool, int]:
    """Return whether there is a best trial, and how many trials are within their examples."""
    progress = [job["progress"] for job in status["jobs"] if job["progress"] is not None]
    within = [one for one in progress if 0 < one["done"] < one["examples"]]
    return status["best"] is not None, len(within)


def draw_watch(state: dict[str, Any], width: int, file: Path) -> None:
    """Write what ``status --watch`` showed, as an SVG."""
    console = Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    status = json.loads(json.dumps(state["status"]).replace(str(KEPT / "results"), "results"))
    for line in watch_lines(status, datetime.fromisoformat(state["now"]), console):
        console.print(line)
    title = "agenttts-hpc status demo --watch"
    file.write_text(console.export_svg(title=title, code_format=_SVG), encoding="utf-8")


def photograph(page: Path, file: Path) -> None:
    """Write the upper part of a page, as Chromium shows it."""
    program = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        sys.exit(f"no browser found; install one of: {', '.join(_CHROMIUM)}")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={profile}",
                "--window-size=1200,1410", "--virtual-time-budget=20000", f"--screenshot={file}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=240,
        )  # fmt: skip


def _without_place(page: Path, run: Path) -> None:
    """Remove from a page where this machine has the project: the folder of the task's file."""
    task = Path(yaml.safe_load((run / "spec.yaml").read_text(encoding="utf-8"))["task"]["name"])
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(f"{task.parents[2]}/", ""), encoding="utf-8")


def _cli(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "agenttts.cli", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
