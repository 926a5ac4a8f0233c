"""The command line as a user has it: commands, options, exit codes, what goes to stdout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from agenttts.cli import show
from tests.support.waiting import until

COMMANDS = [
    "launch",
    "evaluate",
    "status",
    "list",
    "logs",
    "report",
    "export",
    "compare",
    "resume",
    "extend",
    "finish",
    "cancel",
    "clean",
    "replay",
    "doctor",
    "init",
    "models",
    "image",
]
HEAVY = {"polars", "torch", "vllm", "transformers", "submitit", "pydantic", "numpy", "yaml"}


def loaded_by(*arguments: str, cwd: Path | None = None) -> set[str]:
    """The modules in memory after a command."""
    code = f"""
import sys
sys.argv = ["agenttts-hpc", *{list(arguments)!r}]
import agenttts.cli
try:
    agenttts.cli.main()
except SystemExit:
    pass
print("MODULES", *sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_help_lists_every_command(cli):
    done = cli("--help")
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    assert all(command in words for command in COMMANDS)
    assert cli().stdout == done.stdout, "so does the bare command"
    for command in COMMANDS:
        done = cli(command, "--help")
        assert done.returncode == 0
        assert "Usage: agenttts-hpc " + command in done.stdout
        assert "<bool>" not in done.stdout, "it would look as if a flag took a value"


def test_version(cli):
    from agenttts import __version__

    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_loads_nothing_heavy(arguments):
    assert not loaded_by(*arguments) & HEAVY


@pytest.mark.parametrize("arguments", [("launch", "--help"), ("lunch",), ("launch", "--nosuch")])
def test_usage_errors_load_nothing_but_what_typer_itself_takes(arguments):
    assert not loaded_by(*arguments) & (HEAVY - {"pydantic"})


SEARCH_ONLY = {
    "agenttts.loop.search_loop",
    "agenttts.search.surrogate",
    "agenttts.search.llm.agent",
}
TRIAL_ONLY = {"torch", "vllm", "transformers", "agenttts.trial.run", "agenttts.inference.sampler"}


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["logs", "small"], {"polars", "numpy", "submitit", "asyncio"} | SEARCH_ONLY | TRIAL_ONLY),
        (["list"], {"numpy", "submitit", "asyncio"} | SEARCH_ONLY | TRIAL_ONLY),
        (["status", "small"], {"numpy"} | SEARCH_ONLY | TRIAL_ONLY),
        (["report", "small"], {"numpy", "submitit", "asyncio"} | SEARCH_ONLY | TRIAL_ONLY),
        (["launch", "small.yaml", "--dry-run"], {"polars", "agenttts.loop.search_loop", "agenttts.search.llm.agent"} | TRIAL_ONLY),
    ],
    ids=["logs", "list", "status", "report", "dry run"],  # not of the sets, which have no order
)  # fmt: skip
def test_a_command_loads_no_module_that_it_does_not_need(
    finished_run, tmp_path, arguments, unneeded
):
    """Each module is a file of a file system that may be slow, and all of them take half of a
    command's CPU time.
    """
    finished_run()
    loaded = loaded_by(*arguments, cwd=tmp_path)
    assert {"agenttts.cli.output", "agenttts.run.directory"} & loaded, "the command has run"
    assert not loaded & unneeded


@pytest.mark.parametrize(("call", "frozen"), [("main()", True), ("main(['--version'])", False)])
def test_a_program_ends_without_a_search_for_garbage(call, frozen):
    """It would take as long as a tenth of the imports; a caller's own process keeps its garbage
    collection as it is.
    """
    code = f"""
import atexit, gc, sys
atexit.register(lambda: print("FROZEN", gc.get_freeze_count() > 0))
sys.argv = ["agenttts-hpc", "--version"]
from agenttts.cli import main
{call}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"FROZEN {frozen}"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["lanch"], ["no command 'lanch'", "launch, evaluate, status", "did you mean 'launch'"]),
        (["launch"], ["Missing argument 'SPEC'"]),
        (["launch", "x", "--reslts", "y"], ["no option --reslts", "did you mean '--results'"]),
        (["report", "x", "--format", "xml"], ["--format", "'xml'", "'parquet'"]),
        (["replay", "t.csv", "--space", "s.yaml", "--trials", "0"], ["--trials"]),
        (["image"], ["valid: build"]),
        (["image", "biuld"], ["no command 'biuld'", "did you mean 'build'"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_paragraph_and_exit_code_2(cli, tmp_path, arguments, parts):
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("agenttts-hpc: ")
    assert len(done.stderr.splitlines()) == 1
    assert "--help'" in done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_comes_from(shell):
    for arguments in (("--debug", "status", "nosuch"), ("status", "nosuch", "--debug")):
        done = shell(*arguments)
        assert done.returncode != 0
        assert "Traceback" in done.stderr
        assert "UserError" in done.stderr


@pytest.fixture
def finished(cli, scripted_spec):
    done = cli("launch", scripted_spec(search__iterations=1), "--wait", "--json")
    assert done.returncode == 0, done.stderr
    return done


def one_document(done) -> object:
    """Standard output is one JSON document and nothing else."""
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)


def test_json_is_one_document(finished, cli, scripted_spec):
    assert one_document(finished)["outcome"] == "done"
    spec = scripted_spec(search__iterations=1)
    plan = one_document(cli("launch", spec, "--dry-run", "--json"))
    assert plan["search"]["trials_at_most"] == plan["search"]["initial_trials"] + 3
    assert plan["search"]["recommended"] == 1
    again = one_document(cli("launch", spec, "--json"))
    assert (again["created"], again["outcome"]) == (False, "done")
    assert one_document(cli("status", "small", "--json"))["run"] == "small"
    assert one_document(cli("status", "small", "--watch", "--json"))["run"] == "small"
    assert one_document(cli("resume", "small", "--json"))["outcome"] == "done"
    assert one_document(cli("resume", "small", "--wait", "--json"))["outcome"] == "done"
    assert one_document(cli("cancel", "small", "--json"))["outcome"] == "done"
    assert one_document(cli("doctor", "--json"))["ok"] is True
    json.loads(cli("report", "small", "--format", "json").stdout)


def test_a_dry_run_says_where_the_run_would_be(cli, scripted_spec, tmp_path):
    there = f"the run would be in {tmp_path / 'results' / 'small'}"
    done = cli("launch", scripted_spec(), "--dry-run")
    assert f"{there}, in a new results directory (--results names another)" in done.stdout
    (tmp_path / "results").mkdir()
    assert f"{there}\n" in cli("launch", scripted_spec(), "--dry-run").stdout


def test_a_dry_run_creates_nothing(cli, scripted_spec, tmp_path):
    spec = scripted_spec()
    before = sorted(tmp_path.rglob("*"))
    done = cli("launch", spec, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    for part in ("small on in_process", "answer.em", "weak", "strong", "nothing was created or submitted"):  # fmt: skip
        assert part in done.stdout
    assert cli("launch", spec, "--dry-run", "--json").returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_overrides_name_and_results(cli, scripted_spec, tmp_path):
    done = cli(
        "launch", scripted_spec(), "--name", "overridden", "--results", "elsewhere/deep", "--set", "search.iterations=0",
        "--set", "stages.answer.samples={values: [1, 2]}", "--wait", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert one_document(done)["iterations"] == 0
    frame = pl.read_parquet(tmp_path / "elsewhere/deep/overridden/trials.parquet")
    answers = {a["samples"] for row in frame["allocation"] for a in row if a["stage"] == "answer"}
    assert answers <= {1, 2}
    assert cli("status", "overridden").returncode == 2
    assert cli("status", "overridden", "--results", "elsewhere/deep").returncode == 0
    assert cli("status", "elsewhere/deep/overridden").returncode == 0, "or by its path"
    assert cli("status", "overridden", env={"AGENTTTS_RESULTS": "elsewhere/deep"}).returncode == 0
    assert not (tmp_path / "results").exists()


@pytest.mark.processes
def test_what_launch_prints_can_be_pasted(cli, scripted_spec, tmp_path):
    """However long the path: lines are not broken in a pipe."""
    results = tmp_path / ("long" * 20) / ("longer" * 20)
    done = cli("launch", scripted_spec(cluster="local", search__iterations=0), "--results", results)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run small launched: {results / 'small'}"
    assert lines[1] == "results:    a new directory, made for it (--results names another)"
    [watch] = [line.partition("agenttts-hpc ")[2] for line in lines if "--watch" in line]
    [aggregate] = [line.partition("agenttts-hpc ")[2] for line in lines if "report" in line]
    watched = cli(*watch.split())
    assert watched.returncode == 0, watched.stderr
    assert "over: done" in watched.stdout
    assert cli(*aggregate.split()).returncode == 0


class Parsed(HTMLParser):
    """Open tags that were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        if tag not in {"meta", "link", "br", "img", "line", "circle", "rect", "path", "polyline", "hr"}:  # fmt: skip
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        self.text += data


def test_report_over_many_runs_in_every_format(finished, cli, scripted_spec, tmp_path):
    assert cli("launch", scripted_spec(search__iterations=1), "--name", "two", "--set", "search.seed=7", "--wait").returncode == 0  # fmt: skip
    runs = ("small", "two")
    heights = {run: pl.read_parquet(tmp_path / "results" / run / "trials.parquet").height for run in runs}  # fmt: skip
    document = json.loads(cli("report", *runs, "--format", "json").stdout)
    assert {r["run"]: len(r["trials"]) for r in document["runs"]} == heights
    scores = [trial["score"] for r in document["runs"] for trial in r["trials"]]
    assert document["best"]["score"] == max(scores)
    table = cli("report", *runs)
    assert table.returncode == 0
    assert all(run in table.stdout for run in runs)
    for form in ("json", "csv", "parquet", "html", "table"):
        out = tmp_path / f"out.{form}"
        done = cli("report", *runs, "--format", form, "--out", out)
        assert (done.returncode, done.stderr) == (0, "")
        assert out.stat().st_size > 0
    frames = [pl.read_csv(tmp_path / "out.csv"), pl.read_parquet(tmp_path / "out.parquet"), pl.read_csv(io.StringIO(cli("report", *runs, "--format", "csv").stdout))]  # fmt: skip
    for frame in frames:
        assert frame.height == sum(heights.values())
        assert {"run", "score", "retrieval.model", "answer.samples"} <= set(frame.columns)
        assert sorted(frame["score"].to_list()) == pytest.approx(sorted(scores))
    page = Parsed()
    page.feed((tmp_path / "out.html").read_text())
    assert page.open == []
    assert all(run in page.text for run in runs)


def test_a_report_is_replayed(finished, cli, scripted_spec, tmp_path):
    """``report --format csv`` writes what ``replay`` takes."""
    assert cli("report", "small", "--format", "csv", "--out", "table.csv").returncode == 0
    arguments = ["replay", "table.csv", "--space", scripted_spec(), "--searcher", "random", "--trials", 6, "--batch", 2]  # fmt: skip
    done = cli(*arguments, "--seed", 3, "--out", "trace.csv")
    assert done.returncode == 0, done.stderr
    trace = pl.read_csv(tmp_path / "trace.csv")
    assert trace.columns == ["step", "allocation", "budget", "score", "best_so_far", "recommended", "source", "examples", "evaluations"]  # fmt: skip
    assert trace.height == 6
    assert trace["best_so_far"].is_sorted()
    assert cli(*arguments, "--seed", 3, "--out", "again.csv").returncode == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "trace.csv").read_bytes()
    assert "best so far" in cli(*arguments).stdout
    space = scripted_spec(search__budget=1234567)
    assert "budget 1234567 units" in " ".join(cli("launch", space, "--dry-run").stdout.split())


def test_small_budgets_of_a_replay_are_shown(capsys):
    """Below 0.5 they were 0."""
    choice = [{"model": "m", "samples": 1}]
    row = {"step": 1, "allocation": choice, "budget": 0.03125, "score": 0.5, "best_so_far": 0.5}
    show.trace(pl.DataFrame([row | {"source": "random"}]))
    assert " 0.0312 " in capsys.readouterr().out


def test_failed_trials_are_exit_code_4_everywhere(cli, scripted_spec):
    spec = scripted_spec(models__weak__options={"fail": "OOM"}, search__iterations=0)
    for arguments in (("launch", spec, "--wait"), ("resume", "small", "--wait", "--json")):
        done = cli(*arguments)
        assert done.returncode == 4, arguments
        assert done.stderr.startswith("agenttts-hpc: ")
        assert len(done.stderr.splitlines()) == 1
        assert "OOM" in done.stderr
    assert cli("status", "small").returncode == 0
    assert cli("report", "small").returncode == 0


def test_doctor_says_what_is_lacking_and_exits_with_3(cli, tmp_path):
    assert cli("doctor").returncode == 0
    (tmp_path / "far.yaml").write_text("kind: slurm\ncontainer: {image: ./none.sif}\n")
    done = cli("doctor", "--cluster", "./far.yaml", env={"PATH": "/nonexistent"})
    assert done.returncode == 3
    assert "login node" in done.stdout
    document = json.loads(cli("doctor", "--cluster", "./far.yaml", "--json", env={"PATH": "/nonexistent"}).stdout)  # fmt: skip
    lacking = {check["what"]: check["fix"] for check in document["checks"] if check["ok"] is False}
    assert {"Slurm", "apptainer", "image"} <= set(lacking)
    assert lacking["image"].startswith("agenttts-hpc image build")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["slurm", "local"])
def test_doctor_notes_a_runtime_that_setup_lines_load_on_the_nodes(cli, tmp_path, kind):
    lines = f"kind: {kind}\nsetup: [module load apptainer]\ncontainer: {{image: ./none.sif}}\n"
    (tmp_path / "far.yaml").write_text(lines)
    done = cli("doctor", "--cluster", "./far.yaml", "--json", env={"PATH": "/nonexistent"})
    [found] = [c for c in json.loads(done.stdout)["checks"] if c["what"] == "apptainer"]
    assert found["ok"] is (None if kind == "slurm" else False)
    assert ("--submit" in found["detail"]) == (kind == "slurm")


def test_doctor_submits_nothing_where_there_is_no_queue(cli, tmp_path):
    done = cli("doctor", "--submit")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the profile's kind is local, which has no queue" in done.stderr
    assert cli("doctor", "--submit", "--timeout", "0").returncode == 2
    (tmp_path / "far.yaml").write_text("kind: slurm\n")
    done = cli("doctor", "--cluster", "./far.yaml", "--submit", "--json", env={"PATH": "/nonexistent"})  # fmt: skip
    assert done.returncode == 3
    document = one_document(done)
    assert document["jobs"] == []
    assert "not submitted, because of the failed checks above" in [
        c["detail"] for c in document["checks"]
    ]
    assert not (tmp_path / "results").exists()


@pytest.mark.processes
def test_an_interrupt_leaves_the_run_alone(cli, scripted_spec, tmp_path):
    spec = scripted_spec(cluster="local", models__strong__options={"seconds_per_sample": 0.05})
    waiting = subprocess.Popen(
        [sys.executable, "-m", "agenttts.cli", "launch", str(spec), "--wait"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    until((tmp_path / "results/small/trials.parquet").exists, "a trial that has finished")
    waiting.send_signal(2)
    _, error = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert error == "agenttts-hpc: interrupted; a launched run continues\n"
    status = json.loads(cli("status", "small", "--json").stdout)
    assert status["controller"]["alive"]
    assert cli("cancel", "small").returncode == 0
