"""Users' own tasks in Python: a file, a package; found, frozen, run."""

from __future__ import annotations

import json
import os
from importlib.machinery import PathFinder

import pytest

from agenttts.errors import AgentTTSError, UserError
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec
from agenttts.tasks import create
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.user_code import load_task
from agenttts.tasks.user_tasks import freeze_source, frozen_name, make_importable

SOURCE = """\
from agenttts.inference.base import Prompt
from agenttts.tasks.base import Example, StageDefinition, Task
{imports}

class Say(StageDefinition):
    name, temperature, description = "say", 0.5, "Say it."

    def prompt(self, example, outputs):
        return Prompt(system="", user=f"Say {{example.data}}")

    def parse(self, text, example):
        return text.strip()

    def fuse(self, candidates, example):
        return candidates[0]

    def metrics(self, output, example):
        return {{"right": float(output == {right})}}


class Saying(Task):
    name, description = "saying", "Say a word."
    stages = (Say(),)
    main_metric = "say.right"

    def load(self, config):
        return [Example(str(n), f"word {{n}}") for n in range(config.examples or 2)]
"""


def source(imports: str = "", right: str = '"yes"') -> str:
    return SOURCE.format(imports=imports, right=right)


def job(tmp_path, task: str, name: str = "own"):
    (tmp_path / "model.json").write_text(json.dumps({"default": "yes"}))
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"""
name: {name}
task: {{name: "{task}", examples: 2}}
stages: {{say: {{models: [m], prompt_tokens: 64, decode_tokens: 64, samples: [1, 2]}}}}
models: {{m: {{path: ./model.json, params: 3.0e9, engine: scripted}}}}
search: {{budget: 10, iterations: 0}}
cluster: in_process
""")
    return path


@pytest.mark.processes
def test_what_a_task_prints_is_no_part_of_the_document(cli, tmp_path):
    added = "def __init__(self):\n        print('made')\n\n    def load(self, config):\n        print('loaded')"
    text = f"print('imported')\n{source()}".replace("def load(self, config):", added)
    (tmp_path / "saying.py").write_text(text)
    done = cli("launch", job(tmp_path, "./saying.py:Saying"), "--dry-run", "--json")
    assert json.loads(done.stdout), done.stderr
    assert {"imported", "made", "loaded"} <= set(done.stderr.split())


def test_the_copy_of_a_package_that_is_read_only_can_be_removed(tmp_path, monkeypatch):
    """As one that a package manager has installed; `rm -r` of a run failed."""
    package = tmp_path / "own_read_only"
    (package / "sub").mkdir(parents=True)
    for file in (package / "__init__.py", package / "sub" / "data.txt"):
        file.write_text("")
        file.chmod(0o444)
    for folder in (package / "sub", package):
        folder.chmod(0o555)
    monkeypatch.syspath_prepend(tmp_path)
    freeze_source("own_read_only:Task", tmp_path / "frozen")
    for folder in (package, package / "sub"):
        folder.chmod(0o755)  # for pytest
    copy = tmp_path / "frozen" / "own_read_only"
    assert {path.stat().st_mode & 0o700 for path in (copy, copy / "sub")} == {0o700}


@pytest.mark.processes
def test_a_file(cli, tmp_path):
    (tmp_path / "saying.py").write_text(source())
    assert cli("launch", job(tmp_path, "./saying.py:Saying"), "--wait").returncode == 0
    run = tmp_path / "results" / "own"
    assert (run / "task" / "saying.py").read_text() == source()
    assert json.loads((run / "trials/t0000/trial.json").read_text())["task"] == f"{run}/task/saying.py:Saying"  # fmt: skip
    assert json.loads((run / "trials/t0000/result.json").read_text())["score"] == 1.0


@pytest.mark.processes
def test_a_package_is_frozen_whole_and_the_frozen_one_is_run(shell, tmp_path):
    package = tmp_path / "lib" / "mypkg" / "deep"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("RIGHT = 'yes'\n")
    (package / "mytask.py").write_text(source("from mypkg.deep import RIGHT", "RIGHT"))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "left.pyc").write_text("")
    spec = job(tmp_path, "mypkg.deep.mytask:Saying")
    path = {"PYTHONPATH": f"{tmp_path / 'lib'}:{os.environ.get('PYTHONPATH', '')}"}
    done = shell("launch", spec, "--wait", env=path)
    assert done.returncode == 0, done.stderr
    frozen = tmp_path / "results" / "own" / "task" / "mypkg"
    assert (frozen / "deep" / "mytask.py").exists()
    assert not (frozen / "deep" / "__pycache__" / "left.pyc").exists()
    (package / "__init__.py").write_text("RIGHT = 'no'\n")
    done = shell("launch", spec, "--name", "again", "--wait", env=path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results/again/trials/t0000/result.json").read_text())
    assert result["score"] == 0.0, "the second run froze the edited source"
    result = json.loads((tmp_path / "results/own/trials/t0000/result.json").read_text())
    assert result["score"] == 1.0


def test_a_frozen_file_needs_the_original_no_more(tmp_path):
    (tmp_path / "saying.py").write_text(source())
    name = f"{tmp_path}/saying.py:Saying"
    freeze_source(name, tmp_path / "task")
    (tmp_path / "saying.py").unlink()
    assert create(frozen_name(name, tmp_path / "task")).main_metric == "say.right"


@pytest.mark.parametrize(
    ("name", "importable"),
    [
        ("email.py:Saying", False),
        ("/run/task/email.py:Saying", False),
        ("code.yaml", False),
        ("code.yml", False),
        ("mypkg.mytask:Saying", True),
        ("mypkg:Saying", True),
    ],
)
def test_only_packages_are_imported_from_where_they_are_frozen(
    monkeypatch, tmp_path, name, importable
):
    monkeypatch.syspath_prepend(tmp_path / "lib")  # and what is put on the path later is removed
    (tmp_path / "frozen_beside.py").write_text("")
    make_importable(name, str(tmp_path))
    assert (PathFinder.find_spec("frozen_beside") is not None) == importable


def test_the_name_of_a_stage_may_have_a_dot(tmp_path):
    (tmp_path / "saying.py").write_text(source().replace('"say', '"say.it'))
    assert create(f"{tmp_path}/saying.py:Saying").main_metric == "say.it.right"


def test_built_in_tasks_are_not_frozen(tmp_path):
    freeze_source("retrieval_qa", tmp_path / "task")
    assert not (tmp_path / "task").exists()
    assert frozen_name("retrieval_qa", tmp_path) == "retrieval_qa"


def test_a_package_that_is_too_large_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "hugepkg"
    package.mkdir()
    (package / "__init__.py").write_text(source())
    write_large(package / "weights.bin")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"hugepkg takes more than 20 MB.*a package of its own"):
        freeze_source("hugepkg:Saying", tmp_path / "task")


def write_large(path):
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(21_000_000)


def test_what_links_of_a_package_lead_to_counts_as_large(tmp_path, monkeypatch):
    package = tmp_path / "linkedpkg"
    package.mkdir()
    (package / "__init__.py").write_text(source())
    write_large(tmp_path / "scratch" / "weights.bin")
    (package / "data").symlink_to(tmp_path / "scratch")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"linkedpkg takes more than 20 MB"):
        freeze_source("linkedpkg:Saying", tmp_path / "task")


def test_what_is_not_copied_of_a_package_does_not_count(tmp_path, monkeypatch):
    package = tmp_path / "gitpkg"
    package.mkdir()
    (package / "__init__.py").write_text(source())
    for place in (".git/pack", "__pycache__/x.bin", "left.pyc"):
        write_large(package / place)
    (package / "data").symlink_to("/nonexistent/data")
    monkeypatch.syspath_prepend(str(tmp_path))
    freeze_source("gitpkg:Saying", tmp_path / "task")
    assert [path.name for path in (tmp_path / "task" / "gitpkg").iterdir()] == ["__init__.py"]


def test_a_file_of_a_package_that_cannot_be_copied_is_named_and_leaves_no_run(
    cli, tmp_path, monkeypatch
):
    package = tmp_path / "pipepkg"
    package.mkdir()
    (package / "__init__.py").write_text(source())
    os.mkfifo(package / "pipe")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = cli("launch", job(tmp_path, "pipepkg:Saying"))
    assert done.returncode == 2
    for words in (
        "task 'pipepkg:Saying'",
        f"{package}/pipe",
        "is a named pipe",
        "move it elsewhere",
    ):
        assert words in " ".join(done.stderr.split())
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (source(), "saing.py:Saying", ["no Python file", "did you mean", "saying.py"]),
        (source(), "saying.py:Saing", ["has no 'Saing'", "did you mean 'Saying'"]),
        (source(), "saying.py:Say", ["something else than a Task"]),
        ("x = 1\nimport no_such_module_at_all\n", "saying.py:Saying", ["saying.py:2", "ModuleNotFoundError"]),
        ("x = (\n", "saying.py:Saying", ["saying.py:1", "SyntaxError"]),
        (source().replace("def load", "def laod"), "saying.py:Saying", ["does not implement load"]),
        (source().replace('    main_metric = "say.right"\n', ""), "saying.py:Saying", ["does not set main_metric"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, text, name, words):
    (tmp_path / "saying.py").write_text(text)
    with pytest.raises(UserError) as caught:
        create(f"{tmp_path}/{name}")
    for word in words:
        assert word in str(caught.value)


STAGES = "    stages = (Say(),)\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (STAGES, STAGES + "    def __init__(self, path):\n        self.path = path\n", [":24: TypeError", "'path'", "Saying()"]),
        (STAGES, STAGES + "    def __init__(self):\n        self.path = {}['p']\n", [":25: KeyError: 'p'", "called without arguments"]),
        (STAGES, STAGES + "    def __init__(self):\n        raise SystemExit(3)\n", [":25: SystemExit: 3"]),
        (STAGES, "    stages = ['x']\n", [":21: Saying has 'x' (str) in 'stages'", "valid: StageDefinition objects"]),
        (STAGES, "    stages = (Say,)\n", ["in 'stages'", "write Say(), not the class"]),
        (STAGES, "    stages = ()\n", [":21: Saying has () (tuple) as 'stages'"]),
        (STAGES, "    stages = (Say(), Say())\n", [":21: Saying has two stages called 'say'"]),
        (STAGES, "", [":21: Saying does not set stages"]),
        ('description = "say", 0.5,', 'description = "say", "hot",', [":5: Say has 'hot' (str) as 'temperature'", "number of 0 or more"]),
        ('    name, temperature, description = "say", 0.5, "Say it."\n', "", [":5: Say does not set name, temperature, description"]),
        ('main_metric = "say.right"', 'main_metric = "sy.right"', [":21: Saying has 'sy.right' as 'main_metric'", "say.METRIC"]),
        ('main_metric = "say.right"', 'main_metric = "say"', [":21: Saying has 'say' as 'main_metric'"]),
        ('main_metric = "say.right"', "main_metric = None", [":21: Saying has None as 'main_metric'"]),
    ],
)  # fmt: skip
def test_a_task_that_is_not_whole(tmp_path, old, new, words):
    assert old in source()
    (tmp_path / "saying.py").write_text(source().replace(old, new))
    with pytest.raises(UserError) as caught:
        create(f"{tmp_path}/saying.py:Saying")
    for word in ("saying.py:", *words):
        assert word in str(caught.value)


def test_a_task_may_set_its_stages_when_it_is_made(tmp_path):
    text = source().replace(STAGES, "    def __init__(self):\n        self.stages = [Say()]\n")
    (tmp_path / "saying.py").write_text(text)
    assert create(f"{tmp_path}/saying.py:Saying").stage("say").name == "say"


LOAD = '[Example(str(n), f"word {n}") for n in range(config.examples or 2)]'


def loaded(tmp_path, given):
    assert LOAD in source()
    (tmp_path / "saying.py").write_text(source().replace(LOAD, given))
    return load_task(create(f"{tmp_path}/saying.py:Saying"), TaskConfig(""))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{}['file']", [":27: KeyError: 'file'", "UserError"]),
        ("__import__('sys').exit(3)", [":27: SystemExit: 3"]),
        ("__import__('json').loads('{')", [":27: JSONDecodeError"]),
        ("None", [":26: load() returns None", "a list of Example"]),
        ("[]", [":26: load() returns no examples"]),
        ("['a']", [":26: load() returns 'a' (str) in its list"]),
        ("[Example(1, 'a')]", [":26: load() returns an example whose id is 1 (int)"]),
        ("[Example('a', {1, 2})]", [":26: load() returns data of example 'a' that JSON cannot represent", "set"]),
        ("[Example('a', 1), Example('b', 1), Example('a', 2)]", ["two examples with the id 'a'"]),
    ],
)  # fmt: skip
def test_a_load_that_is_wrong(tmp_path, given, words):
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, given)
    for word in ("saying.py:", *words):
        assert word in str(caught.value)


def test_a_tasks_own_errors_are_passed_on_as_they_are(tmp_path):
    own = "__import__('agenttts.errors').errors"
    for kind in ("UserError('no data')", "MissingRequirement('no data', fix='fetch')"):
        with pytest.raises(AgentTTSError, match=r"^no data") as caught:
            loaded(tmp_path, f"(_ for _ in ()).throw({own}.{kind})")
        assert type(caught.value).__name__ == kind.partition("(")[0]


def test_half_a_character_in_an_example_becomes_a_question_mark(tmp_path):
    [found] = loaded(tmp_path, r"[Example('a\ud83d', {'b': ['\udc00']})]")
    assert found == Example("a?", {"b": ["?"]})


def test_a_module_that_ends_the_program_when_it_is_imported(cli, tmp_path, monkeypatch):
    (tmp_path / "saying.py").write_text("import sys\nsys.exit(3)\n")
    done = cli("launch", job(tmp_path, "./saying.py:Saying"), "--dry-run")
    assert done.returncode == 2
    assert "SystemExit: 3" in done.stderr
    package = tmp_path / "exitingpkg"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\nimport sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"exitingpkg/__init__\.py:3: SystemExit: 3"):
        create("exitingpkg:Saying")


def test_a_wrong_load_is_one_message_of_launch(cli, tmp_path):
    (tmp_path / "saying.py").write_text(source().replace(LOAD, "{}['file']"))
    done = cli("launch", job(tmp_path, "./saying.py:Saying"), "--dry-run")
    assert done.returncode == 2
    assert "KeyError" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match=r"did you mean 'chatdev'\?.*FILE\.py:Class"):
        create("chatdv")
    with pytest.raises(UserError, match="cannot import 'no_such_pkg.x'"):
        create("no_such_pkg.x:Task")


def test_the_final_test_has_no_example_of_the_search_whatever_the_task_draws(tmp_path):
    """More examples need not be the fewer ones and further ones."""
    draws = """random.Random(config.examples).sample(range(12), config.examples or 12)"""
    text = source("import random").replace("range(config.examples or 2)", draws)
    (tmp_path / "saying.py").write_text(text)
    more = ["search.finalists={examples: 5}", "search.test_split={split: search}"]
    examples = make_plan(
        load_spec(job(tmp_path, "./saying.py:Saying"), more), [], tmp_path / "results"
    ).examples
    searched, finalists, test = (
        {example.id for example in found or ()}
        for found in (examples.searched, examples.finalists, examples.test)
    )
    assert (len(searched), len(finalists)) == (2, 5)
    assert searched - finalists, "the task draws others"
    assert test == {str(n) for n in range(12)} - searched - finalists
