"""Users' own tasks in Python: a file, a package; found, frozen, run."""

from __future__ import annotations

import json
import os

import pytest

from agenttts.errors import UserError
from agenttts.tasks import create
from agenttts.tasks.user_tasks import freeze_source, frozen_name

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
""")
    return path


def test_a_file(cli, tmp_path):
    (tmp_path / "saying.py").write_text(source())
    assert cli("launch", job(tmp_path, "./saying.py:Saying"), "--wait").returncode == 0
    run = tmp_path / "results" / "own"
    assert (run / "task" / "saying.py").read_text() == source()
    assert json.loads((run / "trials/t0000/trial.json").read_text())["task"] == f"{run}/task/saying.py:Saying"  # fmt: skip
    assert json.loads((run / "trials/t0000/result.json").read_text())["score"] == 1.0


def test_a_package_is_frozen_whole_and_the_frozen_one_is_run(cli, tmp_path):
    package = tmp_path / "lib" / "mypkg" / "deep"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("RIGHT = 'yes'\n")
    (package / "mytask.py").write_text(source("from mypkg.deep import RIGHT", "RIGHT"))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "left.pyc").write_text("")
    spec = job(tmp_path, "mypkg.deep.mytask:Saying")
    path = {"PYTHONPATH": f"{tmp_path / 'lib'}:{os.environ.get('PYTHONPATH', '')}"}
    done = cli("launch", spec, "--wait", env=path)
    assert done.returncode == 0, done.stderr
    frozen = tmp_path / "results" / "own" / "task" / "mypkg"
    assert (frozen / "deep" / "mytask.py").exists()
    assert not (frozen / "deep" / "__pycache__" / "left.pyc").exists()
    (package / "__init__.py").write_text("RIGHT = 'no'\n")
    done = cli("launch", spec, "--name", "again", "--wait", env=path)
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


def test_built_in_tasks_are_not_frozen(tmp_path):
    freeze_source("retrieval_qa", tmp_path / "task")
    assert not (tmp_path / "task").exists()
    assert frozen_name("retrieval_qa", tmp_path) == "retrieval_qa"


def test_a_package_that_is_too_large_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "hugepkg"
    package.mkdir()
    (package / "__init__.py").write_text(source())
    with (package / "weights.bin").open("wb") as stream:
        stream.truncate(21_000_000)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"hugepkg takes 21 MB.*a file or a package of its own"):
        freeze_source("hugepkg:Saying", tmp_path / "task")


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


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UserError, match=r"did you mean 'chatdev'\?.*FILE\.py:Class"):
        create("chatdv")
    with pytest.raises(UserError, match="cannot import 'no_such_pkg.x'"):
        create("no_such_pkg.x:Task")
