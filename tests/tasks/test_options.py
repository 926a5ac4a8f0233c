"""Options that tasks, searchers and engines declare: read once, with the place of every mistake."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agenttts import search, tasks
from agenttts.errors import UserError, WrongValues
from agenttts.inference.engines import ENGINES
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec
from agenttts.spec.endpoint import EndpointOptions
from agenttts.spec.section import Options, Section
from agenttts.tasks.base import TaskConfig

DECLARED = """\
from agenttts.tasks import Options, Task
from agenttts.tasks.base import Example
from agenttts.tasks.retrieval.task import Answer


class Mine(Options):
    {option}


class MyTask(Task):
    name, description, main_metric = "mine", "One of mine.", "answer.em"
    stages = (Answer(),)
    options_model = {declared}

    def load(self, config):
        return [Example("0", [str(config.options)])]
"""


def own(tmp_path, declared="Mine", option="words: int = 3"):
    (tmp_path / "own.py").write_text(DECLARED.format(declared=declared, option=option))
    return tasks.create(f"{tmp_path}/own.py:MyTask")


def test_a_user_s_task_declares_its_options(tmp_path):
    task = own(tmp_path)
    assert task.read_options({}).words == 3
    options = task.read_options({"words": 4})
    assert task.read_options(options) is options, "read once"
    with pytest.raises(ValidationError, match="frozen"):
        options.words = 5
    with pytest.raises(UserError, match=r"^options.word: task 'mine' has no option 'word'; valid: words; did you mean 'words'"):  # fmt: skip
        task.read_options({"word": 4})
    with pytest.raises(WrongValues) as caught:
        task.read_options({"words": "4", "x": 1})
    assert [problem.at for problem in caught.value.problems] == [
        ("options", "words"),
        ("options", "x"),
    ]


def test_a_user_s_task_that_declares_none_gets_what_is_written(tmp_path):
    assert own(tmp_path, "None").read_options({"any": [1]}) == {"any": [1]}


@pytest.mark.parametrize("declared", ["dict", "Mine()", "'Mine'"])
def test_a_declaration_of_another_kind_is_refused(tmp_path, declared):
    with pytest.raises(UserError, match="as 'options_model'; valid: a subclass of agenttts.tasks.Options"):  # fmt: skip
        own(tmp_path, declared)


def test_every_task_searcher_and_engine_of_the_package_declares_its_options():
    declared = [tasks.create(name).options_model for name in tasks.task_names()]
    declared += [searcher.options_model for searcher in search.SEARCHERS.values()]
    assert all(issubclass(model, Options) for model in declared)
    for model in [*declared, *(entry.options_model() for entry in ENGINES.values())]:
        assert issubclass(model, Section)
        required = {name for name, field in model.model_fields.items() if field.is_required()}
        assert required <= ({"base_url"} if model is EndpointOptions else set())
        assert (model.model_config["frozen"], model.model_config["extra"]) == (True, "forbid")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("task.options.shufle", {"task__options": {"shufle": True}}),
        ("search.options.initial_cp", {"search__options": {"initial_cp": 3}}),
        ("models.weak.options.seconds_per_smple", {"models__weak__options": {"seconds_per_smple": 1}}),
    ],
)  # fmt: skip
def test_a_launch_names_file_line_key_and_the_nearest_option(scripted_spec, tmp_path, key, change):
    path = scripted_spec(**change)
    name = key.rpartition(".")[2]
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if name in text)
    with pytest.raises(UserError, match="has no option .*did you mean") as caught:
        make_plan(load_spec(path), [], tmp_path / "results", dry_run=True)
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")
    assert (caught.value.file, caught.value.line, ".".join(caught.value.at)) == (
        str(path),
        line,
        key,
    )


def test_options_of_yaml_tasks_are_those_of_their_data(tmp_path):
    (tmp_path / "t.yaml").write_text(
        "name: t\ndescription: d\nmain_metric: a.exact_match\nstages:\n"
        "  a: {prompt: 'Say {{ text }}', metrics: {exact_match: text}, temperature: 0.5}\n"
    )
    task = tasks.create(f"{tmp_path}/t.yaml")
    with pytest.raises(UserError, match="options.hub_splt: task 't' has no option 'hub_splt'; .*hub_split"):  # fmt: skip
        task.load(TaskConfig("./x.jsonl", options={"hub_splt": "dev"}))
