"""What is missing is listed in the order in which a launch would refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.dispatch.sizing import model_facts
from agenttts.errors import Unavailable, UserError
from agenttts.files.documents import read_object
from agenttts.launch.checks import check_formats, check_servers_differ
from agenttts.launch.create import create_run, run_record
from agenttts.launch.description import describe_plan
from agenttts.launch.plan import make_plan, plan_of_run
from agenttts.run.directory import RunDirectory
from agenttts.spec import load_spec


@pytest.fixture
def lacking(scripted_spec, tmp_path, monkeypatch):
    """A sound spec of which this machine has neither model, data, runtime nor image."""
    monkeypatch.setenv("PATH", "/nonexistent")
    spec = scripted_spec(
        models__weak__path="./no-model.json",
        task__data="./no-data.jsonl",
        container__image=str(tmp_path / "no-image.sif"),
    )
    return load_spec(spec)


def test_the_problems_come_in_the_order_of_the_stages(lacking, tmp_path):
    plan = make_plan(lacking, [tmp_path], tmp_path / "results", dry_run=True)
    parts = ["no-model.json", "no-data.jsonl", "apptainer", "no-image.sif"]
    assert len(plan.problems) == len(parts)
    for problem, part in zip(plan.problems, parts, strict=True):
        assert part in problem.what
    assert plan.examples.searched == []
    assert plan.experiment.container is not None


def test_a_launch_is_refused_for_the_first_of_them(lacking, tmp_path):
    with pytest.raises(Unavailable, match=r"models\.weak\.path: .*no-model\.json"):
        make_plan(lacking, [tmp_path], tmp_path / "results")


def test_the_config_of_a_model_is_read_once(scripted_spec, tmp_path, monkeypatch):
    read: list[Path] = []
    monkeypatch.setattr(
        model_facts, "read_object", lambda file: read.append(file) or read_object(file)
    )
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps({"num_hidden_layers": 30}))
    model = {"path": str(tmp_path / "large"), "params": 7e9, "gpus": 1, "engine": "vllm"}
    plan = make_plan(load_spec(scripted_spec(models__strong=model)), [], tmp_path, dry_run=True)
    describe_plan(plan)
    assert run_record(plan).sizes["strong"].layers == 30
    assert read == [tmp_path / "large" / "config.json"]


EXECUTING = """
from agenttts.tasks.base import ExecutingStage
from agenttts.tasks.retrieval.task import RetrievalQA

class Answer(ExecutingStage, type(RetrievalQA.stages[1])):
    def execute(self, value, example, outputs, toolbox): return value

class Own(RetrievalQA):
    stages = (RetrievalQA.stages[0], Answer())
"""


@pytest.mark.parametrize("image", [{}, {"container__image": "some.sif"}])
def test_a_task_without_the_settings_of_its_toolbox_is_refused(scripted_spec, tmp_path, image):
    """Every trial was, after the samples of the stages before and of its own were drawn."""
    (tmp_path / "own.py").write_text(EXECUTING)
    spec = load_spec(scripted_spec(task__name=f"{tmp_path}/own.py:Own", **image))
    with pytest.raises(UserError, match=r":[0-9]+: task\.name: stage 'answer' is an ExecutingStage, but its task's toolbox_settings\(\) returns None; return ToolboxSettings$"):  # fmt: skip
        make_plan(spec, [tmp_path], tmp_path / "results")


@pytest.mark.parametrize("section", ["models.strong", "agent"])
def test_a_context_that_is_longer_than_the_model_is_not_launched(scripted_spec, tmp_path, section):
    (tmp_path / "large").mkdir()
    config = {"max_position_embeddings": 4096}
    (tmp_path / "large" / "config.json").write_text(json.dumps(config))
    model = {"path": str(tmp_path / "large"), "params": 7e9, "gpus": 1, "engine": "vllm"}
    own = {"kind": "serve", "model": "strong", "gpus": 1}
    with_length = own if section == "agent" else model
    with_length["options"] = {"max_model_len": 8192}
    changes = {"models__strong": model, "agent": own, "search__method": "agenttts"}
    spec = load_spec(scripted_spec(**changes))
    with pytest.raises(UserError, match=rf"{section}\.options\.max_model_len: 8192 .* 1 to 4096"):
        make_plan(spec, [], tmp_path, dry_run=True)


REFUSED = "sbatch: error: Batch job submission failed: Invalid qos specification"


def test_a_request_that_slurm_refuses_is_told_before_the_run_exists(
    scripted_spec, cli, fake, tmp_path
):
    """The controller's request and that of every number of GPUs are tried, and nothing more."""
    (tmp_path / "site.yaml").write_text(
        "kind: slurm\ngpus_per_node: 4\ncontroller: {qos: light}\ntrial: {qos: heavy}\n"
    )
    spec = scripted_spec(models__strong__gpus=2, models__weak__gpus=1)
    asked = tmp_path / "asked"
    refuse = f"case \"$*\" in *gres=gpu:2*|*gpus*=2*) echo '{REFUSED}' >&2; exit 1;; esac"
    fake("sbatch", f'echo "$@" >> {asked}; {refuse}')
    done = cli("launch", spec, "--cluster", tmp_path / "site.yaml")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert "Slurm refuses the request of the trial job (2 GPUs" in done.stderr
    assert REFUSED in done.stderr
    assert not (tmp_path / "results").exists()
    tried = asked.read_text().splitlines()
    assert ["light" in line for line in tried] == [True, False, False]
    assert all(line.startswith("--test-only ") for line in tried)
    done = cli("launch", spec, "--cluster", tmp_path / "site.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "Invalid qos specification" in " ".join(done.stdout.split())


def test_only_jobs_that_may_come_are_tried(scripted_spec, cli, fake, tmp_path):
    """A trial whose answers need two GPUs has no job without, although its retrieval may."""
    (tmp_path / "site.yaml").write_text("kind: slurm\ngpus_per_node: 4\n")
    spec = scripted_spec(
        models__strong__gpus=2, models__weak__gpus=0, stages__answer__models=["strong"]
    )
    asked = tmp_path / "asked"
    fake("sbatch", f'echo "$@" >> {asked}')
    done = cli("launch", spec, "--cluster", tmp_path / "site.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    controller, trial = asked.read_text().splitlines()
    assert "gpu" not in controller
    assert "gpus-per-node=2" in trial


@pytest.mark.parametrize(
    ("files", "style", "options", "refused"),
    [
        ({}, "chat", {}, True),
        ({}, "few_shot_chat", {"trust_remote_code": False}, True),
        ({}, "few_shot_completion", {}, False),
        ({}, "chat", {"trust_remote_code": True}, False),
        ({}, "chat", {"tokenizer": "org/chat"}, False),
        ({"chat_template.jinja": "{{ messages }}"}, "chat", {}, False),
        ({"tokenizer_config.json": '{"a": 1, "chat_template": "{{ messages }}"}'}, "chat", {}, False),
        ({"tekken.json": "{}"}, "chat", {}, False),
        ({"tokenizer_config.json": "{}"}, "chat", {}, False),
    ],
)  # fmt: skip
def test_a_model_without_a_chat_template_is_not_launched_for_chats(
    scripted_spec, tmp_path, files, style, options, refused
):
    model = tmp_path / "base"
    model.mkdir()
    for name, text in {"config.json": "{}", "tokenizer_config.json": '{"a": 1}', **files}.items():
        (model / name).write_text(text)
    section = {"path": str(model), "params": 1e9, "engine": "vllm", "prompt_style": style}
    section["options"] = options
    spec = load_spec(scripted_spec(models__strong=section))
    if not refused:
        make_plan(spec, [], tmp_path / "results", dry_run=True)
        return
    said = r"models\.strong\.prompt_style: .*base has no chat template.*few_shot_completion"
    with pytest.raises(UserError, match=said):
        make_plan(spec, [], tmp_path / "results", dry_run=True)


def test_an_option_that_changes_no_sample_is_refused_at_launch_only(scripted_spec, tmp_path):
    model = tmp_path / "base"
    model.mkdir()
    (model / "config.json").write_text("{}")
    strong = {"path": str(model), "params": 1e9, "prompt_style": "few_shot_completion"}
    strong["options"] = {"seed": 3, "override_generation_config": {"top_k": 20}}
    spec = load_spec(scripted_spec(models__strong=strong))  # a run that exists is read
    with pytest.raises(UserError, match=r"models\.strong\.options\.seed: .*set search\.seed"):
        make_plan(spec, [], tmp_path / "r", dry_run=True)
    del strong["options"]["seed"]
    spec = load_spec(scripted_spec(models__strong=strong))
    plan = make_plan(spec, [], tmp_path / "r", dry_run=True)
    assert plan.models["strong"].sampling == {"top_k": 20}
    # A launch of a run's spec goes on with the run, which may be of an earlier version.
    create_run(RunDirectory(plan.experiment.path), plan)
    strong["options"]["seed"] = 3
    make_plan(load_spec(scripted_spec(models__strong=strong)), [], tmp_path / "r", dry_run=True)


def test_a_model_whose_template_leaves_the_question_out_is_not_launched(scripted_spec, tmp_path):
    model = tmp_path / "base"
    model.mkdir()
    files = {"config.json": "{}", "model.safetensors": "w", "chat_template.jinja": "Answer:"}
    for name, text in files.items():
        (model / name).write_text(text)
    strong = {"path": str(model), "params": 1e9, "engine": "vllm", "prompt_style": "chat"}
    said = (
        r"models\.strong\.prompt_style: .*base leaves out the system message.*few_shot_completion"
    )
    with pytest.raises(UserError, match=said):
        make_plan(load_spec(scripted_spec(models__strong=strong)), [], tmp_path / "r", dry_run=True)
    strong["prompt_style"] = "few_shot_completion"
    make_plan(load_spec(scripted_spec(models__strong=strong)), [], tmp_path / "r", dry_run=True)


@pytest.mark.parametrize(
    ("weak", "refused"),
    [
        ({}, True),
        ({"prompt_style": "few_shot_chat"}, True),  # a task may have no examples to show
        ({"prompt_style": "few_shot_completion"}, False),  # no chat is a plain text
        ({"revision": "8b"}, False),
        ({"path": "other"}, False),
        ({"options": {"base_url": "http://a/v1/"}}, False),
        ({"options": {"base_url": "http://b/v1", "extra": {"top_k": 1}}}, False),
    ],
)
def test_two_servers_with_one_id_are_not_taken_for_one_model(scripted_spec, weak, refused):
    server = {"engine": "endpoint", "path": "default", "params": 1e9, "prompt_style": "chat"}
    models = {
        "models__strong": {**server, "options": {"base_url": "http://a/v1"}},
        "models__weak": {**server, "options": {"base_url": "http://b/v1"}, **weak},
    }
    spec = load_spec(scripted_spec(**models))
    if not refused:
        check_servers_differ(spec)
        return
    with pytest.raises(UserError, match=r"default is the id of '\w+' on another.*set revision"):
        check_servers_differ(spec)
    for name in ("models__strong", "models__weak"):
        models[name]["revision"] = "8b"
    check_servers_differ(load_spec(scripted_spec(**models)))


def test_samples_of_another_run_s_server_are_named(scripted_spec, tmp_path, caplog):
    """A server may have moved, so the launch goes on."""
    options = {"base_url": "http://127.0.0.1:9/v1"}
    server = {"engine": "endpoint", "path": "default", "params": 1e9, "options": options}
    store = str(tmp_path / "store")
    models = {"models__strong": server}

    def plan(name):
        spec = load_spec(scripted_spec(name=name, samples=store, **models))
        return make_plan(spec, [], tmp_path / "r", dry_run=True)

    create_run(RunDirectory(tmp_path / "r" / "first"), plan("first"))
    plan("second")
    assert caplog.messages == []
    server["options"] = {"base_url": "http://127.0.0.1:8/v1/"}
    plan("second")
    [said] = caplog.messages
    for part in (
        "models.strong",
        store,
        "may be used",
        "'first'",
        "127.0.0.1:9/v1",
        "127.0.0.1:8/v1",
        "revision",
    ):
        assert part in said
    plan("first")  # the run itself: what differs in its spec is said elsewhere
    server["revision"] = "8b"
    plan("second")
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("files", "path", "options", "said"),
    [
        (["m.gguf"], "m.gguf", {}, "GGUF.*engine: endpoint"),
        (["m.gguf", "config.json"], "", {}, "GGUF.*engine: endpoint"),
        (["m.gguf"], "m.gguf", {"load_format": "gguf"}, None),
        (["m.gguf", "config.json", "model.safetensors"], "", {}, None),
        (["adapter_config.json", "adapter_model.safetensors"], "", {}, "adapter.*merge"),
        (["adapter_config.json", "config.json", "model.safetensors"], "", {}, None),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_form_that_no_engine_loads_is_not_launched(
    scripted_spec, tmp_path, files, path, options, said, engine
):
    model = tmp_path / "model"
    model.mkdir()
    for name in files:
        (model / name).write_text("{}")
    strong = {"path": str(model / path), "params": 1e9, "engine": engine, "options": options}
    spec = load_spec(scripted_spec(models__strong=strong))
    if said is None or (engine == "transformers" and "adapter" in said):
        check_formats(spec)
        return
    with pytest.raises(UserError, match=rf"models\.strong\.path: .*{said}"):
        check_formats(spec)


def test_a_run_whose_model_has_no_chat_template_can_go_on(unstarted_run, tmp_path):
    """It was launched before launch looked, or its tokenizer's code has been taken away since."""
    model = tmp_path / "base"
    model.mkdir()
    for name, text in {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "w"}.items():  # fmt: skip
        (model / name).write_text(text)
    strong = {"path": str(model), "params": 1e9, "engine": "vllm", "prompt_style": "chat"}
    run = unstarted_run(models__strong=strong).read()
    (model / "tokenizer_config.json").write_text('{"a": 1}')
    assert "strong" in plan_of_run(run, run.spec.cluster, run.profile, dry_run=True).needs
