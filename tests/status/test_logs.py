"""``logs``: what matters of a run's logs first."""

from __future__ import annotations

import pytest

from agenttts.loop import controller_job
from agenttts.loop.controller_job import log_file
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


def test_the_number_of_lines_is_the_user_s(cli, failed):
    log = failed.scheduler_logs / "controller" / "77.err"
    log.write_text("".join(f"line {chr(97 + n)}\n" for n in range(20)))
    shown = text(cli, "small", "--lines", "3")
    assert "[... 17 earlier lines; --lines N shows more]" in shown
    assert "line t" in shown
    assert "line q" not in shown
    assert "line a" in text(cli, "small", "--all")


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


def test_a_run_that_has_not_begun(cli, unstarted_run):
    unstarted_run(search__iterations=0)
    assert "no controller of" in text(cli, "small")
