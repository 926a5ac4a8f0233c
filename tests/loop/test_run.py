"""Whole runs on this machine with scripted models: the loop, cancel, failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from agenttts.dispatch.profile import BUILT_IN
from agenttts.errors import RunFailed, UserError
from agenttts.loop.controller_job import close_cancelled, make_controller
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.job_builder import sample_partitions
from agenttts.loop.reports import FIGURES
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.record import write_record
from agenttts.trial.spec import TrialSpec
from tests.support.killing import killed_at
from tests.support.runs import controller_pids, journal_events, outcome, table, told_of
from tests.support.shared_jobs import profile
from tests.support.waiting import until


@pytest.fixture
def finished(finished_run):
    return finished_run()


def test_a_run_completes_and_reports(finished, cli, tmp_path):
    frame = table(tmp_path / "results/small")
    assert set(frame["state"]) == {"COMPLETED"}
    assert frame.filter(pl.col("source") != "recommended")["iteration"].max() == 2
    last = frame.filter(pl.col("source") == "recommended")
    assert last["iteration"].to_list() in ([], [3])
    assert frame["examples"].unique().to_list() == [8]
    assert frame.filter(pl.col("iteration") == 0)["source"].unique().to_list() == ["initial"]
    assert (frame["budget"] <= 80).all()
    assert frame["score"].is_between(0, 1).all()
    assert frame["score"].n_unique() > 1
    assert frame["allocation"].n_unique() == frame.height
    assert frame["reused_tokens"].sum() > 0, "trials share samples"
    document = json.loads(cli("report", "small", "--format", "json").stdout)
    assert len(document["runs"][0]["trials"]) == frame.height
    assert document["best"]["score"] == frame["score"].max()
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["outcome"] == "done"
    assert status["trials"] == {"COMPLETED": frame.height}
    examples = pl.read_parquet(tmp_path / "results/small/trials/t0000/examples.parquet")
    assert examples.height == 16  # 8 examples, 2 stages


def test_the_same_spec_and_seed_give_the_same_run(finished, cli, scripted_spec, tmp_path):
    assert cli("launch", scripted_spec(), "--name", "again", "--wait").returncode == 0
    assert outcome(tmp_path / "results/small") == outcome(tmp_path / "results/again")
    assert cli("launch", scripted_spec(), "--name", "other", "--set", "search.seed=2", "--wait").returncode == 0  # fmt: skip
    assert outcome(tmp_path / "results/small") != outcome(tmp_path / "results/other")


def test_trials_at_once_share_the_drawing_and_score_as_one_after_the_other(
    finished, cli, scripted_spec, tmp_path
):
    def shared(run: str) -> dict[str, object]:
        specs = sorted((tmp_path / "results" / run / "trials").glob("*/trial.json"))
        return {spec.parent.name: TrialSpec.read(spec).shares for spec in specs}

    (tmp_path / "three.yaml").write_text(
        "kind: in_process\nmax_running: 3\ntrials_per_job: 1\ngpus_per_node: 0\npoll_seconds: 0.1\n"
    )
    done = cli("launch", scripted_spec(), "--name", "wide", "--cluster", "./three.yaml", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "results/wide") == outcome(tmp_path / "results/small")
    assert not any(shared("small").values()), "one at a time"
    trials = read_state(tmp_path / "results/wide/journal.jsonl").trials.values()
    planned = [trial.planned for trial in trials]
    expected = {
        one.trial: sample_partitions(
            one, [[other] for other in planned if other.iteration == one.iteration], 3
        )
        for one in planned
    }
    assert any(expected.values())
    assert shared("wide") == expected


def test_launching_a_finished_run_again_runs_nothing(finished, cli, scripted_spec, tmp_path):
    before = (tmp_path / "results/small/journal.jsonl").read_bytes()
    done = cli("launch", scripted_spec(), "--wait")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/small/journal.jsonl").read_bytes() == before


def test_a_table_that_is_behind_the_journal_is_written_anew(finished, cli, tmp_path):
    """As after a controller that was killed between a trial's line in the journal and its row
    in the table.
    """
    run = tmp_path / "results" / "small"
    whole, before = table(run), outcome(run)
    last = whole["trial"].max()
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    kept = max(n for n, line in enumerate(lines) if json.loads(line)["event"] == "finished")
    (run / "journal.jsonl").write_text("".join(lines[: kept + 1]))
    whole.filter(pl.col("trial") != last).write_parquet(run / "trials.parquet")
    assert cli("resume", "small", "--wait").returncode == 0
    assert outcome(run) == before


def test_another_spec_under_the_same_name_is_refused(finished, cli, scripted_spec, tmp_path):
    before = (tmp_path / "results/small/spec.yaml").read_bytes()
    done = cli("launch", scripted_spec(), "--set", "search.budget=70")
    assert done.returncode == 2
    assert "search.budget was 80.0, is 70.0" in done.stderr
    assert (tmp_path / "results/small/spec.yaml").read_bytes() == before


@pytest.mark.processes
@pytest.mark.parametrize("setup", [[], ["true"]], ids=["plain", "setup"])
def test_files_called_like_modules_of_python_do_not_hide_them(scripted_spec, tmp_path, setup):
    """Such as a script of the user in the directory of the launch."""
    for name in ("email", "queue", "random", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')\n")
    cluster = tmp_path / "with-setup.yaml"
    cluster.write_text(f"{BUILT_IN['local'].rstrip('}')}, setup: {json.dumps(setup)}}}\n")
    spec = scripted_spec(cluster=str(cluster), search__iterations=0, task__examples=2)
    # As the installed command, which does not look for modules in the current directory either.
    command = [sys.executable, "-P", "-m", "agenttts.cli", "launch", str(spec), "--wait"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(table(tmp_path / "results/small")["state"]) == {"COMPLETED"}


@pytest.mark.processes
def test_cancel_keeps_what_has_finished_and_resume_goes_on(cli, scripted_spec, tmp_path):
    # One worker, which gets one trial at a time.
    spec = scripted_spec(
        cluster=profile(tmp_path, "local", 1, max_running=1, linger_seconds=60),
        search__iterations=1, search__batch_size=2,
        models__strong__options={"seconds_per_sample": 0.02},
    )  # fmt: skip
    # As from a script that starts it with "&": an interrupt is ignored there, and by what it
    # starts.
    launch = "trap '' INT; exec \"$@\""
    command = ["sh", "-c", launch, "sh", sys.executable, "-m", "agenttts.cli", "launch", str(spec)]
    subprocess.run(command, cwd=tmp_path, check=True)
    journal = tmp_path / "results/small/journal.jsonl"
    until(lambda: journal.exists() and b'"finished"' in journal.read_bytes(), "a finished trial")
    done = cli("cancel", "small", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["outcome"] == "cancelled"
    assert not status["controller"]["alive"]
    assert not status["jobs"]
    assert status["trials"]["CANCELLED"] >= 1
    assert status["trials"]["COMPLETED"] >= 1
    assert not controller_pids(tmp_path / "results/small")
    before = table(tmp_path / "results/small").filter(state="COMPLETED")
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    after = table(tmp_path / "results/small")
    assert set(after["state"]) == {"COMPLETED"}, "what was cut off has been run after all"
    assert after.filter(pl.col("source") != "recommended")["iteration"].max() == 1
    kept = after.filter(pl.col("trial").is_in(before["trial"].implode()))
    assert kept.select("trial", "score", "attempts", "finished").rows() == before.select("trial", "score", "attempts", "finished").rows()  # fmt: skip


def test_trials_that_fail_are_told_apart_and_the_run_says_so(cli, scripted_spec, tmp_path):
    spec = scripted_spec(models__weak__options={"fail": "OOM"})
    done = cli("launch", spec, "--wait")
    assert done.returncode == 4
    assert "trials of" in done.stderr
    frame = table(tmp_path / "results/small")
    weak = pl.col("allocation").list.eval(pl.element().struct.field("model") == "weak").list.any()
    assert set(frame.filter(weak)["state"]) == {"OOM"}
    assert set(frame.filter(~weak)["state"]) == {"COMPLETED"}
    assert frame.filter(weak)["score"].null_count() == frame.filter(weak).height
    assert all("OOM" in e or "memory" in e for e in frame.filter(weak)["error"])


def test_a_run_whose_every_trial_fails_stops_early(cli, scripted_spec, tmp_path):
    fails = {"fail": "FAILED"}
    done = cli("launch", scripted_spec(models__weak__options=fails, models__strong__options=fails), "--wait")  # fmt: skip
    assert done.returncode == 4
    assert "every trial of iteration 0 failed" in done.stderr
    assert table(tmp_path / "results/small")["iteration"].max() == 0


def test_the_searcher_is_told_how_sure_each_score_is(finished, tmp_path):
    run = RunDirectory(tmp_path / "results" / "small")
    for progress in read_state(run.journal_file).trials.values():
        examples = pl.read_parquet(run.trial(progress.planned.trial) / "examples.parquet")
        values = examples.filter(stage="answer")["metrics"].struct.field("em")
        told, *_ = told_of(run, progress)
        assert told.stderr == pytest.approx(values.std() / len(values) ** 0.5)
        assert told.examples == dict(enumerate(values))
        assert told.score == pytest.approx(values.mean())
        del progress.row["score_stderr"]  # as in a journal of an older version
        assert told_of(run, progress)[0].stderr is None


def test_a_search_goes_on_without_scores_by_example_that_are_lost(finished, tmp_path, caplog):
    run = RunDirectory(tmp_path / "results" / "small")
    kept, lost, damaged = [*read_state(run.journal_file).trials.values()][:3]
    (run.trial(lost.planned.trial) / "examples.parquet").unlink()
    (run.trial(damaged.planned.trial) / "examples.parquet").write_bytes(b"PAR1")
    for progress in (lost, damaged):
        told, *_ = told_of(run, progress)
        assert told.examples is None
        assert told.score is not None
        assert f"{progress.planned.trial}/examples.parquet" in caplog.text
    assert told_of(run, kept)[0].examples is not None


@pytest.mark.parametrize("command", ["status", "resume", "cancel"])
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("profile.yaml", None, "no such"),
        ("profile.yaml", "kind: [", "not valid YAML"),
        ("controller.json", '{"kind": "loc', "not valid JSON"),
        ("controller.json", "[]", "job_id"),
    ],
)
def test_a_damaged_run_directory_is_said_in_one_paragraph(
    damaged_run, cli, command, file, content, said
):
    path = damaged_run(file, content)
    done = cli(command, "small")
    assert done.returncode == 2, done.stderr
    assert str(path) in done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the file does not exist"),
        ("{", "Invalid JSON"),
        ('{"schema_number": 1}', "'token': Field required"),
        ('{"schema_number": 99}', "use the version that launched the run"),
    ],
)
def test_a_damaged_record_is_said_in_one_paragraph(damaged_run, cli, content, said):
    path = damaged_run("run.json", content)
    for command in ("cancel", "resume"):
        done = cli(command, "small")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert str(path) in done.stderr
        assert said in done.stderr


def test_a_model_that_the_run_was_launched_without_is_named(created_run):
    spec = yaml.safe_load(created_run.spec_file.read_text())
    spec["models"]["new"] = spec["models"]["weak"]
    created_run.spec_file.write_text(yaml.safe_dump(spec))
    with pytest.raises(
        UserError, match=r"models\.new: the run was launched without this model \(run\.json"
    ):
        make_controller(created_run.read())


@pytest.fixture
def experienced_run(unstarted_run, tmp_path):
    """A run whose search reads a table and a script, without a controller."""
    columns = "retrieval.model,retrieval.samples,answer.model,answer.samples,score,budget"
    (tmp_path / "past.csv").write_text(f"{columns}\nweak,1,weak,1,0.5,2\n")
    (tmp_path / "replies.json").write_text('{"replies": [], "then": "no idea"}')
    return unstarted_run(
        search__method="mlcopilot",
        search__options={"knowledge": [str(tmp_path / "past.csv")]},
        agent={"kind": "scripted", "replies": str(tmp_path / "replies.json")},
    )


def damage(file, how):
    if how == "has changed":
        file.write_bytes(file.read_bytes() + b" ")
        return
    file.unlink()
    if how == "cannot be read":
        file.mkdir()


@pytest.mark.parametrize("how", ["is gone", "has changed", "cannot be read"])
@pytest.mark.parametrize("copy", ["knowledge/0/past.csv", "replies/replies.json"])
def test_a_run_whose_searcher_cannot_be_made_any_more_is_cancelled(experienced_run, copy, how):
    run = experienced_run
    proposed = proposals(run)
    damage(run.path / "search_files" / copy, how)
    before = run.journal_file.read_bytes()
    with pytest.raises(RunFailed, match=f"search_files/{copy}.* {how}.*agenttts-hpc resume"):
        make_controller(run.read()).run()
    assert run.journal_file.read_bytes() == before, "its jobs go on"
    close_cancelled(run)
    state = read_state(run.journal_file)
    assert state.finished == "cancelled"
    assert [p.row["state"] for p in state.trials.values()] == ["CANCELLED"] * len(proposed)


@pytest.mark.parametrize("how", ["is gone", "has changed"])
@pytest.mark.parametrize("file", ["past.csv", "replies.json"])
def test_a_search_reads_the_copies_of_its_files(experienced_run, tmp_path, file, how):
    proposed = [str(p.planned.allocation) for p in proposals(experienced_run)]
    asked = experienced_run.transcript_file.read_text()
    assert "weak" in asked
    damage(tmp_path / file, how)
    moved = experienced_run.path.rename(tmp_path / "moved")
    for done in ("journal.jsonl", "agent.jsonl"):
        (moved / done).unlink()
    again = RunDirectory(moved)
    assert [str(p.planned.allocation) for p in proposals(again)] == proposed
    keys = [[json.loads(line)["key"] for line in text.splitlines() if '"key"' in line] for text in (asked, again.transcript_file.read_text())]  # fmt: skip
    assert keys[0] == keys[1] != []


def proposals(run):
    """Return the trials that a controller proposes which is killed before they run."""
    with killed_at(Evaluation, "evaluate"):
        make_controller(run.read()).run()
    return list(read_state(run.journal_file).trials.values())


def test_a_run_of_an_older_version_reads_the_files_where_they_lie(experienced_run, tmp_path):
    run = experienced_run
    write_record(run.record_file, run.record().model_copy(update={"search_files": {}}))
    proposals(run)
    (tmp_path / "past.csv").unlink()
    with pytest.raises(UserError, match=r"past\.csv"):
        make_controller(run.read()).run()


def test_a_run_of_an_older_version_is_said_in_one_paragraph(created_run, cli):
    created_run.record_file.rename(created_run.path / "origin.json")
    for command in (["cancel", "small"], ["resume", "small"], ["launch", created_run.spec_file]):
        done = cli(*command)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "launched by an older version" in done.stderr
        assert "finish it with that version" in done.stderr


@pytest.fixture
def created_run(unstarted_run):
    """A run whose controller was never started."""
    return unstarted_run(search__iterations=0)


@pytest.fixture
def damaged_run(created_run):
    """``damage(file, content)`` overwrites or removes a file of `created_run`."""

    def damage(file: str, content: str | None) -> Path:
        path: Path = created_run.path / file
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        return path

    return damage


def test_status_and_report_show_what_the_searcher_recommends(finished, cli, tmp_path):
    recommended = journal_events(tmp_path / "results/small", "told")[-1]["recommended"]
    assert recommended in table(tmp_path / "results/small")["allocation"].to_list()
    assert json.loads(cli("status", "small", "--json").stdout)["recommended"] == recommended
    short = " → ".join(f"{c['model']}×{c['samples']}" for c in recommended)
    assert f"recommended: {short}" in " ".join(cli("status", "small").stdout.split())
    [run] = json.loads(cli("report", "small", "--format", "json").stdout)["runs"]
    assert run["recommended"]["allocation"] == recommended
    of_it = table(tmp_path / "results/small").filter(trial=run["recommended"]["trial"])
    assert of_it["score"].to_list() == [run["recommended"]["score"]]
    for form in ("table", "html"):
        text = " ".join(cli("report", "small", "--format", form).stdout.split())
        assert f"recommended: {short}" in text


@pytest.mark.parametrize("figures", ["0", "1"])
def test_the_page_of_a_run_has_figures_unless_they_are_turned_off(
    cli, scripted_spec, tmp_path, monkeypatch, figures
):
    monkeypatch.setenv(FIGURES, figures)
    done = cli("launch", scripted_spec(search__iterations=0), "--wait")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results/small/report/report.html").read_text()
    assert ("<figure id" in page) == (figures == "1")
    assert "Recommended allocation" in page
    assert "The command that repeats it" in page
    assert ("agenttts-hpc report RUN --format html" in page) == (figures == "0")


def test_the_run_leaves_its_report(cli, scripted_spec, tmp_path):
    assert cli("launch", scripted_spec(search__iterations=0), "--wait").returncode == 0
    folder = tmp_path / "results/small/report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    left = json.loads((folder / "report.json").read_text())
    assert left == json.loads(cli("report", "small", "--format", "json").stdout)
    assert left["runs"][0]["outcome"] == "done"


def test_a_report_that_cannot_be_written_costs_a_line_in_the_log(created_run, cli, tmp_path):
    (tmp_path / "results/small/report").touch()
    done = cli("resume", "small", "--wait")
    assert done.returncode == 0, done.stderr
    logs = (tmp_path / "results/small/slurm/controller").glob("*.err")
    assert any("could not be written" in log.read_text() for log in logs)
