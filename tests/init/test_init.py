"""``init`` as a user has it: what it writes loads, plans and runs unchanged."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from agenttts.dispatch.drafted_profile import GpuHere, local_profile
from agenttts.dispatch.profile import Profile, load_profile
from agenttts.errors import UserError
from agenttts.init.models import user_models
from agenttts.spec import load_spec, load_strict
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.declarative.task import load_declarative

HOUSES = [
    {"question": f"Who lives in house {n}?", "context": [f"House {n} belongs to Ann {n}.", "It rains."], "answer": f"Ann {n}"}
    for n in range(24)
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch):
    """This machine may have Slurm's commands without a cluster, or with one."""
    monkeypatch.setattr("agenttts.dispatch.slurm.survey.here", lambda: False)


@pytest.fixture
def houses(tmp_path):
    path = tmp_path / "houses.jsonl"
    path.write_text("\n".join(map(json.dumps, HOUSES)))
    return path


def test_from_a_data_file_to_a_finished_search(cli, houses, tmp_path):
    done = cli("init", houses.name)
    assert done.returncode == 0, done.stderr
    assert "stage 'answer' is called 'answer_stage'" in done.stdout
    spec = load_spec(tmp_path / "houses.yaml")
    assert list(spec.stages) == ["retrieve", "answer_stage"]
    space = spec.space()
    assert space.stage("answer_stage").budget("large", 16) <= space.budget
    assert f"{space.count():,} allocations cost at most" in (tmp_path / "houses.yaml").read_text()
    small = ("search.iterations=0", "task.examples=4", "cluster=in_process")
    done = cli("launch", "houses.yaml", "--wait", *(w for s in small for w in ("--set", s)))
    assert done.returncode == 0, done.stderr
    trials = pl.read_parquet(tmp_path / "results" / "houses" / "trials.parquet")
    assert trials["state"].unique().to_list() == ["COMPLETED"]
    assert trials["score"].max() > 0, "the stand-ins know the answers"


def test_a_copied_sentence_stays_whole(cli, houses, tmp_path):
    assert cli("init", houses.name).returncode == 0
    task = load_declarative(str(tmp_path / "houses-task.yaml"))
    [example] = task.load(TaskConfig(data=str(houses), examples=1))
    retrieve, _ = task.stages
    texts = "In May, Ann moved to Paris, France.", "- It rained, then.\n- In May, Ann moved to Paris, France."  # fmt: skip
    fused = retrieve.fuse([retrieve.parse(text, example) for text in texts], example)
    assert fused == ["In May, Ann moved to Paris, France.", "It rained, then."]


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ([{"role": "user", "content": 'Who\'s in "{n}"?'}], 'Question:\nWho\'s in "3"?\n'),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who? {n}"}],
            "Question:\nBe brief.\nWho? 3\n",
        ),
        ({"stem": "Who's in {n}?"}, 'Question: {"stem": "Who\'s in 3?"}'),
        (["Who's in {n}?", 1], 'Question: ["Who\'s in 3?", 1]'),
    ],
)
def test_a_question_that_is_no_text_is_shown_as_messages_or_json(cli, tmp_path, question, shown):
    """As in CommonsenseQA's files and in chats; the prompts had Python's form of the object."""
    texts = (json.dumps(question).replace("{n}", str(n)) for n in range(24))
    records = [{"question": json.loads(text), "answer": f"Ann {n}"} for n, text in enumerate(texts)]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, records)))
    done = cli("init", "asked.jsonl", "--cluster", "in_process", "--stages", "plan,reply")
    assert done.returncode == 0, done.stderr
    is_chat = shown.startswith("Question:\n")
    assert ("holds objects or lists, and the prompts show" in done.stdout) is not is_chat
    task = load_declarative(str(tmp_path / "asked-task.yaml"))
    [example] = [
        e
        for e in task.load(TaskConfig(data=str(tmp_path / "asked.jsonl")))
        if e.data["answer"] == "Ann 3"
    ]
    for stage in task.stages:
        assert shown.strip() in stage.prompt(example, {"plan": ""}).user
    small = ("search.iterations=0", "task.examples=4")
    done = cli("launch", "asked.yaml", "--wait", *(w for s in small for w in ("--set", s)))
    assert done.returncode == 0, done.stderr
    trials = pl.read_parquet(tmp_path / "results" / "asked" / "trials.parquet")
    assert trials["score"].max() > 0, "the stand-ins find their questions"


def test_nothing_is_overwritten_without_force(cli, houses, tmp_path):
    (tmp_path / "houses-task.yaml").write_text("mine")
    done = cli("init", houses.name)
    assert (done.returncode, "houses-task.yaml exists already, and nothing was written" in done.stderr) == (2, True)  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["houses-task.yaml", "houses.jsonl"]
    assert cli("init", houses.name, "--force").returncode == 0
    assert load_declarative(str(tmp_path / "houses-task.yaml")).name == "houses"


@pytest.mark.parametrize(("data", "name"), [("mine.yaml", "mine"), ("d.json", "d")])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_data_are_never_overwritten(cli, houses, tmp_path, data, name, force):
    """By the file of their own name, or by one that a link leads to."""
    (tmp_path / data).write_text(houses.read_text())
    if data != f"{name}.yaml":
        (tmp_path / f"{name}.yaml").symlink_to(data)
    before = sorted(tmp_path.rglob("*"))
    done = cli("init", data, *force)
    assert done.returncode == 2
    assert f"{name}.yaml would replace the data file itself, and nothing was written" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["slurm", "jobs/houses-models", "jobs/houses.yaml"])
@pytest.mark.parametrize("kind", ["file", "closed", "link"])
def test_all_files_are_written_or_none(cli, houses, tmp_path, monkeypatch, name, kind):
    """Whichever place is in the way; what root may write is not asked here."""
    for folder in ("slurm", "jobs", "jobs/houses-models"):
        (tmp_path / folder).mkdir()
    place = tmp_path / name
    if place.is_dir():
        shutil.rmtree(place)
    if kind == "closed" or name.endswith(".yaml"):
        place.mkdir()
        may = os.access
        closed = lambda path, mode: str(path) != str(place) and may(path, mode)  # noqa: E731
        monkeypatch.setattr("agenttts.init.writing.os.access", closed)
    elif kind == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = cli("init", houses.name, "--out", "jobs", "--force")
    assert (done.returncode, "nothing was written" in done.stderr) == (2, True), done.stderr
    assert str(name) in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_profile_that_is_there_is_used(cli, houses, tmp_path):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "mine.yaml").write_text("{kind: local, max_running: 3}")
    assert (
        "slurm/mine.yaml exists and is used" in cli("init", houses.name, "--cluster", "mine").stdout
    )
    done = cli("init", houses.name, "--cluster", "mine", "--force", "--json")
    document = json.loads(done.stdout)
    assert document["kept"] == ["slurm/mine.yaml"]
    assert load_spec(tmp_path / "houses.yaml").cluster == "mine"
    done = cli("init", "--cluster", "mine")
    assert (done.returncode, "slurm/mine.yaml exists already" in done.stderr) == (2, True)


@pytest.mark.parametrize("slurm", [False, True])
@pytest.mark.parametrize("name", ["in_process", "local"])
def test_a_built_in_profile_keeps_its_kind(cli, houses, tmp_path, monkeypatch, name, slurm):
    """Whatever is on this machine: a spec that names it runs where it did before."""
    monkeypatch.setattr("agenttts.dispatch.slurm.survey.here", lambda: slurm)
    kind = load_profile(name, [tmp_path]).kind
    done = cli("init", houses.name, "--cluster", name, "--json")
    assert done.returncode == 0, done.stderr
    assert load_profile(load_spec(tmp_path / "houses.yaml").cluster, [tmp_path]).kind == kind
    assert (json.loads(done.stdout)["profile"] is None) == (name == "in_process")
    done = cli("init", "--cluster", name, "--force")
    if name == "in_process":
        assert (done.returncode, "is built in and needs no file" in done.stderr) == (2, True)
    assert load_profile(name, [tmp_path]).kind == kind


@pytest.mark.parametrize("out", [None, "it's", "my exp/jobs"])
@pytest.mark.parametrize("data", [True, False])
def test_the_next_commands_run_as_they_are_shown(cli, houses, tmp_path, out, data):
    if out is not None:
        (tmp_path / out).mkdir(parents=True)
    options = [*(["--out", out] if out else []), "--cluster", "mine"]
    done = cli("init", *([houses.name] if data else []), *options, "--json")
    shown = json.loads(done.stdout)
    commands = [shlex.split(command)[1:] for command in shown["next"]]
    if data:
        [told] = [c for c in (tmp_path / shown["spec"]).read_text().splitlines() if "dry-run" in c]
        assert shlex.split(told.removeprefix("#"))[1:] == commands[1]
        assert commands.pop()[2] == "--wait"
    for command in commands:
        done = cli(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert command[0] == "doctor" or "mine" in done.stdout


def test_specs_go_to_jobs_where_there_is_such_a_folder(cli, houses, tmp_path):
    (tmp_path / "jobs").mkdir()
    document = json.loads(cli("init", houses.name, "--name", "mine", "--json").stdout)
    assert document["spec"] == "jobs/mine.yaml"
    assert document["profile"] == "slurm/local.yaml"
    assert cli("launch", "jobs/mine.yaml", "--dry-run").returncode == 0


def test_models_and_stages_of_the_user(cli, houses, tmp_path):
    (tmp_path / "Tiny-135M").mkdir()
    done = cli("init", houses.name, "--stages", "pick,think,say", "--model", "big=Qwen/Qwen2.5-7B-Instruct", "--model", "tiny=Tiny-135M")  # fmt: skip
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "houses.yaml")
    assert list(spec.stages) == ["pick", "think", "say"]
    models = {name: (model.path, model.params, model.engine) for name, model in spec.models.items()}
    assert models == {
        "tiny": (str(tmp_path / "Tiny-135M"), 135e6, "vllm"),
        "big": ("Qwen/Qwen2.5-7B-Instruct", 7e9, "vllm"),
    }


def test_every_kind_of_file(cli, tmp_path):
    rows = [{"problem": f"What is {n}+{n}?", "solution": 2 * n} for n in range(1, 13)]
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text(json.dumps({"data": rows}))
    with (tmp_path / "c.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("a.parquet", "b.json", "c.csv"):
        done = cli("init", name)
        assert done.returncode == 0, done.stderr
        task = load_declarative(str(tmp_path / f"{name[0]}-task.yaml"))
        assert task.main_metric == "answer.number"


# Odd values in every field that a task uses: texts that look like YAML or Jinja, nested contexts.
ODD = {
    "options": {"question": "Which: {{ x }}?", "choices": ["a: b", "# c"], "answer": "# c"},
    "letters": {"question": "Which?", "choices": ["red", "blue"], "answer": "B"},
    "numbered": {"question": "Which?", "choices": ["red", "blue"], "answer": 1},
    "hotpot": {"question": "Who?", "context": [["Ann", ["She lives.", "Here."]]], "answer": "Ann"},
    "objects": {"question": "Who?", "context": {"a": [1, 2]}, "answer": "Ann"},
    "long": {"question": "Why?", "output": "because of this and of that, and for ten more reasons"},
    "aliases": {"question": "Who?", "answer": {"value": "Ann", "aliases": ["A."]}},
    "lists": {"question": "Who all?", "labels": ["Ann", "Bob: x"]},
    "dashes - : {}": {"question": "- yes: [no", "answer": "no: \ufeff&"},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_give_files_that_load(cli, tmp_path, name):
    (tmp_path / f"{name}.json").write_text(json.dumps([{**ODD[name], "id": str(n)} for n in range(3)]))  # fmt: skip
    document = json.loads(cli("init", f"{name}.json", "--json").stdout)
    assert load_spec(tmp_path / document["spec"]).space().count(10) == 10
    assert cli("launch", document["spec"], "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no terminal to ask on; give 'agenttts-hpc init DATA'"),
        (("none.jsonl",), "data file none.jsonl does not exist"),
        (("--cluster", "x", "--stages", "a,b"), "without DATA only a profile is written, and --stages would"),
        (("--cluster", "x", "--name", "n", "--model", "m=a/b", "--options", "o"), "and --name, --model, --options would have no effect"),
        (("houses.jsonl", "--name", "a b"), "--name a b: not a valid run name"),
        (("houses.jsonl", "--cluster", "a/b"), "--cluster a/b: not a valid name of a profile"),
        (("houses.jsonl", "--stages", "a,a"), "--stages: each stage needs a name of its own"),
        (("houses.jsonl", "--stages", "pick it"), "'pick it' is not a valid name of a stage"),
        (("houses.jsonl", "--model", "x"), "--model x: valid is NAME=PATH"),
        (("houses.jsonl", "--model", "x=./none"), "./none does not exist; valid: a model's directory, or a hub id"),
        (("houses.jsonl", "--model", "x=a/b"), "add it: --model x=a/b:7B"),
        (("houses.jsonl", "--model", "x=a/b-7B", "--model", "x=a/c-7B"), "--model: 'x' is given twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_written(cli, houses, tmp_path, arguments, message):
    done = cli("init", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["houses.jsonl"]


@pytest.fixture
def answers(monkeypatch):
    """Answer questions on a terminal; all must be asked, in this order, none in the output."""
    left: list[str] = []

    def answer(text, *, err, **options):
        assert err, "a question is no part of a document"
        return left.pop(0)

    monkeypatch.setattr("agenttts.cli.questions.sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.prompt", answer)
    yield left.extend
    assert left == []


def test_questions_on_a_terminal(cli, houses, tmp_path, answers):
    (tmp_path / "notes.txt").write_text("x")
    answers(["local", "none.jsonl", ".", "notes.txt", "houses.jsonl", "question", "answer"])
    answers(["find,say", "m=a/b", "m=a/b-3B", ""])
    done = cli("init", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"] == "houses.yaml"
    for again in ("data file none.jsonl does not exist", ". is a directory", "notes.txt: unknown kind", "add it: --model m=a/b:7B"):  # fmt: skip
        assert again in done.stderr
    spec = load_spec(tmp_path / "houses.yaml")
    assert (list(spec.stages), spec.models["m"].params) == (["find", "say"], 3e9)


def test_what_options_say_is_not_asked_for(cli, houses, tmp_path, answers):
    answers(["local", "houses.jsonl", "question", "answer"])
    done = cli("init", "--stages", "find,say", "--model", "m=a/b-3B", "--name", "mine")
    assert done.returncode == 0, done.stderr
    spec = load_spec(tmp_path / "mine.yaml")
    assert (list(spec.stages), list(spec.models)) == (["find", "say"], ["m"])


def test_on_a_terminal_a_profile_alone(cli, tmp_path, answers):
    answers(["here", ""])
    assert cli("init").returncode == 0
    assert [path.name for path in (tmp_path / "slurm").iterdir()] == ["here.yaml"]


SUMS = [{"id": str(n), "question": f"{n}+{n}?", "answer": 2 * n} for n in range(24)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"id": "3", "question": "again", "answer": 1}, "id '3' is also the id of"),
        ({"id": "x", "question": "late", "answer": "n/a"}, "must be a number"),
        ({"id": "x", "question": "none"}, "field 'answer' is missing"),
        ("{damaged", "not a JSON object"),
    ],
)
def test_bad_records_are_skipped_whoever_finds_them(cli, tmp_path, monkeypatch, bad, reason):
    monkeypatch.setattr("agenttts.init.fields._LOOKED_AT", 12)  # none of the bad ones
    lines = [json.dumps(row) for row in SUMS]
    lines += 2 * [bad if isinstance(bad, str) else json.dumps(bad)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    done = cli("init", "sums.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    [note] = [n for n in json.loads(done.stdout)["notes"] if "skip_bad" in n]
    assert note.startswith("2 records cannot be used and will be skipped (skip_bad): ")
    assert reason in note
    assert load_spec(tmp_path / "sums.yaml").task.skip_bad == 2
    assert cli("launch", "sums.yaml", "--dry-run").returncode == 0


@pytest.mark.parametrize("extra", [[], ["hypothesis"], ["hypothesis", "my source", "not", "a\x07"]])
def test_fields_that_no_prompt_shows_are_named(cli, tmp_path, extra):
    rows = [{**row, "_id": row["id"], **dict.fromkeys(extra, "x")} for row in SUMS]
    (tmp_path / "sums.json").write_text(json.dumps(rows))
    done = cli("init", "sums.json", "--json")
    assert done.returncode == 0, done.stderr
    told = [n for n in json.loads(done.stdout)["notes"] if "do not show" in n]
    assert [n.partition(";")[0] for n in told] == [f"the prompts do not show {', '.join(extra)}"] * bool(extra)  # fmt: skip
    text = " ".join((tmp_path / "sums-task.yaml").read_text().replace("#", "").split())
    assert ("Fields that it does not use: hypothesis. " in text) == bool(extra)
    assert ("does not use" in text) == bool(extra)


def test_data_of_which_most_is_bad_are_refused(cli, tmp_path):
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps({**row, "id": "1"}) for row in SUMS))
    done = cli("init", "sums.jsonl")
    assert (done.returncode, "id '1' is also the id of" in done.stderr) == (2, True)
    assert "(bad records: 23 of 24); the drafted task cannot use most records" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sums.jsonl"]
    # What the message advises, where the id is a group's.
    assert "if all records of a group have its id, rename the field" in done.stderr
    path = tmp_path / "sums.jsonl"
    path.write_text(path.read_text().replace('"id"', '"group"'))
    assert cli("init", "sums.jsonl").returncode == 0
    assert load_spec(tmp_path / "sums.yaml").task.skip_bad == 0


@pytest.mark.parametrize(
    ("text", "params"),
    [("a=x/Llama-3.1-8B-Instruct", 8e9), ("a=x/smollm2-135m", 135e6), ("qwen-0.5b=x/y", 0.5e9), ("a=x/y:7B", 7e9), ("a=x/y:7.6e9", 7.6e9),
     ("a=x/internlm2_5-1_8b-chat", 1.8e9), ("a=x/Qwen-1_8B", 1.8e9), ("1_8b=x/y", 1.8e9), ("a=x/internlm2_5-7b", 7e9),
     ("a=x/llama-3_8b", 8e9), ("a=x/model_1_7b", 7e9), ("a=x/v-1_135m", 135e6)],
)  # fmt: skip
def test_the_size_of_a_model(text, params):
    [model] = user_models([text])
    assert model.params == params


@pytest.mark.parametrize("given", ["a=x/y:0", "a=x/y:0.0B", "a=x/tiny-0b", "a={}/empty"])
def test_a_model_without_parameters_is_refused(given, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"--model a=.*: the number of parameters is 0 \("):
        user_models([given.format(tmp_path)])


@pytest.mark.parametrize("revision", ["7b12c0", "57b9e4a", "7b", "0.5b", "abc12m"])
def test_a_hash_of_the_hubs_cache_is_no_size(tmp_path, revision):
    for model, params in (("Qwen2.5-3B-Instruct", 3e9), ("phi", 1e6)):
        place = tmp_path / f"models--org--{model}" / "snapshots" / revision
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(bytes(2_000_000))
        [found] = user_models([f"a={place}"])
        assert (found.path, found.params) == (str(place), params)
    (tmp_path / f"phi-{revision}c").mkdir()
    with pytest.raises(UserError, match="the number of parameters is not known"):
        user_models([f"a={tmp_path}/phi-{revision}c"])


def test_the_size_of_a_model_from_its_weights(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(2_000_000))
    [model] = user_models([f"a={tmp_path / 'model'}"])
    assert (model.params, model.why) == (1e6, "from the size of the weights")


QWEN = {"vocab_size": 152064, "hidden_size": 3584, "torch_dtype": "float16"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
FP8 = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8}}}}


@pytest.mark.parametrize(
    ("config", "size", "params"),
    [
        (QWEN | {"quantization_config": AWQ}, 5.57e9, 7.5e9),  # Qwen2.5-7B: 7.6e9 parameters
        (QWEN | {"quantization_config": FP8}, 8.71e9, 7.6e9),
        (QWEN | {"quantization_config": AWQ | {"bits": 8, "quant_method": "gptq"}}, 8.9e9, 7.8e9),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, 3e9, 3e9),
        ({"torch_dtype": "float32"}, 4e9, 1e9),
        ({"text_config": {"dtype": "float32"}}, 4e9, 1e9),
    ],
)
def test_the_size_of_a_quantised_model_counts_the_bits_of_its_weights(
    tmp_path, config, size, params
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for shard in ("model-1", "model-2"):
        with (tmp_path / f"{shard}.safetensors").open("wb") as stream:
            stream.truncate(int(size / 2))
    assert [model.params for model in user_models([f"a={tmp_path}"])] == [params]


def test_a_size_that_the_files_do_not_tell_is_asked_for(tmp_path):
    (tmp_path / "a.gguf").write_bytes(bytes(100))
    model = model_directory(tmp_path, "model")
    (model / "config.json").write_text('{"quantization_config": {"quant_method": "new"}}')
    for place in (tmp_path / "a.gguf", model):
        with pytest.raises(UserError, match=r"the number of parameters is not known.*:7B"):
            user_models([f"a={place}"])


def test_a_profile_of_a_machine_with_gpus():
    text = local_profile("here", [GpuHere("NVIDIA H100", 85.5), GpuHere("NVIDIA A100", 42.9)])
    profile = load_strict(Profile, text, "x")
    assert (profile.kind, profile.gpus_per_node, profile.gpu_memory_gb) == ("local", 2, 43)
    assert "NVIDIA A100, NVIDIA H100" in text
    assert yaml.safe_load(text)["max_running"] == 1


def model_directory(folder: Path, name: str, **tokenizer: object) -> Path:
    """A model's directory as far as `init` and a plan read it."""
    path = folder / name
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64, **tokenizer}))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_small_models_and_base_models_get_a_budget_and_prompts_that_fit(houses, tmp_path, cli):
    chat = model_directory(tmp_path, "chat-135m", chat_template="{{ messages }}")
    base = model_directory(tmp_path, "base-270m")
    models = ("--model", f"small={chat}", "--model", f"large={base}")
    done = cli("init", houses.name, *models)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "houses.yaml").read_text()
    spec = load_spec(tmp_path / "houses.yaml")
    styles = {name: model.prompt_style for name, model in spec.models.items()}
    assert styles == {"small": "chat", "large": "few_shot_completion"}
    assert "it has no chat template" in text
    assert "params is 10 times their size" in text
    assert spec.models["small"].params == 1.35e9
    space = spec.space()
    assert space.count() < 2 * 32 * 2 * 32, "the budget tells allocations apart"


@pytest.mark.parametrize("large", ["org/base-270m", "{}/quantised-270m"])
def test_the_size_of_a_model_that_its_files_do_not_tell_is_not_scaled(houses, tmp_path, cli, large):
    """Sizes and forecasts follow from it."""
    chat = model_directory(tmp_path, "chat-135m", chat_template="{{ messages }}")
    quantised = model_directory(tmp_path, "quantised-270m", chat_template="{{ messages }}")
    (quantised / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    models = ("--model", f"small={chat}", "--model", f"large={large.format(tmp_path)}")
    done = cli("init", houses.name, *models)
    assert done.returncode == 0, done.stderr
    models = load_spec(tmp_path / "houses.yaml").models
    assert [models["small"].params, models["large"].params] == [135e6, 270e6]
    text = " ".join((tmp_path / "houses.yaml").read_text().replace("#", "").split())
    assert "init scales params of directories alone" in text
