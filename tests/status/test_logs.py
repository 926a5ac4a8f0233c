"""``logs``: what matters of a run's logs first."""

from __future__ import annotations

import pytest

from agenttts.dispatch.attempts import Attempt, attempt_files, write_attempt
from agenttts.loop import controller_job
from agenttts.loop.controller_job import log_file
from agenttts.status import logs
from agenttts.status.logs import trial_log
from tests.support.runs import attempts, table

FAILS = {
    "models__strong__options": {"fail": "OOM"},
    "search__iterations": 0,
    "search__first": [{"retrieval": "weak x2", "answer": "weak x1"}],
}


@pytest.fixture
def failed(unstarted_run):
    """A finished run, of which the trials that need the strong model have failed."""
    run = unstarted_run(**FAILS)
    folder = run.scheduler_logs / "controller"
    folder.mkdir(parents=True)
    with log_file(folder / "77.err"):
        controller_job.make_controller(run.read()).run()
    return run


def text(cli, *arguments):
    done = cli("logs", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_s_log_is_that_of_its_controller_and_the_failures(cli, failed):
    shown = text(cli, "small")
    assert str(failed.scheduler_logs / "controller" / "77.err") in shown
    assert "iteration 0: " in shown
    first, *_ = shown.splitlines()
    assert first.startswith("the run is over: ")
    assert f"('agenttts-hpc logs {failed.path} TRIAL' shows one)" in shown
    assert shown.index("trials without a result") < shown.index("controller: /")
    rows = table(failed.path)
    bad = rows.filter(rows["state"] != "COMPLETED")
    assert bad.height
    for row in bad.iter_rows(named=True):
        assert f"{row['trial']}  {row['state']}" in shown
    assert f"{bad.height} trials, each with this error: " in shown
    for trial in rows.filter(state="COMPLETED")["trial"]:
        assert f"{trial}  " not in shown


@pytest.mark.parametrize("form", ["{}", "t{:04}", "t{}"])
def test_a_trial_s_log_begins_with_what_became_of_it(cli, failed, form):
    rows = table(failed.path)
    trial = rows.filter(rows["state"] != "COMPLETED")["trial"][0]
    shown = text(cli, "small", form.format(int(trial[1:])))
    first, *others = shown.splitlines()
    assert first.startswith(f"{trial}: ")
    assert "OOM" in first
    for record in attempts(failed.path, trial):
        assert f"attempt {record['number']}: job {record['job_id']}" in shown
    assert any(line.startswith("log: ") for line in others)


def test_causes_come_before_the_log_and_noise_is_folded(cli, failed):
    rows = table(failed.path)
    trial = rows.filter(rows["state"] != "COMPLETED")["trial"][0]
    [*_, last] = attempts(failed.path, trial)
    log = failed.trial(trial) / (last["log"] or "log.txt")
    noise = "".join(f"(EngineCore pid=7) INFO 11-20 10:11:{n:02} [x.py:1] x\n" for n in range(50))
    log.write_text(noise + "RuntimeError: CUDA error: uncorrectable ECC error\n" + noise)
    shown = text(cli, "small", trial)
    cause = shown.index("the log says that a GPU has a hardware error")
    assert cause < shown.index("log: /")
    assert shown.count("[... 50 lines of the engine; --all shows them]") == 2
    assert "x.py" not in shown
    assert text(cli, "small", trial, "--all").count("x.py") == 100


FIRST = "line of 0 and 1\nValueError: a\n"
THIRD = "CUDA out of memory. Tried to allocate\n"


def failed_attempt(minute: int, log_start: int) -> Attempt:
    """An attempt at a trial of a worker, which failed within the minute."""
    return Attempt(
        number=1,
        job_id="7",
        node="n1",
        gpus=1,
        devices="0",
        started=f"2026-01-01T00:{minute:02}:00+00:00",
        finished=f"2026-01-01T00:{minute:02}:30+00:00",
        state="FAILED",
        error="why",
        log_start=log_start,
        log="../../workers/w1/log.txt",
    )


@pytest.fixture
def worker(unstarted_run):
    """A run of four trials on a worker: the first two together, the last without a line."""
    run = unstarted_run()
    log = run.path / "workers" / "w1" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text(FIRST + THIRD)
    places = [(0, 0), (0, 0), (1, len(FIRST)), (2, len(FIRST + THIRD))]
    for number, (minute, start) in enumerate(places):
        run.trial(f"t{number:04}").mkdir(parents=True)
        write_attempt(run.trial(f"t{number:04}"), failed_attempt(minute, start))
    return run


@pytest.mark.parametrize("lines", [40, None])
def test_a_trial_s_log_ends_where_the_next_trial_of_its_worker_begins(worker, lines):
    log = (worker.path / "workers" / "w1" / "log.txt").resolve()

    def shown(trial: str) -> list[str]:
        every = list(trial_log(worker, trial, lines))
        [attempt] = [n for n, line in enumerate(every) if line.startswith("attempt 1: ")]
        return every[attempt + 1 :]

    for trial in ("0", "1"):
        assert shown(trial) == ["", f"log: {log}", *FIRST.splitlines()]
    ran_out = ["the log says that memory ran out", ""]
    assert shown("2") == [*ran_out, f"log: {log}", *THIRD.splitlines()]
    assert shown("3") == ["", f"log: {log}"]


def test_a_trial_without_a_line_shows_none_of_the_next(worker):
    write_attempt(worker.trial("t0002"), failed_attempt(minute=1, log_start=0))
    for lines in (40, None):
        assert "ValueError: a" not in trial_log(worker, "0", lines)
        assert "ValueError: a" in trial_log(worker, "2", lines)


def test_the_number_of_lines_is_the_user_s(cli, failed):
    log = failed.scheduler_logs / "controller" / "77.err"
    log.write_text("".join(f"line {chr(97 + n)}\n" for n in range(20)))
    shown = text(cli, "small", "--lines", "3")
    assert "[... 17 earlier lines; --lines N shows more]" in shown
    assert "line t" in shown
    assert "line q" not in shown
    assert "line a" in text(cli, "small", "--all")


def test_a_long_log_is_shown_from_a_whole_line_and_all_of_it_if_asked(cli, failed, monkeypatch):
    monkeypatch.setattr(logs, "_MOST_BYTES", 64)
    log = failed.scheduler_logs / "controller" / "77.err"
    every = [f"line {chr(97 + n)} " + "é" * 9 for n in range(20)]
    log.write_text("".join(f"{line}\n" for line in every))
    shown = text(cli, "small").splitlines()
    assert shown[-3:] == [
        f"[... {18 * 26} bytes before these lines are not read; --all shows them]",
        *every[-2:],
    ]
    assert text(cli, "small", "--all").splitlines()[-20:] == every


def test_a_long_log_without_a_line_break_is_shown(cli, failed, monkeypatch):
    """As one of a progress bar."""
    monkeypatch.setattr(logs, "_MOST_BYTES", 64)
    log = failed.scheduler_logs / "controller" / "77.err"
    log.write_text("".join(f"\rstep {n} of 99" for n in range(99)))
    for option in ((), ("--all",)):
        assert text(cli, "small", *option).splitlines()[-1] == "step 98 of 99"


def test_all_lines_are_those_of_a_short_log(cli, failed):
    log = failed.scheduler_logs / "controller" / "77.err"
    log.write_text("\na\r\n\n\nb\n\n \n")
    for option in ((), ("--all",)):
        assert text(cli, "small", *option).endswith(f"controller: {log}\n\na\n\n\nb\n")


def test_characters_that_a_terminal_would_obey_are_not_printed(cli, failed):
    log = failed.scheduler_logs / "controller" / "77.err"
    log.write_bytes(b"\x1b]0;title\x07\x1b[31mred\x1b[0m \xff\x00 caf\xc3\xa9\n")
    shown = text(cli, "small")
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "café" in shown


def test_a_trial_that_does_not_exist_is_one_sentence(cli, failed):
    for given in ("t0099", "99", "answer", "", "t", "²"):
        done = cli("logs", "small", given)
        assert done.returncode == 2
        assert f"has no trial '{given}'; valid: t0000" in " ".join(done.stderr.split())


def test_a_run_with_a_damaged_journal_still_shows_its_logs(cli, failed):
    failed.journal_file.write_text('{"event": "finished"}\n')
    shown = text(cli, "small")
    assert "the journal cannot be read" in shown
    assert "iteration 0: " in shown
    shown = text(cli, "small", "0")
    assert "the journal does not name it" in shown
    assert "attempt 1: job" in shown


def test_a_trial_that_has_not_begun(cli, failed):
    for record in attempt_files(failed.trial("t0000")):
        record.unlink()
    said = f"it has not begun; 'agenttts-hpc status {failed.path}' shows its job"
    assert said in text(cli, "small", "0")


def test_a_run_that_has_not_begun(cli, unstarted_run):
    unstarted_run(search__iterations=0)
    assert "no controller of" in text(cli, "small")
