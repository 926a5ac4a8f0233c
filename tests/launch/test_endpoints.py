"""Runs whose models are on a server: no GPUs, no model files, the key nowhere but in requests."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from agenttts.dispatch.apptainer import PASSED_VARIABLES, Container
from agenttts.inference.base import ModelConfig
from agenttts.loop.job_builder import JobBuilder
from agenttts.run.directory import Run
from agenttts.run.progress import PlannedTrial
from agenttts.space import Allocation, Choice
from agenttts.spec import load_spec
from agenttts.trial.spec import TrialSpec
from tests.support.llm import KEY, Server, said

VARIABLE = "ENDPOINT_TEST_KEY"


def reply(body: dict[str, object]) -> tuple[int, str, dict[str, str]]:
    """One of two replies to a prompt, by its seed."""
    return said("[1] [2]" if int(str(body["seed"])) % 2 else "the Danube")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(VARIABLE, KEY)
    running = Server()
    running.models = (200, json.dumps({"data": [{"id": "small"}, {"id": "/models/large"}]}), {})
    running.answers = [reply]
    yield running
    running.close()


@pytest.fixture
def endpoint_spec(scripted_spec, server):
    """Make a spec whose two models are on the server; changes as for `scripted_spec`."""

    def make(**changes: object) -> Path:
        options = {"base_url": server.url, "api_key_env": VARIABLE, "use_proxy": False}
        models = {
            "weak": {"path": "small", "params": 3e9, "engine": "endpoint", "options": options},
            "strong": {
                "path": "/models/large",
                "params": 14e9,
                "engine": "endpoint",
                "options": dict(options),
            },
        }
        return scripted_spec(**({"models": models, "cluster": "local"} | changes))

    return make


def test_a_dry_run_shows_that_no_gpus_are_needed(endpoint_spec, server, cli):
    done = cli("launch", endpoint_spec(), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["problems"] == []
    assert {m["gpus"] for stage in plan["stages"] for m in stage["models"]} == {0}
    for why in plan["resources"]["gpus"].values():
        assert why == f"runs on the server at {server.url}: needs none"
    assert {model["weights"] for model in plan["models"].values()} == {None}


def problems(cli, spec: Path, *more: str, **env: str) -> list[str]:
    done = cli("launch", spec, "--dry-run", "--json", *more, env=env)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    return [f"{p['what']}; {p['fix']}" for p in json.loads(done.stdout)["problems"]]


def test_what_is_wrong_with_a_server_is_found_at_launch(endpoint_spec, server, cli):
    [problem] = problems(cli, endpoint_spec(models__weak__path="smal"))
    assert "has no model 'smal'" in problem
    assert "valid: small, /models/large; did you mean 'small'?" in problem
    done = cli("launch", endpoint_spec(models__weak__path="smal"))
    assert done.returncode == 2
    first, second = problems(cli, endpoint_spec(), **{VARIABLE: ""})
    assert f"{VARIABLE} is not set in this environment; export it" in first
    assert "models.strong" in second
    server.models = (401, f"not {KEY}", {})
    assert "the server refuses the key" in problems(cli, endpoint_spec())[0]


def test_a_server_that_is_not_there(endpoint_spec, server, cli, tmp_path):
    server.close()
    found = problems(cli, endpoint_spec())
    assert len(found) == 2
    assert "models.weak: " in found[0]
    assert "start the server, or correct options.base_url" in found[0]
    # Nodes of a cluster may reach a server that this machine does not.
    profile = tmp_path / "far.yaml"
    profile.write_text("kind: slurm\ntrial: {partition: gpu}\n")
    found = problems(cli, endpoint_spec(), "--cluster", str(profile))
    assert not any("base_url" in problem for problem in found)


def test_a_wrong_option_is_the_user_s(endpoint_spec, cli):
    done = cli("launch", endpoint_spec(models__weak__options__max_concurrent=0), "--dry-run")
    assert done.returncode == 2
    assert "models.weak.options.max_concurrent: must be" in done.stderr


@pytest.mark.processes
def test_a_run_on_a_server_finishes_and_leaves_no_key(endpoint_spec, server, shell, tmp_path):
    spec = endpoint_spec(search__iterations=0, task__examples=4)
    done = shell("launch", spec, "--wait", env={VARIABLE: KEY})
    assert done.returncode == 0, done.stderr
    run = tmp_path / "results/small"
    trials = pl.read_parquet(run / "trials.parquet")
    assert set(trials["state"]) == {"COMPLETED"}
    assert set(trials["gpu_seconds"]) == {0.0}
    assert {body["model"] for _, _, body in server.requests} == {"small", "/models/large"}
    assert all(h["Authorization"] == f"Bearer {KEY}" for _, h, _ in server.requests)
    found = subprocess.run(["grep", "-rlaF", KEY, tmp_path], capture_output=True, check=False)
    assert found.stdout == b"", "no file holds the key"
    # Every sample is one request, drawn once in the run.
    samples = pl.read_parquet(run / "samples").unique(["key", "index"])
    asked = {(json.dumps(b["messages"]), b["model"], b["seed"]) for _, _, b in server.requests}
    assert len(asked) == len(samples)


def test_a_server_that_fails_is_not_the_allocation_s_fault(endpoint_spec, server, cli, tmp_path):
    server.answers = [(403, "your key has expired", {})]
    quick = tmp_path / "quick.yaml"
    quick.write_text("kind: in_process\nmax_attempts: 1\n")
    spec = endpoint_spec(search__iterations=0, task__examples=2)
    cli("launch", spec, "--cluster", quick)
    trials = pl.read_parquet(tmp_path / "results/small/trials.parquet")
    assert set(trials["state"]) == {"INFRA_FAILED"}
    assert all(VARIABLE in error for error in trials["error"])


@pytest.mark.processes
def test_doctor_asks_the_servers_of_a_spec(endpoint_spec, server, cli):
    done = cli("doctor", endpoint_spec(), "--json")
    checks = {c["what"]: c for c in json.loads(done.stdout)["checks"]}
    weak = checks["endpoint of model 'weak'"]
    assert weak["ok"], weak
    assert re.search(r"'small' is at http.*; 16 tokens take .*it honours seeds", weak["detail"])
    numbers = iter(range(99))
    # What the engine says of it is not in the document.
    server.answers = [lambda body: (400, "no seed", {}) if "seed" in body else said("same")]
    done = cli("doctor", endpoint_spec(), "--json")
    checks = {c["what"]: c for c in json.loads(done.stdout)["checks"]}
    assert "not known whether" in checks["endpoint of model 'weak'"]["detail"]
    server.answers = [lambda body: said(f"reply {next(numbers)}")]
    done = cli("doctor", endpoint_spec(models__weak__path="smal"), "--json")
    assert done.returncode == 3
    checks = {c["what"]: c for c in json.loads(done.stdout)["checks"]}
    assert "valid: small, /models/large" in checks["endpoint of model 'weak'"]["detail"]
    assert "it ignores seeds" in checks["endpoint of model 'strong'"]["detail"]


def test_doctor_of_a_spec_without_servers_says_so(scripted_spec, cli):
    done = cli("doctor", scripted_spec(cluster="local"))
    assert "no model of the spec has engine: endpoint" in done.stdout


def planned(number: int) -> PlannedTrial:
    choices = (Choice("retrieval", "weak", number + 1), Choice("answer", "strong", 1))
    return PlannedTrial(f"t{number:04}", 1, Allocation(choices), "insight", "", 1.0)


def test_a_trial_in_a_container_gets_the_key_s_name_and_its_part_of_the_rate(
    endpoint_spec, server, unstarted_run, tmp_path
):
    spec = load_spec(endpoint_spec(models__weak__options__requests_per_minute=60))
    run = unstarted_run()
    models = {
        name: ModelConfig(name, m.path, engine=m.engine, gpus=0, options=m.options)
        for name, m in spec.models.items()
    }
    more = {"models": models, "container": Container(tmp_path / "image.sif")}
    profile = run.profile().model_copy(update={"max_running": 3})
    builder = JobBuilder(Run(run, spec, profile, run.record().model_copy(update=more)))
    jobs = [[planned(number)] for number in range(8)]
    request = builder.request(jobs[0], jobs, [0], "w0-0")
    assert request.gpus == 0
    assert request.env[PASSED_VARIABLES] == VARIABLE
    assert KEY not in f"{request}"
    assert "/models/large" not in " ".join(map(str, (*request.command, *request.needs)))
    written = TrialSpec.read(run.trial("t0000") / "trial.json")
    assert written.models["weak"].options["requests_per_minute"] == 20
    assert "requests_per_minute" not in written.models["strong"].options
