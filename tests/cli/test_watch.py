"""Following a run: the view of a terminal, the lines of a pipe, and how it ends."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agenttts.cli import output, watch
from agenttts.cli.show_status import _cost_lines
from agenttts.cli.status_texts import used_text
from agenttts.dispatch.job_starts import JobStart, write_job_start
from agenttts.run.directory import RunDirectory
from agenttts.status.run_status import run_status
from tests.support.running_run import QUEUE, write_running
from tests.support.waiting import until

GOLDEN = Path(__file__).with_name("golden")
STARTED = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
NOW = STARTED + timedelta(hours=1, minutes=12, seconds=5)


@pytest.fixture
def running(unstarted_run, fake, tmp_path) -> RunDirectory:
    """A run in the middle of its search, on a cluster of fake commands."""
    run = unstarted_run(search__iterations=3, search__batch_size=6)
    write_running(run, STARTED.isoformat())
    (tmp_path / "queue").write_text(QUEUE)
    fake("squeue", f"echo asked >> {tmp_path}/asked; cat {tmp_path}/queue")
    return run


def view(document: dict[str, Any], width: int, height: int = 100, **terminal: Any) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, _environ={}, **terminal)
    for line in watch.fitted(watch.watch_lines(document, NOW, console), height):
        console.print(line)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("colour", ["standard", None])
def test_the_view_of_a_running_run(running, width, colour):
    document = json.dumps(run_status(running)).replace(str(running.path), "results/small")
    text = view(json.loads(document), width, color_system=colour)
    golden = GOLDEN / f"watch-{width}{'-coloured' if colour else ''}.txt"
    assert text == golden.read_text(), f"if this is right, write it to {golden}:\n{text}"
    if colour is None:
        assert max(len(line) for line in text.splitlines()) <= width


@pytest.mark.parametrize(
    ("used", "low", "high", "said"),
    [
        (1234.4, 118.2, 255.7, "1,234 GPU-hours used; 118 to 256 GPU-hours to come"),
        (123.4, 99.4, 99.6, "123.4 GPU-hours used; 99 to 100 GPU-hours to come"),
        (0.0412, 0.0421, 1.26, "0.0412 GPU-hours used; 0.042 to 1.3 GPU-hours to come"),
        (1000.2, 12345.0, 12345.0, "1,000 GPU-hours used; 12,345 GPU-hours to come"),
    ],
)
def test_gpu_hours_are_written_out(running, used, low, high, said):
    document = run_status(running)
    document["cost"]["gpu_seconds"] = used * 3600
    document["to_come"]["gpu_seconds"] = {"low": low * 3600, "high": high * 3600}
    assert f"cost        {said} (18 trials)" in view(document, 120, color_system=None)


def test_what_a_served_model_used_is_counted(running):
    running.agent.mkdir()
    began, end = "2026-01-02T12:00:00+00:00", "2026-01-02T13:00:00+00:00"
    # The first was killed half an hour after its start.
    killed = JobStart(1, "51", "n9", 2, None, began, "2026-01-02T12:30:00+00:00")
    submitted = "2026-01-02T11:50:00+00:00"
    for start in (killed, JobStart(2, "52", "n9", 2, submitted, began, end, finished=end)):
        write_job_start(running.agent, start)
    document = run_status(running)
    assert document["cost"]["served"] == {"seconds": 5400.0, "gpu_seconds": 10800.0, "queue": 600.0}
    used = "5.53 GPU-hours used (3 for the search's own model)"
    assert f"cost        {used}; 3.6 to 15 GPU-hours to come" in view(
        document, 120, color_system=None
    )
    assert _cost_lines(document["cost"]).endswith("(10 min 00 s more for the search's own model)")
    cost = {**document["cost"], "gpu_seconds": 0.0}
    # On a CPU: 90 minutes besides those of the trials.
    cost["served"] = {"seconds": 5400.0, "gpu_seconds": 0.0, "queue": 0.0}
    cost["seconds"] = dict.fromkeys(cost["seconds"], 60.0)
    assert used_text(cost) == "1 h 36 min of jobs used (1 h 30 min for the search's own model)"


def test_one_look_asks_the_queue_once(running, tmp_path):
    run_status(running)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_without_colours_it_says_the_same(running):
    document = run_status(running)
    plain = view(document, 80, no_color=True)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|9[0-7])m", plain), "a colour"
    assert re.sub(r"\x1b\[[0-9;]*m", "", plain) == view(document, 80, color_system=None)


def test_a_low_terminal_shows_what_is_most_important(running):
    lines = view(run_status(running), 80, height=6, color_system=None).splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("small")
    assert lines[-1].endswith("more lines; a higher window shows them")


def test_the_document_has_what_programs_wrote(running):
    document = run_status(running)
    by_job = {worker["job_id"]: worker for worker in document["workers"]}
    assert {job: worker["phase"] for job, worker in by_job.items()} == {
        "41": "generate", "42": "start", "43": "idle", "44": None, "45": None, "46": None,
    }  # fmt: skip
    assert by_job["41"]["tokens_per_second"] == pytest.approx(3085)
    progress = {job["trial"]: job["progress"] for job in document["jobs"]}
    assert (progress["t0003"]["done"], progress["t0003"]["examples"]) == (5, 8)
    assert progress["t0004"] is None, "it has not begun"
    assert document["to_come"] == {
        "trials": 18, "gpu_seconds": {"low": 12960.0, "high": pytest.approx(58_720, rel=0.5)}, "measured": True,
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", '{"started": 3}', '{"started": "soon"}'])
def test_progress_that_cannot_be_read_is_left_out(running, content):
    (running.worker("0-0-0") / "progress.json").write_text(content)
    [first, *_] = run_status(running)["workers"]
    assert (first["phase"], first["tokens_per_second"]) == ("start", None)
    assert "has not begun" in view(run_status(running), 80)


def followed(monkeypatch, documents: list[dict[str, Any]], error: BaseException | None = None):
    """Let ``follow`` show these documents, then end or raise."""

    def follow(run, seen):
        for document in documents:
            seen(document)
        if error is not None:
            raise error
        return documents[-1]

    monkeypatch.setattr(watch, "follow", follow)


def terminal(monkeypatch, **environment: str) -> io.StringIO:
    stream = io.StringIO()
    environment = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"} | environment
    console = type(output.console)(file=stream, force_terminal=True, _environ=environment)
    monkeypatch.setattr(output, "console", console)
    return stream


def test_a_guideline_with_escape_sequences_does_nothing_to_the_terminal(running, monkeypatch):
    document = run_status(running)
    harmless = terminal(monkeypatch)
    followed(monkeypatch, [document | {"guideline": "few [2J [31m ]0;title samples"}])
    watch.progress(running, keep=True)
    harmful = terminal(monkeypatch)
    guideline = "few \x1b[2J \x9b[31m \x1b]0;title\x07 samples"
    followed(monkeypatch, [document | {"guideline": guideline}])
    watch.progress(running, keep=True)
    times = r"\d\d:\d\d:\d\d"
    assert re.sub(times, "", harmful.getvalue()) == re.sub(times, "", harmless.getvalue())
    assert "few [2J [31m ]0;title samples" in harmful.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), None])
def test_the_terminal_is_left_as_it_was(running, monkeypatch, error):
    followed(monkeypatch, [run_status(running)], error)
    stream = terminal(monkeypatch)
    with nullcontext() if error is None else pytest.raises(type(error)):
        watch.progress(running)
    written = stream.getvalue()
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") > 0
    assert written.endswith("\x1b[?1049l")


def read_until(terminal: int, program: subprocess.Popen[bytes], text: bytes | None) -> bytes:
    """What the program writes up to a text, or up to its end; it fails after a minute."""
    written = b""

    def there() -> bool:
        nonlocal written
        ended = program.poll() is not None
        while select.select([terminal], [], [], 0.05)[0]:
            written += os.read(terminal, 65536)
        return ended or (text is not None and text in written)

    until(there, f"{text!r} or the program's end after {written!r}", seconds=60)
    return written


@pytest.mark.processes
@pytest.mark.parametrize(("end", "code"), [("\x03", 130), (signal.SIGTERM, 143)])
def test_a_real_terminal_is_left_as_it_was(running, tmp_path, end, code):
    """Ctrl-C is typed; the other signal is that of ``kill``."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "agenttts.cli", "status", str(running.path), "--watch"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    program = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path,
        start_new_session=True, preexec_fn=lambda: os.close(os.open(os.ttyname(theirs), os.O_RDWR)),
    )  # fmt: skip
    try:
        written = read_until(ours, program, b"tokens/s")
        if isinstance(end, str):
            os.write(ours, end.encode())
        else:
            program.send_signal(end)
        written += read_until(ours, program, None)
        assert program.wait() == code
    finally:
        program.kill()
        after = termios.tcgetattr(theirs)
        os.close(theirs)
        os.close(ours)
    assert after == before
    assert written.count(b"\x1b[?1049h") == written.count(b"\x1b[?1049l") == 1
    assert written.rfind(b"\x1b[?25h") > written.rfind(b"\x1b[?25l") > 0


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(running, monkeypatch):
    document = run_status(running)
    followed(monkeypatch, [document, document, document | {"outcome": "done"}])
    stream = terminal(monkeypatch, TERM="dumb")
    watch.progress(running)
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert [line.partition(" s  ")[2].partition(":")[0] for line in lines] == [
        "iteration 1 of 3",
        "waiting",
        "waiting",
        "iteration 1 of 3",
    ]
    assert "waiting: Priority: jobs of higher priority are ahead of it" in lines[1]
    assert lines[-1].endswith("; over: done")


def test_a_finished_run_ends_at_once(cli, scripted_spec):
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    done = cli("status", "small", "--watch")
    assert done.returncode == 0
    assert "over: done" in done.stdout
    document = json.loads(cli("status", "small", "--json").stdout)
    assert (document["to_come"], document["workers"]) == (None, [])
    low, high = document["best_interval"]["low"], document["best_interval"]["high"]
    assert low <= document["best"]["score"] <= high
