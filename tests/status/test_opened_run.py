"""A run in a notebook (`agenttts.open_run`), and `export`: one finished run serves all tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import agenttts
from agenttts.errors import MissingRequirement, UserError
from agenttts.loop.controller_job import make_controller
from agenttts.report.trackers import base
from agenttts.report.trackers.mlflow_run import mlflow_names, write_mlflow
from agenttts.report.trackers.optuna_study import write_study
from agenttts.run.find import find_run
from agenttts.run.record import write_record
from agenttts.space import Allocation, Choice
from agenttts.status.export import export as export_run
from agenttts.status.logs import trial_log
from agenttts.tables.schema import TEST_SOURCE, trials_frame
from tests.support import command_line
from tests.support.scripted import small_spec
from tests.support.written_runs import START, trial

CHOSEN = Allocation((Choice("retrieval", "weak", 1), Choice("answer", "strong", 2)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run's directory."""
    folder = tmp_path_factory.mktemp("opened")
    spec = small_spec(folder, search__iterations=1, search__batch_size=2, task__examples=5)
    done = command_line.call("launch", spec, "--wait", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "small"


@pytest.fixture
def run(finished):
    return agenttts.open_run(finished)


@pytest.fixture
def export(finished, tmp_path):
    """Call ``export`` on the run from an empty directory."""
    return partial(command_line.call, "export", finished, cwd=tmp_path)


def test_its_tables_and_documents(run, finished):
    trials = run.trials()
    assert trials.equals(agenttts.read_trials(finished / "trials.parquet"))
    assert run.best()["score"] == trials["score"].max()
    recommended = run.recommended()
    assert {choice["stage"] for choice in recommended["allocation"]} == {"retrieval", "answer"}
    assert run.events()[0]["event"] == "started"
    assert run.status()["outcome"] == "done"
    assert run.report()["run"] == run.name == "small"
    assert set(run.examples("t0000")["trial"]) == {"t0000"}
    assert repr(run) == f"OpenedRun('{run.path}')"


def test_what_does_not_exist_is_an_error_with_what_does(run, finished):
    with pytest.raises(UserError, match=r"no examples of a trial 't9'; valid: t0000"):
        run.examples("t9")
    with pytest.raises(UserError, match=r"run 'smal' does not exist .*did you mean 'small'"):
        agenttts.open_run("smal", finished.parent)


def test_every_sample_is_there_once_with_its_prompt(run, finished):
    samples = run.samples()
    stored = pl.concat([pl.read_parquet(shard) for shard in (finished / "samples").glob("*.parquet")])  # fmt: skip
    # The store also has the model's calls that fuse the samples of the stage 'retrieval'.
    kept = stored.unique(["key", "index"])
    fused = kept.height - samples.height
    assert 0 <= fused <= run.trials().height * 5
    assert (Counter(kept["text"]) - Counter(samples["text"])).total() == fused
    assert samples["finish_reason"].null_count() == 0
    one = samples.filter(stage="answer").row(0, named=True)
    messages = json.loads(one["prompt"])
    assert messages[0]["role"] == "system"
    indices = samples.group_by("example", "stage", "model", "prompt").agg("index")["index"]
    assert all(sorted(found) == list(range(len(found))) for found in indices.to_list())


def test_of_samples_that_were_cleaned_the_text_stays(finished, tmp_path):
    """A copy elsewhere: trials name the paths of the run that it was copied from."""
    copy = tmp_path / "results" / "copy"
    shutil.copytree(finished, copy)
    whole = agenttts.open_run(finished).samples()
    assert agenttts.open_run(copy).samples().equals(whole)
    shutil.rmtree(copy / "samples")
    cleaned = agenttts.open_run(copy).samples()
    assert cleaned["text"].to_list() == whole["text"].to_list()
    assert cleaned["finish_reason"].null_count() == cleaned.height


def test_trials_from_10000_on_follow_the_others(finished, tmp_path):
    copy = tmp_path / "results" / "copy"
    shutil.copytree(finished, copy)
    folders = sorted((copy / "trials").glob("t*"), reverse=True)
    names = {folder.name: f"t{int(folder.name[1:]) + 9999}" for folder in folders}
    for folder in folders:
        spec = folder / "trial.json"
        spec.write_text(json.dumps(json.loads(spec.read_text()) | {"trial": names[folder.name]}))
        folder.rename(folder.with_name(names[folder.name]))
    whole, run = agenttts.open_run(finished).samples(), agenttts.open_run(copy)
    assert run.samples().equals(whole.with_columns(pl.col("trial").replace(names)))
    with pytest.raises(UserError, match=r"valid: t9999, t10000, t10001"):
        run.examples("t0")
    last = names[folders[0].name]
    with pytest.raises(UserError, match=rf"no trial 'x'; valid: t0000, .*, {last}$"):
        list(trial_log(find_run(str(copy), Path()), "x", None))


def test_opening_a_run_loads_no_engine(finished):
    code = f"""
import sys, agenttts
run = agenttts.open_run({str(finished)!r})
run.trials(), run.samples(), run.recommended()
print(*[name for name in ("torch", "vllm", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_samples_that_were_stored_by_earlier_rules_have_their_tokens(unstarted_run):
    """A run that draws no sample anew has those of a shared store."""
    options = {"max_model_len": 9999}
    run = unstarted_run(models__weak__options=options, models__strong__options=options)
    record = run.record()
    models = {name: replace(model, rules=2) for name, model in record.models.items()}
    write_record(run.record_file, record.model_copy(update={"models": models}))
    make_controller(run.read()).run()
    before = agenttts.open_run(run.path).samples()
    assert before["decode_tokens"].null_count() == 0
    for spec in run.path.glob("trials/*/trial.json"):
        document = json.loads(spec.read_text())
        for model in document["models"].values():
            model["rules"] = 3
        spec.write_text(json.dumps(document))
    assert agenttts.open_run(run.path).samples().equals(before)


def test_samples_as_json_lines(export, run, tmp_path):
    done = export("--samples", "samples.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert json.loads(done.stdout)["written"] == [
        {"form": "samples", "path": "samples.jsonl", "count": len(lines), "unit": "samples"}
    ]
    assert [line["text"] for line in lines] == run.samples()["text"].to_list()
    assert list(lines[0]) == run.samples().columns
    assert export("--samples", "again.jsonl").stdout == f"again.jsonl: {len(lines)} samples\n"


def test_samples_of_cut_prompts_are_those_of_the_run_s_own_context(scripted_spec, tmp_path):
    """Two runs with one store, whose engines cut the same prompts at other places."""
    call = partial(command_line.call, cwd=tmp_path)
    for tokens in (70, 80):
        options = {"max_model_len": tokens}
        spec = scripted_spec(
            f"cut{tokens}", samples="shared", search__iterations=0,
            models__strong__options=options, models__weak__options=options,
        )  # fmt: skip
        assert call("launch", spec, "--wait").returncode == 0
    for tokens in (70, 80):
        done = call("export", f"cut{tokens}", "--samples", f"{tokens}.jsonl")
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (tmp_path / f"{tokens}.jsonl").read_text().splitlines())
        cut = [line["prompt_tokens"] for line in lines if line["truncated"] is not False]
        assert cut
        assert set(cut) == {tokens - 32}


def test_samples_go_through_a_pipe(export, run, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    done = export("--samples", "pipe")
    assert done.returncode == 0, done.stderr
    assert pipe.is_fifo()
    reader.join(60)
    [lines] = read
    assert [json.loads(line)["text"] for line in lines.splitlines()] == run.samples()["text"].to_list()  # fmt: skip


def study_storage(optuna, path):
    """What Optuna reads a file that `export` wrote from."""
    if path.suffix == ".db":
        return f"sqlite:///{path}"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.storages.JournalStorage(backend)


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_a_study_that_optuna_reads(export, run, tmp_path, name):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed here")
    done = export("--optuna", name)
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="small", storage=study_storage(optuna, tmp_path / name))
    trials = run.trials().sort("trial")
    assert [trial.user_attrs["trial"] for trial in study.trials] == trials["trial"].to_list()
    assert study.best_value == trials["score"].max()
    first, row = study.trials[0], trials.row(0, named=True)
    assert first.params["answer.samples"] == row["allocation"][1]["samples"]
    assert first.user_attrs["examples"] == row["examples"] == 5
    assert first.datetime_start.timestamp() == pytest.approx(row["started"].timestamp())
    done = export("--optuna", name)
    assert (done.returncode, f"--optuna {name}: exists already" in done.stderr) == (2, True)


def test_trackers_are_told_the_best_score_on_the_most_examples(finished):
    rows = [
        trial(1, 1.0, 1.0, examples=10),
        trial(2, None, 1.0),
        trial(3, 0.7, 1.0, examples=100),
        trial(4, 0.9, 1.0, examples=10),
        trial(5, 1.0, 1.0, examples=100, source=TEST_SOURCE),
    ]
    trials = trials_frame(rows, ["retrieval.f1", "answer.em"])
    table = base.FinishedTable("small", find_run(str(finished), Path()).spec(), trials)
    assert table.best_so_far() == {"t0001": 1.0, "t0003": 0.7, "t0004": 0.7}
    assert [base.numbers_of(row).get("examples") for row in table.searched()] == [10, None, 100, 10]


@pytest.mark.parametrize("name", ["study.db", "study.log"])
def test_optuna_s_best_trial_is_on_the_most_examples(finished, tmp_path, name):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed here")
    rows = [
        trial(1, 0.9, 1.0, examples=8, allocation=CHOSEN),
        trial(2, None, 1.0, allocation=CHOSEN),
        trial(3, 0.6, 1.0, examples=40, allocation=CHOSEN),
        trial(4, 0.8, 1.0, examples=40, allocation=CHOSEN),
        trial(5, 0.85, 1.0, examples=16, allocation=CHOSEN),
    ]
    trials = trials_frame(rows, ["retrieval.f1", "answer.em"])
    table = base.FinishedTable("small", find_run(str(finished), Path()).spec(), trials)
    assert write_study(table, tmp_path / name) == 5
    study = optuna.load_study(study_name="small", storage=study_storage(optuna, tmp_path / name))
    assert (study.best_trial.user_attrs["trial"], study.best_value) == ("t0004", 0.8)
    states = [trial.state.name for trial in study.trials]
    assert states == ["PRUNED", "FAIL", "COMPLETE", "COMPLETE", "PRUNED"]
    by_examples = [dict(trial.intermediate_values) for trial in study.trials]
    assert by_examples == [{8: 0.9}, {}, {40: 0.6}, {40: 0.8}, {16: 0.85}]
    assert study.trials[0].user_attrs["score"] == 0.9


def test_trackers_are_told_trials_in_their_order(finished):
    rows = [trial(n, 0.5, 1.0) for n in (10001, 9999, 2, 10000)]
    trials = trials_frame(rows, ["retrieval.f1", "answer.em"])
    table = base.FinishedTable("small", find_run(str(finished), Path()).spec(), trials)
    assert [row["trial"] for row in table.searched()] == ["t0002", "t9999", "t10000", "t10001"]


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_trackers_that_are_not_installed_are_named_with_the_command(export, monkeypatch, tmp_path, tracker):  # fmt: skip
    monkeypatch.setitem(sys.modules, tracker, None)
    done = export(f"--{tracker}", "folder")
    assert (done.returncode, f"pip install 'agenttts-hpc[{tracker}]'" in done.stderr) == (3, True)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_there_writes_a_run_for_each_trial(export, run, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed here")
    assert export("--mlflow", "store.db").returncode == 0
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'store.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'agenttts'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == run.trials().height + 1
    [parent] = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.data.metrics["score"] == run.best()["score"]
    trials = run.trials()
    assert parent.info.start_time == int(trials["started"].min().timestamp() * 1000)
    assert parent.info.end_time == int(trials["finished"].max().timestamp() * 1000)
    assert {each.info.status for each in runs} == {"FINISHED"}


def test_the_run_in_mlflow_has_the_score_that_reports_call_best(tmp_path, monkeypatch):
    spec = small_spec(
        tmp_path, search__iterations=1, search__batch_size=2, task__examples=2,
        search__finalists={"examples": 8, "top": 2},
    )  # fmt: skip
    assert command_line.call("launch", spec, "--wait", cwd=tmp_path).returncode == 0
    run = find_run("small", tmp_path / "results")
    written = []
    monkeypatch.setattr("agenttts.report.trackers.mlflow_run.check", lambda path: None)
    monkeypatch.setattr(
        "agenttts.report.trackers.mlflow_run.write_mlflow",
        lambda table, path: written.append(table) or 0,
    )
    export_run(run, {"mlflow": tmp_path / "store.db"})
    shown = json.loads(command_line.call("report", run.path, "--format", "json", cwd=tmp_path).stdout)  # fmt: skip
    assert written[0].best["trial"] == shown["best"]["trial"]
    assert written[0].best["source"] == "finalist"
    monkeypatch.undo()
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed here")
    write_mlflow(written[0], tmp_path / "store.db")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'store.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'agenttts'")
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    assert parent.data.metrics["score"] == shown["best"]["score"]
    assert parent.data.metrics["examples"] == 8


@pytest.mark.parametrize(("outcome", "status"), [("cancelled", "KILLED"), (None, "RUNNING"), ("no trial scored", "FAILED")])  # fmt: skip
def test_mlflow_takes_any_name_and_knows_when_runs_have_ended(finished, tmp_path, outcome, status):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed here")
    names = ["answer.hits@1", "answer.hits_1", "answer.a//b", "answer.a/b", "answer.f1 (macro)"]
    rows = [
        trial(2, 0.5, 1.0, metrics=dict(zip(names, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))),
        trial(1, 0.4, 1.0, metrics=dict.fromkeys(names, 0.6)),
        trial(3, None, 1.0, started=None, finished=None),
    ]
    spec = find_run(str(finished), Path()).spec()
    table = base.FinishedTable("small", spec, trials_frame(rows, names), outcome)
    assert write_mlflow(table, tmp_path / "a b.db") == 3
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'a b.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'agenttts'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    metrics = runs["t0002"].data.metrics
    assert [metrics[f"metrics.answer.{name}"] for name in ("hits_1_2", "hits_1", "a__b", "a/b", "f1 _macro_")] == [0.1, 0.2, 0.3, 0.4, 0.5]  # fmt: skip
    begun = int(START.timestamp() * 1000)
    times = {name: (run.info.start_time, run.info.end_time) for name, run in runs.items()}
    last = begun + 120_000
    assert times.pop("small") == (begun, None if outcome is None else last)
    assert times == {
        "t0001": (begun, begun + 60_000),
        "t0002": (begun, last),
        "t0003": (begun, begun),
    }
    found = {name: run.info.status for name, run in runs.items()}
    assert found == {"small": status, "t0001": "FINISHED", "t0002": "FINISHED", "t0003": "FAILED"}


def test_names_are_those_of_mlflow_each_once():
    names = ["m.a@1", "m.a_1", "m.a#1", "m.a_1_2", "m/b", "m//b", "m.b c", "m." + "x" * 300, "m." + "x" * 301]  # fmt: skip
    found = mlflow_names(names)
    assert [found[name] for name in names[:7]] == ["m.a_1_3", "m.a_1", "m.a_1_4", "m.a_1_2", "m/b", "m__b", "m.b c"]  # fmt: skip
    assert len(set(found.values())) == len(names)
    assert all(re.fullmatch(r"[/\w.\- ]{1,250}", name) for name in found.values())


def test_an_offline_run_of_wandb(export, tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed here")
    assert export("--wandb", "folder").returncode == 0
    assert list((tmp_path / "folder").glob("wandb/offline-run-*/*.wandb"))


def test_nothing_asked_for_and_no_folder(export):
    done = export()
    assert (done.returncode, "valid: --samples FILE.jsonl" in done.stderr) == (2, True)
    done = export("--samples", "none/samples.jsonl")
    assert (done.returncode, "--samples none/samples.jsonl: cannot be written" in done.stderr) == (2, True)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optuna", "there.db"), "--optuna there.db: exists already"),
        (("--wandb", "none/there"), "--wandb none/there: its directory does not exist"),
        (("--optuna", "new.jsonl"), "--samples and --optuna new.jsonl: are one place"),
        (("--optuna", "a?b.db"), "a?b.db has another meaning in the address of a SQLite store"),
        (("--mlflow", "50%.db"), "50%.db has another meaning in the address of a SQLite store"),
        (("--optuna", "new.db", "--samples", "none/x"), "--samples none/x: cannot be written"),
        (("--optuna", "new.db", "--samples", "."), "--samples .: cannot be written"),
    ],
)
def test_all_forms_are_checked_before_the_first_is_written(export, tmp_path, arguments, message):
    (tmp_path / "there.db").write_text("mine")
    done = export("--samples", "new.jsonl", *arguments)
    assert (done.returncode, message in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.db"]


def test_samples_replace_no_file_of_the_run(export, finished):
    before = (finished / "journal.jsonl").read_bytes()
    done = export("--samples", finished / "journal.jsonl")
    assert (done.returncode, "is in the run's own directory" in done.stderr) == (2, True)
    assert (finished / "journal.jsonl").read_bytes() == before


def test_a_report_replaces_no_file_of_its_runs_but_their_reports(finished, tmp_path):
    call = partial(command_line.call, "report", cwd=tmp_path)
    (tmp_path / "link.parquet").symlink_to(finished / "trials.parquet")
    before = (finished / "trials.parquet").read_bytes()
    for out in (finished / "trials.parquet", "link.parquet"):
        done = call(finished, "--out", out)
        assert (done.returncode, "is in the run's own directory" in done.stderr) == (2, True)
    assert (finished / "trials.parquet").read_bytes() == before
    for out in (finished / "report" / "report.json", finished / "mine.csv", "mine.csv"):
        done = call(finished, "--out", out)
        assert done.returncode == 0, done.stderr
    (finished / "mine.csv").unlink()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "shard"), OSError(5, "I/O error")])  # fmt: skip
def test_a_run_that_cannot_be_read_is_no_fault_of_the_place(finished, tmp_path, monkeypatch, error):
    def records(run):
        yield {"text": "one"}
        raise error

    monkeypatch.setattr("agenttts.status.export.drawn_samples", records)
    with pytest.raises(OSError, match=error.strerror):
        export_run(find_run(str(finished), Path()), {"samples": tmp_path / "samples.jsonl"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_form_that_fails_half_way_leaves_nothing(finished, tmp_path, monkeypatch, folder):
    pytest.importorskip("optuna", reason="optuna is not installed here")
    place = tmp_path / "store"

    def fail(table, path):
        path.mkdir() if folder else path.write_text("half")
        raise RuntimeError("no more disk")

    monkeypatch.setattr("agenttts.report.trackers.optuna_study.write_study", fail)
    with pytest.raises(RuntimeError, match="no more disk"):
        export_run(find_run(str(finished), Path()), {"optuna": place})
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_package_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.storages.journal", None)
    with pytest.raises(MissingRequirement, match=r"pip install 'agenttts-hpc\[optuna\]'"):
        base.needed("optuna.storages.journal", "optuna")
