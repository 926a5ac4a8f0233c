"""``extend``: widen the search of a run that is over, stopped or running, and go on with it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from agenttts.dispatch.base import JobStatus
from agenttts.errors import RunFailed
from agenttts.launch import controller, extension, launch
from agenttts.loop.evaluation import Evaluation
from agenttts.loop.recorded_search import RecordedSearch
from agenttts.loop.search_loop import SearchLoop
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.progress import TrialProgress
from agenttts.run.starts import ControllerHandle, RunCancelled, read_handle, write_handle
from agenttts.status.opened_run import OpenedRun
from agenttts.tables.schema import (
    AFTER_SEARCH,
    CLOSING_SOURCES,
    FINALIST_SOURCE,
    RECOMMENDED_SOURCE,
    TEST_SOURCE,
)
from tests.support import command_line
from tests.support.killing import Killed, dies_after
from tests.support.runs import attempts, journal_events, outcome, table
from tests.support.scripted import QUESTIONS, ROOT, small_spec
from tests.support.waiting import until

SMALL = {
    "search__iterations": 1,
    "search__batch_size": 2,
    "task__examples": 2,
    "search__method": "genetic",
    "search__stored": False,
}
AFTER = {
    "search__finalists": {"examples": 4, "top": 2},
    "search__test_split": {"examples": 3},
}
MORE = ("--set", "search.iterations=2")


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "results" / "small"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The directory of a run that is over, with finalists and a final test."""
    folder = tmp_path_factory.mktemp("made")
    done = command_line.call("launch", small_spec(folder, **SMALL, **AFTER), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "small"


@pytest.fixture
def finished(made, run) -> Path:
    """A copy of `made`."""
    shutil.copytree(made, run)
    return run


def names(run: Path, *sources: str) -> list[str]:
    rows = table(run)
    return rows.filter(rows["source"].is_in(sources))["trial"].to_list()


def searched(run: Path) -> list[int]:
    """The iteration of each trial that the search has proposed."""
    rows = table(run)
    return rows.filter(~rows["source"].is_in(CLOSING_SOURCES))["iteration"].to_list()


@pytest.mark.parametrize(("asynchronous", "method"), [(False, "agenttts"), (True, "genetic")])
def test_a_finished_run_goes_on_and_ends_anew(cli, scripted_spec, run, asynchronous, method):
    spec = scripted_spec(
        **SMALL | AFTER | {"search__method": method}, search__asynchronous=asynchronous
    )
    assert cli("launch", spec).returncode == 0
    before, rows = outcome(run), searched(run)
    ends = set(names(run, *AFTER_SEARCH))
    markers = {p: p.read_bytes() for p in run.glob("trials/*/COMPLETED.json")}
    done = cli("extend", "small", *MORE, "--wait")
    assert done.returncode == 0, done.stderr
    assert "search.iterations: 1 -> 2\n" in done.stdout
    [event] = journal_events(run, "extended")
    assert event["changes"] == {"search.iterations": [1, 2]}
    assert outcome(run)[: len(before)] == before
    assert {path: path.read_bytes() for path in markers} == markers
    assert all(len(attempts(run, path.parent.name)) == 1 for path in markers), "ran again"
    assert len(searched(run)) == len(rows) + 2
    new = set(names(run, *AFTER_SEARCH)) - ends
    assert len(new) == len(ends) == 3, "the end is made anew"
    state = read_state(run / "journal.jsonl")
    assert (state.finished, state.extension) == ("done", None)
    assert {p.planned.trial for p in state.closing} >= new
    numbers = table(run).group_by("iteration").agg("source")
    for sources in numbers["source"].to_list():
        assert len(set(sources) & set(CLOSING_SOURCES)) in (0, len(set(sources)))
    status = json.loads(cli("status", "small", "--json").stdout)
    assert (status["iteration"], status["iterations"]) == (len(set(searched(run))) - 1, 2)
    assert {t["trial"] for t in status["test"]} == set(names(run, TEST_SOURCE)) & new
    report = json.loads(cli("report", "small", "--format", "json").stdout)["runs"][0]
    assert {t["trial"] for t in report["finalists"]} == set(names(run, FINALIST_SOURCE)) & new

    content = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").unlink()
    lost = OpenedRun(RunDirectory(run)).best()
    assert lost is not None
    assert lost["trial"] == report["best"]["trial"], "run.json has the extensions too"
    (run / "journal.jsonl").write_bytes(content)

    done = cli("extend", "small", *MORE)
    assert (done.returncode, "nothing changes" in done.stdout) == (0, True)
    assert (run / "journal.jsonl").read_bytes() == content


def test_a_search_that_was_sure_enough_goes_on_under_a_stricter_rule(cli, scripted_spec, run):
    stop = {"within": 0.9, "confidence": 0.5}
    settings = {**SMALL, "search__iterations": 6, "search__batch_size": 4}
    spec = scripted_spec(**settings | {"search__method": "agenttts", "search__stop": stop})
    assert cli("launch", spec).returncode == 0
    before = len(searched(run))
    assert before < 3 + 6 * 4, "it was sure enough"
    done = cli("extend", "small", "--set", "search.stop.within=0.01", "--set", "search.stop.confidence=0.999", "--wait")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(searched(run)) > before


def test_an_extended_search_goes_on_as_one_of_that_length(cli, scripted_spec, tmp_path):
    """The same archive: what it proposes is what a longer search would have proposed."""
    assert cli("launch", scripted_spec(**SMALL)).returncode == 0
    assert cli("extend", "small", *MORE, "--wait").returncode == 0
    longer = scripted_spec("longer", **{**SMALL, "search__iterations": 2})
    assert cli("launch", longer).returncode == 0
    allocations = [
        table(tmp_path / "results" / name)["allocation"].to_list() for name in ("small", "longer")
    ]
    assert allocations[0] == allocations[1]


@pytest.mark.parametrize(
    ("part", "where"), [(RecordedSearch, "conclude"), (SearchLoop, "_compare_finalists")]
)
def test_a_stopped_run_goes_on(cli, scripted_spec, run, monkeypatch, part, where):
    """Stopped in the search, and after its finalists."""
    original = getattr(part, where)

    def stops(self: object, *args: object, **options: object) -> None:
        original(self, *args, **options)
        monkeypatch.setattr(part, where, original)
        raise RunCancelled("stopped")

    monkeypatch.setattr(part, where, stops)
    cli("launch", scripted_spec(**SMALL, **AFTER))
    before = len(names(run, FINALIST_SOURCE))
    assert read_state(run / "journal.jsonl").finished == "cancelled"
    done = cli("extend", "small", *MORE, "--wait")
    assert done.returncode == 0, done.stderr
    assert len(set(searched(run))) == 2
    assert len(names(run, FINALIST_SOURCE)) == before + 2
    assert set(table(run)["state"]) == {"COMPLETED"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_last_trials_that_had_not_ended_are_evaluated_and_told(
    cli, scripted_spec, run, monkeypatch, asynchronous
):
    """Trials that compare the recommended allocation with its rivals are the last ones."""
    evaluate = Evaluation.evaluate

    def stops(self: Evaluation, trials: list[TrialProgress], **options: bool) -> None:
        if trials[0].planned.source == RECOMMENDED_SOURCE:
            raise RunCancelled("stopped")
        evaluate(self, trials, **options)

    examples = {"search__examples": {"first": 1, "most": 2}, "search__asynchronous": asynchronous}
    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "evaluate", stops)
        cli("launch", scripted_spec(**SMALL | AFTER | examples))
    state = read_state(run / "journal.jsonl")
    last = {t for t, p in state.trials.items() if p.planned.source == RECOMMENDED_SOURCE}
    assert last
    done = cli("extend", "small", *MORE, "--wait")
    assert done.returncode == 0, done.stderr
    state = read_state(run / "journal.jsonl")
    assert last <= set(names(run, RECOMMENDED_SOURCE))
    assert set(table(run)["state"]) == {"COMPLETED"}
    told = [trial for trials in state.tells for trial in trials]
    assert last <= set(told)
    assert len(told) == len(set(told))


def test_an_extension_without_trials_says_how_sure_the_search_is(cli, scripted_spec, run):
    settings = {"search__method": "agenttts", "search__iterations": 3, "search__batch_size": 4}
    spec = scripted_spec(**SMALL | AFTER | settings)
    assert cli("launch", spec).returncode == 0
    before = read_state(run / "journal.jsonl")
    assert before.confidence is not None
    done = cli("extend", "small", "--set", "search.finalists.top=3", "--wait")
    assert done.returncode == 0, done.stderr
    state = read_state(run / "journal.jsonl")
    assert state.confidence == before.confidence
    assert state.recommended == before.recommended
    assert len(searched(run)) == len([t for trials in state.tells for t in trials])
    content = (run / "journal.jsonl").read_bytes()
    assert cli("resume", "small", "--wait").returncode == 0
    assert (run / "journal.jsonl").read_bytes() == content


def test_closing_trials_count_no_more_if_the_extension_proposes_nothing(cli, finished):
    before = set(names(finished, FINALIST_SOURCE, TEST_SOURCE))
    wider = ("--set", "search.finalists.top=3", "--set", "search.test_split.top=2")
    assert cli("extend", "small", *wider, "--wait").returncode == 0
    assert len(set(searched(finished))) == 1, "no iteration of the search"
    new = {s: set(names(finished, s)) - before for s in (FINALIST_SOURCE, TEST_SOURCE)}
    assert all(new.values())
    status = json.loads(cli("status", "small", "--json").stdout)
    assert {t["trial"] for t in status["test"]} == new[TEST_SOURCE]
    report = json.loads(cli("report", "small", "--format", "json").stdout)["runs"][0]
    assert {t["trial"] for t in report["finalists"]} == new[FINALIST_SOURCE]
    assert {t["trial"] for t in report["test"]} == new[TEST_SOURCE]
    [listed] = json.loads(cli("list", "--json").stdout)["runs"]
    assert {status["best"]["trial"], report["best"]["trial"], listed["best"]["trial"]} == {
        report["finalists"][0]["trial"]
    }
    compared = json.loads(cli("compare", "small", "small", "--of", "best", "--json").stdout)
    assert compared["first"]["trial"] in new[TEST_SOURCE]


def test_a_run_whose_extension_fails_goes_on_without_it(cli, scripted_spec, run, monkeypatch):
    """Its controller has ended for the extension."""
    original = RecordedSearch.conclude

    def stops(self: RecordedSearch, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        monkeypatch.setattr(RecordedSearch, "conclude", original)
        raise RunCancelled("stopped")

    monkeypatch.setattr(RecordedSearch, "conclude", stops)
    cli("launch", scripted_spec(**SMALL | {"search__iterations": 2}))
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(line for line in lines if '"ended"' not in line))
    assert read_state(run / "journal.jsonl").finished is None

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(launch, "record_extension", full)
        done = cli("extend", "small", "--set", "search.iterations=3")
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert read_state(run / "journal.jsonl").finished == "done"
    assert len(set(searched(run))) == 2


def test_a_controller_that_waits_keeps_its_place_in_the_queue(unstarted_run, cli, monkeypatch):
    run = unstarted_run(**SMALL)
    waits = ControllerHandle("slurm", job_id="7")
    write_handle(run, waits)
    pending = JobStatus("PENDING", ended=False)
    monkeypatch.setattr(controller, "controller_state", lambda started: pending)
    done = cli("extend", "small", *MORE)
    assert done.returncode == 0, done.stderr
    assert run.spec().search.iterations == 2
    assert read_handle(run) == waits


def test_a_controller_that_leaves_the_queue_meanwhile_is_replaced(finished, cli, monkeypatch):
    """It waited when the command looked, and holds the run's lock when the command needs it."""
    seen: list[str] = []

    def release(run: RunDirectory) -> None:
        seen.append("released")

    @contextmanager
    def lock(run: RunDirectory):
        if seen.count("released") < 2:
            raise RunFailed("another controller is running")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(launch, "release_controller", release)
        patched.setattr(launch, "only_controller", lock)
        patched.setattr(launch, "resume", lambda run: seen.append("resumed"))
        done = cli("extend", "small", *MORE)
    assert done.returncode == 0, done.stderr
    assert seen == ["released", "released", "resumed"]
    assert RunDirectory(finished).spec().search.iterations == 2


@pytest.fixture(params=[signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def number(request) -> Iterator[int]:
    """A signal that is not ignored, as it is in a test run that was started with ``nohup``."""
    handler = signal.default_int_handler if request.param == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(request.param, handler)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("ending", [False, True])
def test_an_interrupt_leaves_no_run_without_its_controller(
    unstarted_run, monkeypatch, caplog, number, ending
):
    """It comes while the command waits for the end of the controller that it has ended."""
    run = unstarted_run(**SMALL)
    write_handle(run, ControllerHandle("local"))
    resumed = []

    def release(run: RunDirectory) -> None:
        write_handle(run, ControllerHandle("local"))
        assert signal.getsignal(number) is not signal.SIG_DFL, "it would kill this process"
        signal.raise_signal(number)

    monkeypatch.setattr(launch, "release_controller", release)
    monkeypatch.setattr(launch, "is_locked", lambda file: ending)
    monkeypatch.setattr(launch, "resume", lambda run: resumed.append(run.path))
    before = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        launch.extend(run, MORE[1:])
    assert signal.getsignal(number) is before
    assert resumed == ([] if ending else [run.path])
    assert (f"'agenttts-hpc resume {run.path}' goes on" in caplog.text) == ending
    assert run.spec().search.iterations == 1


def test_a_search_that_was_ended_early_goes_on(cli, scripted_spec, run, monkeypatch):
    original = RecordedSearch.conclude

    def ends(self: RecordedSearch, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        (run / "finish.json").write_text("{}")
        monkeypatch.setattr(RecordedSearch, "conclude", original)

    monkeypatch.setattr(RecordedSearch, "conclude", ends)
    spec = scripted_spec(**SMALL | AFTER | {"search__iterations": 3})
    assert cli("launch", spec).returncode == 0
    assert set(searched(run)) == {0}
    done = cli("extend", "small", "--set", "search.iterations=4", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["extended"] == {"search.iterations": [3, 4]}
    assert (said["finishing"], said["iteration"]) == (False, 3)
    assert not (run / "finish.json").exists()


@pytest.mark.parametrize(
    ("step", "command"),
    [*((step, "resume") for step in range(4)), (0, "extend"), (2, "extend"), (3, "finish")],
)
def test_an_extension_that_was_killed_is_completed_by_the_next_command(
    finished, cli, monkeypatch, step, command
):
    """Killed before the event, before each of the two files, and before it is closed."""
    with monkeypatch.context() as patched:
        steps = dies_after(patched, step, extension)
        with pytest.raises(Killed):
            cli("extend", "small", *MORE)
    assert steps == ["append", "update_record", "atomic_write_text"][:step]
    done = cli(command, "small", *(MORE if command == "extend" else ()), "--wait")
    assert done.returncode == 0, done.stderr
    taken = bool(step) or command == "extend"
    assert yaml.safe_load((finished / "spec.yaml").read_text())["search"]["iterations"] == 1 + taken
    assert len(journal_events(finished, "extended")) == taken
    assert len(journal_events(finished, "extension_written")) == taken
    state = read_state(finished / "journal.jsonl")
    assert (state.finished, state.extension) == ("done", None)
    assert len(set(searched(finished))) == (2 if taken and command != "finish" else 1)
    assert len(RunDirectory(finished).record().extended_at) == taken


@pytest.mark.parametrize("lost", ["the last line", "the extension's line", "all lines"])
def test_a_new_journal_keeps_the_extension(finished, cli, lost):
    assert cli("extend", "small", *MORE, "--wait").returncode == 0
    before = outcome(finished)
    state = read_state(finished / "journal.jsonl")
    journal = finished / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    if lost == "all lines":
        journal.unlink()
    else:
        begun = next(n for n, line in enumerate(lines) if b'"extended"' in line)
        damaged = begun if lost == "the extension's line" else -1
        lines[damaged] = b"\xff\n"
        journal.write_bytes(b"".join(lines))
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    assert outcome(finished) == before
    again = read_state(journal)
    assert again.earlier_closing == state.earlier_closing
    assert (again.finished, again.extension) == ("done", None)
    assert cli("extend", "small", "--set", "search.iterations=3", "--wait").returncode == 0
    assert len(set(searched(finished))) == 3


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("search.iterations=0", "search.iterations: 0 does not widen the search, which has 1"),
        ("search.budget=1", "search.budget: 1.0 does not widen the search, which has 80.0"),
        ("search.budgett=100", "did you mean 'budget'?"),
        ("search.seed=5", "search.seed: a run that exists keeps it; what extend may change"),
        ("task.examples=8", "launch the spec under another --name, with '--set samples="),
        ("models.weak.params=1e9", "models.weak.params: a run that exists keeps it"),
        ("cluster=local", "--cluster local' gives it another profile"),
        ("stages.answer.samples=[2, 80]", "stages.answer.samples: the run's search has [1, 40]"),
        ("search.stop={confidence: 0.9}", "which has not set"),
        ("search.examples=2", "a run that exists keeps it"),
    ],
)
def test_what_does_not_widen_the_search_is_refused(unstarted_run, cli, setting, problem):
    run = unstarted_run(**SMALL).path
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    done = cli("extend", "small", "--set", setting)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert problem in done.stderr
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    assert cli("extend", "small").returncode == 2


def test_wider_limits_are_taken(finished, cli):
    done = cli(
        "extend", "small", "--set", "search.budget=160", "--set", "stages.answer.samples=[1, 80]",
        "--set", "search.iterations=3", "--set", "search.test_split.top=2", "--wait", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["extended"]) == {
        "search.budget", "search.iterations", "search.test_split.top", "stages.answer.samples",
    }  # fmt: skip
    assert table(finished)["budget"].max() > 80
    assert len(json.loads(done.stdout)["test"]) == 2


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        (["search.budget=160"], "search.budget"),
        (
            ["search.budget=160", "stages.answer.samples=[1, 80]"],
            "stages.answer.samples and search.budget",
        ),
        (["search.budget=160", "search.iterations=2"], None),
        (["search.test_split.top=2"], None),
    ],
)
def test_limits_for_proposals_need_an_iteration(finished, cli, settings, unused, dry):
    options = [option for setting in settings for option in ("--set", setting)]
    done = cli("extend", "small", *options, *(["--dry-run"] if dry else []))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert ("no iteration of the search is left" in said) is (unused is not None)
    if unused is not None:
        assert f"with the new {unused}; raise search.iterations too" in said


def test_limits_for_proposals_are_used_where_an_iteration_is_left(unstarted_run, cli):
    run = unstarted_run(**SMALL)
    done = cli("extend", run.path, "--set", "search.budget=160", "--dry-run")
    assert "search.budget: 80.0 -> 160.0" in done.stdout
    assert "no iteration" not in done.stdout


def test_a_dry_run_changes_nothing(finished, cli):
    before = {p: p.read_bytes() for p in finished.iterdir() if p.is_file()}
    done = cli("extend", "small", *MORE, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["changes"] == {"search.iterations": [1, 2]}
    assert said["search"]["iterations"] == 2
    assert said["trials"] == len(table(finished)) - len(names(finished, *AFTER_SEARCH))
    done = cli("extend", "small", *MORE, "--dry-run")
    assert "search.iterations: 1 -> 2" in done.stdout
    assert "nothing was created or submitted" in done.stdout
    assert "the run would be in" not in done.stdout, "it is there"
    assert {p: p.read_bytes() for p in finished.iterdir() if p.is_file()} == before


def test_launch_of_a_wider_spec_names_the_command(finished, cli, scripted_spec):
    wider = scripted_spec(**{**SMALL, **AFTER, "search__iterations": 2})
    done = cli("launch", wider)
    assert done.returncode == 2
    assert f"'agenttts-hpc extend {finished} --set search.iterations=2'" in done.stderr
    assert cli("extend", "small", *MORE, "--wait").returncode == 0
    assert cli("launch", wider).returncode == 0, "the spec is the run's own now"


WIDER = [
    ({"stop": {"within": 0.02, "confidence": 0.9}}, {"stop": None}, "search.stop=null"),
    (
        {"stop": {"within": 0.05, "confidence": 0.9}},
        {"stop": {"within": 0.02, "confidence": 0.9}},
        "search.stop.within=0.02",
    ),
    (
        {"examples": {"first": 1, "most": 2}},
        {"examples": {"first": 1}},
        "search.examples.most=null",
    ),
]


@pytest.mark.parametrize(("old", "new", "setting"), WIDER)
def test_the_command_that_launch_names_makes_the_run_one_of_that_spec(
    cli, scripted_spec, run, old, new, setting
):
    settings = SMALL | {"search__method": "agenttts", "task__examples": 4}
    spec = scripted_spec(**settings, **{f"search__{key}": value for key, value in old.items()})
    assert cli("launch", spec).returncode == 0
    wider = scripted_spec(**settings, **{f"search__{key}": value for key, value in new.items()})
    done = cli("launch", wider)
    [command] = re.findall(r"'agenttts-hpc (extend [^']*)' continues", done.stderr)
    assert command == f"extend {run} --set {setting}"
    assert cli(*command.split(), "--wait").returncode == 0
    assert cli("launch", wider).returncode == 0, "the spec is the run's own now"


def test_samples_of_a_stage_with_dots_in_its_name_may_be_more(cli, scripted_spec, tmp_path, run):
    task = (ROOT / "jobs/tasks/two_facts.yaml").read_text()
    task = task.replace("  answer:\n", "  answer.v1:\n").replace("answer.exact", "answer.v1.exact")
    (tmp_path / "task.yaml").write_text(task)
    stage = {"models": ["weak"], "prompt_tokens": 64, "decode_tokens": 8, "samples": [1, 2]}
    spec = scripted_spec(
        task={"name": "./task.yaml", "data": str(QUESTIONS), "examples": 2},
        stages={"name": stage, "answer.v1": stage},
        search__first=[{"name": "weak x1", "answer.v1": "weak x1"}],
        search__iterations=0,
        search__method="random",
    )
    assert cli("launch", spec).returncode == 0
    wider = ("--set", "stages.answer.v1.samples=[1, 4]")
    done = cli("extend", "small", *wider, "--wait")
    assert done.returncode == 0, done.stderr
    [event] = journal_events(run, "extended")
    assert list(event["changes"]) == ["stages.answer.v1.samples"]
    done = cli("extend", "small", "--set", "stages.answer.v1.samples=[2, 4]")
    assert "stages.answer.v1.samples: the run's search has [1, 4]" in done.stderr
    done = cli("launch", spec, *wider[:1], "stages.answer.v1.samples=[1, 8]")
    assert "--set 'stages.answer.v1.samples=[1, 8]'" in done.stderr


@pytest.mark.processes
def test_a_running_run_takes_it_and_its_jobs_go_on(cli, scripted_spec, run):
    slow = {"seconds_per_sample": 0.02}
    spec = scripted_spec(
        **SMALL | {"search__batch_size": 1},
        cluster="local",
        models__weak__options=slow,
        models__strong__options=slow,
    )
    assert cli("launch", spec).returncode == 0
    until(lambda: (run / "journal.jsonl").exists() and journal_events(run, "submitted"))
    done = cli("extend", "small", *MORE)
    assert done.returncode == 0, done.stderr
    until(lambda: read_state(run / "journal.jsonl").finished)
    assert read_state(run / "journal.jsonl").finished == "done"
    assert len(journal_events(run, "started")) == 2
    assert len(set(searched(run))) == 2
    assert set(table(run)["state"]) == {"COMPLETED"}
    assert all(len(attempts(run, trial)) == 1 for trial in table(run)["trial"])
