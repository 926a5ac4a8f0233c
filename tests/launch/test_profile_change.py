"""A run that was launched with a wrong profile takes a corrected one: ``resume --cluster``, and
``launch`` after an edit.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from agenttts.dispatch.base import JobStatus
from agenttts.dispatch.schedulers import load_completed_profile
from agenttts.errors import RunFailed
from agenttts.inference.base import SamplingParams, sample_key
from agenttts.launch import launch, profile_change
from agenttts.launch.create import check_same_spec
from agenttts.launch.plan import make_plan
from agenttts.loop.job_builder import JobBuilder
from agenttts.run.directory import RunDirectory
from agenttts.run.journal import read_state
from agenttts.run.profile_fix import profile_fix
from agenttts.run.record import write_record
from agenttts.spec import load_spec
from agenttts.status import run_status
from agenttts.status.run_status import check_outcome
from agenttts.trial.result import read_result
from agenttts.trial.spec import TrialSpec
from tests.support import command_line
from tests.support.killing import Killed, dies_after
from tests.support.runs import attempts, journal_events, outcome, table
from tests.support.trial_threads import end_trials
from tests.support.waiting import until

WRONG = "kind: in_process\ngpus_per_node: 0\npoll_seconds: 0.02\nmax_attempts: 1\nmax_running: 1\n"
RIGHT = WRONG.replace("max_attempts: 1", "max_attempts: 4")


@pytest.fixture
def profile(tmp_path):
    """Write ``slurm/site.yaml``, which specs and commands name as ``site``."""
    (tmp_path / "slurm").mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "slurm" / "site.yaml"
        path.write_text(text)
        return path

    write(WRONG)
    return write


@pytest.fixture
def small(scripted_spec, profile):
    """A spec of a few trials on the profile `site`."""
    return scripted_spec(
        cluster="site", search__iterations=1, search__batch_size=2, task__examples=2
    )


@pytest.fixture
def stopped(cli, small, tmp_path, monkeypatch):
    """A run that an error of the machine ended after its first two trials."""
    from agenttts.loop.evaluation import Evaluation

    finish = Evaluation._finish

    def failing(self, progress, row, *rest, **more):
        finish(self, progress, row, *rest, **more)
        if progress.planned.trial == "t0001":
            raise RuntimeError("the controller dies")

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "_finish", failing)
        with pytest.raises(RuntimeError):
            cli("launch", small)
    return tmp_path / "results" / "small"


def files(run: Path) -> dict[str, object]:
    """What follows from the profile."""
    record = json.loads((run / "run.json").read_text())
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    return {"profile": yaml.safe_load((run / "profile.yaml").read_text()), "record": record, "spec": spec}  # fmt: skip


def test_the_corrected_profile_is_taken_shown_and_journalled(stopped, cli, profile):
    ended = {e["trial"] for e in journal_events(stopped, "finished")}
    before = {
        trial: (stopped / "trials" / trial / "COMPLETED.json").read_bytes() for trial in ended
    }
    assert len(before) == 2
    profile(RIGHT)
    done = cli("resume", "small", "--cluster", "site", "--wait")
    assert done.returncode == 0, done.stderr
    assert "the run takes the corrected profile:\n  max_attempts: 1 -> 4\n" in done.stdout
    [event] = journal_events(stopped, "profile_changed")
    assert event["changes"] == {"max_attempts": [1, 4]}
    first, second = journal_events(stopped, "started")
    assert "seen" not in first
    assert first["time"] < second["seen"] < event["time"], "when the controller died"
    assert files(stopped)["profile"]["max_attempts"] == 4
    assert set(table(stopped)["state"]) == {"COMPLETED"}
    for trial, marker in before.items():
        assert (stopped / "trials" / trial / "COMPLETED.json").read_bytes() == marker
        assert len(attempts(stopped, trial)) == 1, "a finished trial ran again"
    for command in ("status", "report"):
        assert cli(command, "small").returncode == 0


def test_a_profile_of_another_name_becomes_the_run_s(stopped, cli, small, tmp_path):
    (tmp_path / "slurm" / "other.yaml").write_text(RIGHT)
    done = cli("launch", small, "--cluster", "other")
    assert done.returncode == 2
    assert f"'agenttts-hpc resume {stopped} --cluster other'" in done.stderr
    done = cli("resume", "small", "--cluster", "other", "--json")
    assert done.returncode == 0, done.stderr
    changes = {"cluster": ["site", "other"], "max_attempts": [1, 4]}
    assert json.loads(done.stdout)["profile"] == {"changes": changes, "refused": None}
    assert files(stopped)["spec"]["cluster"] == "other"
    done = cli("launch", small, "--cluster", "other")
    assert done.returncode == 0, "the spec is the run's own again"


def test_nothing_changed_is_said(stopped, cli):
    done = cli("resume", "small", "--cluster", "site")
    assert done.returncode == 0, done.stderr
    assert "the run already has this profile; nothing changes" in done.stdout
    assert journal_events(stopped, "profile_changed") == []


def test_launch_of_the_same_spec_takes_an_edited_profile(stopped, cli, small, profile):
    profile(RIGHT)
    done = cli("launch", small)
    assert done.returncode == 0, done.stderr
    assert "  max_attempts: 1 -> 4\n" in done.stdout
    assert len(journal_events(stopped, "profile_changed")) == 1
    assert files(stopped)["profile"]["max_attempts"] == 4
    assert read_state(stopped / "journal.jsonl").finished == "done"


def test_launch_says_that_a_run_that_is_over_keeps_its_profile(cli, small, profile, tmp_path):
    assert cli("launch", small).returncode == 0
    run = tmp_path / "results" / "small"
    profile(RIGHT)
    done = cli("launch", small, "--json")
    assert done.returncode == 0, done.stderr
    expected = {"changes": {"max_attempts": [1, 4]}, "refused": "the run is over"}
    assert json.loads(done.stdout)["profile"] == expected
    assert files(run)["profile"]["max_attempts"] == 1
    done = cli("resume", "small", "--cluster", "site")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "the run is over" in done.stderr
    assert "--retry-failed" in done.stderr
    done = cli("resume", "small", "--cluster", "site", "--retry-failed")
    assert done.returncode == 0, done.stderr
    assert files(run)["profile"]["max_attempts"] == 4


@pytest.mark.parametrize(
    ("cluster", "problem"),
    [("sit", "did you mean 'site'?"), ("./none.yaml", "no such cluster profile")],
)
def test_a_profile_that_is_not_there_changes_nothing(stopped, cli, cluster, problem):
    before = files(stopped)
    done = cli("resume", "small", "--cluster", cluster, "--retry-failed")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert problem in done.stderr
    assert files(stopped) == before


def test_a_profile_that_fails_the_checks_of_a_launch_changes_nothing(stopped, cli, profile):
    before = (stopped / "journal.jsonl").read_bytes()
    profile(RIGHT + "container: {image: /none/such.sif}\n")
    done = cli("resume", "small", "--cluster", "site")
    assert done.returncode in (2, 3)
    assert len(done.stderr.splitlines()) == 1
    assert (stopped / "journal.jsonl").read_bytes() == before
    assert files(stopped)["profile"]["container"] is None


def test_jobs_of_another_kind_are_ended_first(stopped, cli, profile):
    """A scheduler does not find the jobs of another one."""
    profile(RIGHT.replace("kind: in_process", "kind: local"))
    done = cli("resume", "small", "--cluster", "site")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"'agenttts-hpc cancel {stopped}' first" in done.stderr
    assert cli("cancel", "small").returncode == 0
    done = cli("resume", "small", "--cluster", "site", "--wait")
    assert done.returncode == 0, done.stderr
    assert "kind: in_process -> local" in done.stdout
    assert set(table(stopped)["state"]) == {"COMPLETED"}


@pytest.mark.parametrize("command", ["resume", "resume --cluster site", "launch"])
@pytest.mark.parametrize("step", range(5))
def test_a_change_that_was_killed_is_finished_by_the_next_command(
    stopped, cli, small, profile, monkeypatch, step, command
):
    """Killed before the event, before each of the three files, and before the change is closed."""
    profile(RIGHT)
    with monkeypatch.context() as patched:
        steps = dies_after(patched, step, profile_change)
        with pytest.raises(Killed):
            cli("resume", "small", "--cluster", "site")
    assert steps == ["append", "update_record", "atomic_write_text", "atomic_write_text"][:step]
    arguments = command.split()
    done = cli(arguments[0], small if arguments == ["launch"] else "small", *arguments[1:])
    assert done.returncode == 0, done.stderr
    taken = bool(step) or command != "resume"
    assert files(stopped)["profile"]["max_attempts"] == (4 if taken else 1)
    assert len(journal_events(stopped, "profile_changed")) == taken
    assert len(journal_events(stopped, "profile_written")) == taken
    state = read_state(stopped / "journal.jsonl")
    assert (state.finished, state.profile_change) == ("done", None)


def test_a_new_journal_keeps_the_change(stopped, cli, profile):
    profile(RIGHT)
    assert cli("resume", "small", "--cluster", "site").returncode == 0
    [event] = journal_events(stopped, "profile_changed")
    before = outcome(stopped)
    lines = (stopped / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "journal.jsonl").write_bytes(b"".join([*lines[:-1], b"\xff\n"]))
    done = cli("resume", "small", "--from-tables", "--wait")
    assert done.returncode == 0, done.stderr
    assert journal_events(stopped, "profile_changed") == [event]
    assert len(journal_events(stopped, "profile_written")) == 1
    assert outcome(stopped) == before
    assert files(stopped)["profile"]["max_attempts"] == 4


MODEL = {"num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8, "hidden_size": 5120, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}  # fmt: skip


@pytest.fixture
def model(tmp_path) -> Path:
    """The directory of a 32B model whose weights take no room on the disk."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "tokenizer.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(65_000_000_000)
    return folder


def corrected(run: RunDirectory, folder: Path) -> launch.ProfileOutcome:
    """Give a run the profile `site` as it is now."""
    return launch.correct_profile(run, "site", load_completed_profile("site", [folder]))


def test_models_get_the_gpus_that_the_corrected_profile_has(
    unstarted_run, profile, model, tmp_path
):
    """Only how models are placed changes; the addresses of their samples stay."""
    local = "kind: local\ngpus_per_node: 8\ngpu_memory_gb: {}\n"
    profile(local.format(80))
    strong = {"path": str(model), "params": 32.5e9, "engine": "vllm"}
    run = unstarted_run(cluster="site", models__strong=strong)
    before = run.record()
    profile(local.format(24))
    changes = corrected(run, tmp_path).changes
    after = run.record()
    assert before.models["strong"].gpus == 1
    assert after.models["strong"].gpus == 4
    assert changes == {"gpu_memory_gb": [80.0, 24.0], "models.strong.gpus": [1, 4]}
    assert after.sizes["strong"].gpus == 4
    assert replace(after.models["strong"], gpus=1) == before.models["strong"]
    params = SamplingParams(1.0, 16)
    keys = {sample_key(r.models["strong"], "a prompt", params, 7) for r in (before, after)}
    assert len(keys) == 1
    for field in ("token", "samples", "examples", "data", "version", "main_metric"):
        assert getattr(after, field) == getattr(before, field)


def test_the_image_of_the_profile_is_taken_too(unstarted_run, profile, tmp_path, monkeypatch):
    """The spec of a run names the image that the profile named at launch.

    Its folder is a link, as home directories often are; a spec that was read names its target.
    """
    (tmp_path / "bin").mkdir()
    runtime = tmp_path / "bin" / "apptainer"
    runtime.write_text("#!/bin/sh\n")
    runtime.chmod(0o755)
    monkeypatch.setenv("PATH", str(runtime.parent), prepend=":")
    folder, link = tmp_path / "images", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    images = [link / "old.sif", link / "new.sif"]
    targets = [str(folder.resolve() / image.name) for image in images]
    for image in images:
        image.write_text(image.name)
    texts = [f"kind: local\ngpus_per_node: 0\ncontainer: {{image: {image}}}\n" for image in images]
    profile(texts[0])
    run = unstarted_run(cluster="site")
    assert run.spec().container.image == targets[0]
    again = make_plan(load_spec(tmp_path / "small.yaml"), [tmp_path], tmp_path / "results")
    check_same_spec(run, again.experiment.spec, again.experiment.profile)
    old = run.record()
    profile(texts[1])
    changes = corrected(run, tmp_path).changes
    assert changes["container.image"] == [str(image) for image in images]
    record = run.record()
    assert changes["image_sha256"] == [old.image_sha256, record.image_sha256]
    assert record.container is not None
    assert (record.container.image, run.spec().container.image) == (images[1], targets[1])
    again = make_plan(load_spec(tmp_path / "small.yaml"), [tmp_path], tmp_path / "results")
    check_same_spec(run, again.experiment.spec, again.experiment.profile)


def test_finished_trials_keep_their_specs_and_the_others_get_the_new_gpus(stopped):
    end_trials()  # else one of the others may end while this looks at it
    run = RunDirectory(stopped)
    state = read_state(run.journal_file)
    trials = [p.planned for p in state.trials.values()]
    JobBuilder(run.read()).write_specs(trials, [trials])
    specs = {t.trial: run.trial(t.trial) / "trial.json" for t in trials}
    before = {trial: path.read_bytes() for trial, path in specs.items()}
    # Others may have ended that the dead controller has not seen.
    finished = {trial for trial in specs if read_result(run.trial(trial)) is not None}
    assert finished >= {"t0000", "t0001"}
    record = run.record()
    models = {name: replace(model, gpus=3) for name, model in record.models.items()}
    write_record(run.record_file, record.model_copy(update={"models": models}))
    JobBuilder(run.read()).write_specs(trials, [trials])
    for trial in specs:
        if trial in finished:
            assert specs[trial].read_bytes() == before[trial]
            assert read_result(run.trial(trial)) is not None, "it is still finished"
        else:
            written = TrialSpec.read(specs[trial])
            assert {model.gpus for model in written.models.values()} == {3}
    assert {p.row is None for p in state.trials.values()} == {True, False}


@pytest.mark.processes
def test_a_running_controller_keeps_its_profile(cli, scripted_spec, profile, tmp_path):
    local = "kind: local\ngpus_per_node: 0\npoll_seconds: 0.1\nmax_attempts: {}\n"
    profile(local.format(1))
    slow = {"seconds_per_sample": 0.2}
    spec = scripted_spec(cluster="site", models__weak__options=slow, models__strong__options=slow)
    assert cli("launch", spec).returncode == 0
    run = tmp_path / "results" / "small"
    until(lambda: (run / "journal.jsonl").exists(), "the controller")
    profile(local.format(4))
    try:
        done = cli("resume", "small", "--cluster", "site")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"'agenttts-hpc cancel {run}' first" in done.stderr
        done = cli("launch", spec, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)["profile"]
        assert said["changes"] == {"max_attempts": [1, 4]}
        assert "its controller runs" in said["refused"]
        said = " ".join(cli("launch", spec).stdout.split())
        assert "the run keeps its profile, because its controller runs" in said
        assert files(run)["profile"]["max_attempts"] == 1
    finally:
        assert cli("cancel", "small").returncode == 0
    done = cli("launch", spec)
    assert "max_attempts: 1 -> 4" in done.stdout, done.stderr
    assert files(run)["profile"]["max_attempts"] == 4
    assert cli("cancel", "small").returncode == 0


def test_a_refused_controller_is_told_with_the_command_that_corrects_it(
    unstarted_run, cli, profile, fake, tmp_path
):
    profile("kind: slurm\ngpus_per_node: 0\ncontroller: {partition: cpuu}\n")
    fake("squeue", "exit 0")
    refuses = "echo 'sbatch: error: invalid partition specified: cpuu' >&2; exit 1"
    # The launch's own test of the request passes, as on a cluster that has changed since.
    fake("sbatch", f'case "$*" in *--test-only*) exit 0;; esac; {refuses}')
    run = unstarted_run(cluster="site")
    done = cli("resume", "small")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)
    assert "invalid partition specified: cpuu" in done.stderr
    command = f"'agenttts-hpc resume {run.path} --cluster site'"
    assert f"edit slurm/site.yaml, then {command}" in done.stderr
    profile("kind: slurm\ngpus_per_node: 0\ncontroller: {partition: cpu}\n")
    fake("sbatch", "echo Submitted batch job 7")
    done = cli("resume", "small", "--cluster", "site", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["profile"]["changes"] == {"controller.partition": ["cpuu", "cpu"]}
    assert said["controller"]["job_id"] == "7"


def test_trials_that_ended_for_the_profile_are_told_with_the_command(stopped, profile, cli):
    """A run that is over tries them again only if that is asked for."""
    run = RunDirectory(stopped)
    assert cli("resume", "small").returncode == 0
    lines = (stopped / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        if event["event"] == "finished" and event["trial"] == "t0001":
            event["row"] |= {
                "state": "TIMEOUT",
                "score": None,
                "error": "the job reached its time limit; raise the profile's trial.time",
            }
    (stopped / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    with pytest.raises(RunFailed, match=r"1 of \d+ trials") as told:
        check_outcome(run)
    assert str(told.value).endswith(profile_fix(run, retry=True))
    profile(RIGHT)
    done = cli("resume", "small", "--cluster", "site", "--retry-failed", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["retried"], said["profile"]["refused"]) == (["t0001"], None)


def test_jobs_that_wait_for_nothing_are_told_with_the_command(unstarted_run, cli, profile, fake):
    profile("kind: slurm\ngpus_per_node: 0\n")
    run = unstarted_run(cluster="site")
    fake("sbatch", "echo Submitted batch job 7")
    fake("squeue", "exit 0")
    assert cli("resume", "small").returncode == 0
    queue = run_status._Queue(
        controller=JobStatus(
            "PENDING", False, detail="lower the key time in the profile", stuck=True
        )
    )
    [warning] = run_status._profile_warnings(run, [], queue)
    assert f"'agenttts-hpc cancel {run.path}'" in warning
    assert warning.endswith(profile_fix(run))
    for status in (
        replace(queue.controller, stuck=False),
        replace(queue.controller, detail="held"),
    ):
        assert run_status._profile_warnings(run, [], replace(queue, controller=status)) == []


def test_resume_says_that_an_edited_profile_is_not_taken_by_itself(stopped, cli, profile):
    assert "was edited since the launch" not in cli("resume", "small").stdout
    profile(RIGHT)
    text = " ".join(cli("resume", "small").stdout.split())
    assert "the profile was edited since the launch, and the run keeps its own" in text
    assert "--cluster site' gives it the edited one: max_attempts: 1 -> 4" in text


@pytest.mark.parametrize("cluster", ["./own.yaml", "here/../own.yaml", "~/own.yaml"])
def test_a_run_names_its_profile_s_file_in_every_directory(
    cli, scripted_spec, tmp_path, monkeypatch, cluster
):
    """Another one of the same relative path may be there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path, tmp_path / "here"):
        folder.mkdir(exist_ok=True)
        (folder / "own.yaml").write_text(WRONG)
    (tmp_path / "here" / "own.yaml").write_text(RIGHT)
    spec = scripted_spec(cluster=cluster, search__iterations=0, task__examples=2)
    assert cli("launch", spec).returncode == 0
    run = RunDirectory(tmp_path / "results" / "small")
    place = Path(run.spec().cluster)
    assert (place.is_absolute(), place.samefile(tmp_path / "own.yaml")) == (True, True)
    assert profile_fix(run).startswith(f"edit {place}, then ")
    done = command_line.call("resume", run.path, cwd=tmp_path / "here")
    assert "the profile was edited" not in done.stdout + done.stderr
    done = cli("resume", "small", "--cluster", cluster, "--retry-failed")
    assert (done.returncode, run.spec().cluster) == (0, str(place)), done.stderr
    # An older version wrote the path as it was given.
    text = run.spec_file.read_text()
    run.spec_file.write_text(text.replace(str(place), cluster))
    assert run.spec().cluster == cluster
    done = cli("launch", spec)
    assert done.returncode == 0, done.stderr


def test_a_run_without_containers_keeps_compiled_code_where_its_profile_says(stopped, cli, profile, tmp_path):  # fmt: skip
    record = json.loads((stopped / "run.json").read_text())
    assert record["compile_cache"] is None, "engines keep it where they usually do"
    profile(RIGHT + "cache: ./compiled\n")
    assert cli("resume", "small", "--cluster", "site", "--wait").returncode == 0
    record = json.loads((stopped / "run.json").read_text())
    assert Path(record["compile_cache"]) == tmp_path / "slurm" / "compiled"
    assert (tmp_path / "slurm" / "compiled").is_dir()
    assert RunDirectory(stopped).record().cache(stopped).image == ""
