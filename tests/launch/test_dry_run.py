"""``launch --dry-run``: the plan of any right spec anywhere, with what is missing here listed;
wrong specs refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agenttts.errors import MissingRequirement, Unavailable, UserError
from agenttts.launch.description import describe_plan
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec

ROOT = Path(__file__).parents[2]
# The paper's budgets of one sample of each stage's largest model, rounded; that of the triples is
# worked out by hand: 72e9/3e9 * (1024 + 64) - 128 = 25984 tokens, / 64 = 406.
PAPER = {
    "2wiki": [("retrieval", 814), ("answer", 115)],
    "hotpotqa": [("retrieval", 814), ("answer", 115)],
    "cwq": [("retrieval", 406), ("answer", 115)],
    "webqsp": [("retrieval", 406), ("answer", 115)],
    **{
        f"taskbench-{name}": [
            ("decomposition", 395),
            ("tool_selection", 465),
            ("parameter_prediction", 1118),
        ]
        for name in ("dailylife", "huggingface", "multimedia")
    },
    "chatdev": [("coding", 745), ("static_testing", 558), ("dynamic_testing", 465)],
}


def plan(name, tmp_path, dry_run=True):
    spec = load_spec(ROOT / "jobs" / f"{name}.yaml")
    return make_plan(spec, [ROOT], tmp_path / "results", dry_run=dry_run)


def test_every_spec_at_the_papers_scale_is_tested():
    jobs = {path.stem: load_spec(path) for path in (ROOT / "jobs").glob("*.yaml")}
    assert {name for name, spec in jobs.items() if spec.cluster == "template"} == set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_budgets_come_out_of_the_shipped_specs(name, cli, tmp_path):
    # No Slurm, no container runtime, no GPU, no download.
    env = {"PATH": "/nonexistent", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = cli("launch", ROOT / "jobs" / f"{name}.yaml", "--dry-run", "--json", env=env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    expected = document["forecast"]
    assert 0 < expected["gpu_seconds"]["low"] <= expected["gpu_seconds"]["high"]
    assert expected["gpu_seconds"]["high"] < expected["one_trial_a_job"]["high"]
    assert expected["assumptions"]
    stages = document["stages"]
    assert [(stage["stage"], round(stage["unit_budget"])) for stage in stages] == PAPER[name]
    for stage in stages:
        largest = max(stage["models"], key=lambda model: model["params"])
        assert stage["largest_model"] == largest["model"]
        assert stage["unit_budget"] == largest["unit_budget"]
    assert document["task"]["examples"] == 50
    # One sample of every stage's largest model has to fit, or the search could not even look at it.
    assert sum(stage["unit_budget"] for stage in stages) <= document["search"]["budget"]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "jobs").glob("*.yaml")))
def test_every_shipped_spec_has_a_plan_that_the_command_shows(name, cli):
    done = cli("launch", ROOT / "jobs" / f"{name}.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    spec = load_spec(ROOT / "jobs" / f"{name}.yaml")
    for part in (spec.task.name, *spec.stages, *spec.models):
        assert part in done.stdout


@pytest.mark.parametrize("name", PAPER)
def test_what_is_missing_is_listed_and_nothing_is_made(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    found = plan(name, tmp_path)
    problems = describe_plan(found)["problems"]
    text = json.dumps(problems)
    assert all(problem["what"] and problem["fix"] for problem in problems)
    for model in found.experiment.spec.models.values():
        assert model.path in text
    for part in ("scontrol", "agenttts.sif", "data"):
        assert part in text
    # The template's setup line loads it on the nodes.
    assert "apptainer is not on" not in text
    assert not (tmp_path / "results").exists()
    with pytest.raises((Unavailable, MissingRequirement)):
        plan(name, tmp_path, dry_run=False)


def test_a_machine_that_has_everything_has_no_problems(cli, scripted_spec):
    done = cli("launch", scripted_spec(), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["problems"] == []
    assert document["task"]["examples"] == 8


def test_the_command_shows_what_is_missing(cli, tmp_path):
    spec = ROOT / "jobs" / "cwq.yaml"
    env = {"PATH": f"/nonexistent:{os.environ['PATH']}"}
    done = cli("launch", spec, "--dry-run", env=env)
    assert done.returncode == 0, done.stderr
    assert "missing models.qwen-7b.path" in done.stdout
    assert "nothing was created or submitted" in done.stdout
    assert not (tmp_path / "results").exists()
    refused = cli("launch", spec, env=env)
    assert refused.returncode == 2
    assert "models.qwen-7b.path: /models/Qwen2.5-7B-Instruct-AWQ does not exist" in refused.stderr


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task__name": "retrieval_q"}, "unknown task"),
        ({"search__method": "agentts"}, "did you mean 'agenttts'"),
        ({"search__budget": 1}, "too small for any allocation"),
        ({"cluster": "lcal"}, "unknown profile"),
        ({"task__options": {"shufle": True}, "task__data": "./none.json"}, "no option 'shufle'"),
        ({"task__split": "serach"}, "unknown split"),
        ({"task__examples": 61}, "at most 60"),
        ({"models__weak__options": {"fial": "OOM"}}, "fial"),
    ],
)
def test_a_wrong_spec_is_refused_by_a_dry_run_too(scripted_spec, tmp_path, change, expected):
    spec = load_spec(scripted_spec(**change))
    with pytest.raises(UserError, match=expected) as caught:
        make_plan(spec, [tmp_path], tmp_path / "results", dry_run=True)
    assert caught.value.exit_code == 2


def test_malformed_data_are_no_missing_data(scripted_spec, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    spec = load_spec(scripted_spec(task__data="./bad.jsonl"))
    with pytest.raises(UserError, match=r"bad.jsonl:1"):
        make_plan(spec, [tmp_path], tmp_path / "results", dry_run=True)


def test_missing_data_leave_the_number_of_examples_to_the_spec(scripted_spec, tmp_path):
    spec = load_spec(scripted_spec(task__data="./none.jsonl"))
    document = describe_plan(make_plan(spec, [tmp_path], tmp_path / "results", dry_run=True))
    assert document["task"]["examples"] == 8
    assert [p["what"] for p in document["problems"]] == [f"task.data: data file {tmp_path}/none.jsonl does not exist"]  # fmt: skip
    spec = load_spec(scripted_spec(task__data="./none.jsonl", task__examples=None))
    document = describe_plan(make_plan(spec, [tmp_path], tmp_path / "results", dry_run=True))
    assert document["task"]["examples"] is None


def test_models_too_large_for_a_node_are_a_problem_of_the_cluster(tmp_path):
    (tmp_path / "small.yaml").write_text("kind: local\ngpus_per_node: 1\ngpu_memory_gb: 16\n")
    spec = load_spec(ROOT / "jobs" / "2wiki.yaml", [f"cluster={tmp_path}/small.yaml"])
    document = describe_plan(make_plan(spec, [ROOT], tmp_path / "results", dry_run=True))
    assert any("do not fit" in problem["what"] for problem in document["problems"])
    assert round(document["stages"][0]["unit_budget"]) == 814


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("samples", {"samples": "a:b"}),
        ("models.weak.path", {"models__weak__path": "./w,eak.json"}),
        ("models.weak.options.tokenizer", {"models__weak__options": {"tokenizer": "./to:k"}}),
    ],
)
def test_a_path_that_no_container_can_have_is_refused_by_its_key(scripted_spec, tmp_path, key, change):  # fmt: skip
    image = tmp_path / "image.sif"
    image.write_text("")
    path = scripted_spec(container__image=str(image), models__weak__engine="vllm", **change)
    (path.parent / "to:k").mkdir()
    with pytest.raises(UserError, match=rf"{key}: .* contains a (colon|comma) and"):
        make_plan(load_spec(path), [], tmp_path / "results", dry_run=True)


def test_what_the_seed_decides_is_shown(cli, scripted_spec, tmp_path):
    few = {"values": [1, 2]}
    spec = scripted_spec(stages__retrieval__samples=few, stages__answer__samples=few)
    deterministic = "only ties and explorations"
    shown = cli("launch", spec, "--dry-run", "--set", "search.seed=5").stdout
    assert (
        f"seed 5: draws the examples and samples; in the search it decides {deterministic}" in shown
    )
    search = json.loads(cli("launch", spec, "--dry-run", "--json").stdout)["search"]
    assert search["seed_role"].startswith(deterministic)
    (tmp_path / "replies.json").write_text('{"replies": []}')
    agent = {"kind": "scripted", "replies": "replies.json"}
    asking = scripted_spec(agent=agent, stages__retrieval__samples=few, stages__answer__samples=few)
    shown = cli("launch", asking, "--dry-run").stdout
    assert "decides the seed of every call of the language model" in shown


@pytest.mark.parametrize(
    ("trial", "kind", "said"),
    [
        ({"mem": "64G"}, "slurm", "a job of 64G is too small to read the weights ahead"),
        ({"mem_per_gpu": "16G"}, "slurm", "a job of 64G is too small"),
        ({"mem": "0"}, "slurm", None),  # all of a node
        ({"mem": "256G"}, "slurm", None),
        ({"mem_per_gpu": "100G"}, "slurm", None),
        ({}, "slurm", None),
        ({"mem": "64G"}, "local", None),
    ],
)
def test_jobs_with_less_memory_than_the_weights_take_are_told(scripted_spec, tmp_path, trial, kind, said):  # fmt: skip
    """vLLM reads weights ahead from NFS or Lustre only if they fit."""
    profile = {"kind": kind, "gpu_memory_gb": 80, "gpus_per_node": 4, "trial": trial}
    (tmp_path / "p.yaml").write_text(json.dumps(profile))
    model = {"path": "org/large", "params": 72e9, "gpus": 4, "engine": "vllm"}
    spec = load_spec(scripted_spec(cluster=str(tmp_path / "p.yaml"), models__strong=model))
    why = make_plan(spec, [], tmp_path / "results", dry_run=True).needs["strong"].reasoning
    assert (said in why) if said else "read the weights ahead" not in why


@pytest.mark.parametrize(
    ("trial", "gpus", "kind", "said"),
    [
        ({}, 1, "slurm", "a job of 1 core makes its GPUs wait (vLLM needs 3): raise trial.cpus"),
        ({"cpus": 2}, 1, "slurm", "a job of 2 cores makes"),
        ({"cpus": 1}, 4, "slurm", "a job of 4 cores makes its GPUs wait (vLLM needs 6)"),
        ({"cpus": 2}, 4, "slurm", None),
        ({"cpus": 4}, 1, "slurm", None),
        ({}, 0, "slurm", None),
        ({"gpu_request": "none"}, 1, "slurm", None),  # a job has its whole node
        ({"sbatch": {"exclusive": "true"}}, 1, "slurm", None),
        ({}, 1, "local", None),
    ],
)
def test_jobs_with_fewer_cores_than_vllm_has_processes_are_told(scripted_spec, tmp_path, trial, gpus, kind, said):  # fmt: skip
    profile = {"kind": kind, "gpu_memory_gb": 80, "gpus_per_node": 4, "trial": trial}
    (tmp_path / "p.yaml").write_text(json.dumps(profile))
    model = {"path": "org/large", "params": 7e9, "gpus": gpus, "engine": "vllm"}
    spec = load_spec(scripted_spec(cluster=str(tmp_path / "p.yaml"), models__strong=model))
    why = make_plan(spec, [], tmp_path / "results", dry_run=True).needs["strong"].reasoning
    assert (said in why) if said else "makes its GPUs wait" not in why


@pytest.mark.parametrize("served", [False, True])
def test_a_model_is_not_planned_over_several_mig_devices(scripted_spec, tmp_path, served):
    profile = {"kind": "slurm", "gpu_memory_gb": 10, "gpus_per_node": 7, "trial": {"gpu_type": "1g.10gb"}}  # fmt: skip
    (tmp_path / "p.yaml").write_text(json.dumps(profile))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"num_attention_heads": 32}))
    with (tmp_path / "model" / "model.safetensors").open("wb") as stream:
        stream.truncate(15 * 10**9)
    large = {"path": str(tmp_path / "model"), "params": 7e9, "engine": "vllm"}
    agent = {"agent": {"kind": "serve", "model": large["path"]}, "search__method": "agenttts"}
    changes = agent if served else {"models__strong": large}
    spec = load_spec(scripted_spec(cluster=str(tmp_path / "p.yaml"), **changes))
    plan = make_plan(spec, [], tmp_path / "results", dry_run=True)
    assert "do not fit the one MIG device (1g.10gb, 10 GB)" in " ".join(map(str, plan.problems))


def test_the_plan_says_what_is_expected_and_why(cli, scripted_spec):
    shown = cli("launch", scripted_spec(), "--dry-run").stdout
    line = next(line for line in shown.splitlines() if line.startswith("expected: "))
    assert "h from the first trial to the last" in line
    assert "engine starts" in line
    assert "GPU-hours" not in line, "there are no GPUs"
    assert "  assumed: allocations drawn at random" in shown


SCORED_AGAIN = "(allocations that are scored again, on further ones, take more)"


@pytest.mark.parametrize(
    ("examples", "counted"),
    [
        (None, None),
        ({"first": 2}, f"each trial of the search on 2 of 4 examples {SCORED_AGAIN}"),
        ({"first": 2, "most": 3}, f"each trial of the search on 2 of 4 examples {SCORED_AGAIN}"),
        ({"first": 3, "most": 3}, "each trial of the search on 3 of 4 examples"),
        ({"first": 4}, None),
    ],
)
def test_the_plan_says_on_how_many_examples_it_counts(cli, scripted_spec, examples, counted):
    spec = scripted_spec(task__examples=4, search__examples=examples)
    done = cli("launch", spec, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assumed = json.loads(done.stdout)["forecast"]["assumptions"]
    assert [text for text in assumed if "each trial of" in text] == ([counted] if counted else [])
