"""``--set``: every wrong path or value is one clear error that names it."""

from __future__ import annotations

import pytest
import yaml

from agenttts.spec.load import load_spec

WRONG = [
    # What is no path, or no value.
    ("", "valid is KEY.PATH=VALUE"),
    ("search", "valid is KEY.PATH=VALUE"),
    ("search.budget", "valid is KEY.PATH=VALUE"),
    ("=5", "valid is KEY.PATH=VALUE"),
    (".search=5", "valid is KEY.PATH=VALUE"),
    ("search..budget=5", "valid is KEY.PATH=VALUE"),
    ("search.=5", "valid is KEY.PATH=VALUE"),
    ("[0]=1", "valid is KEY.PATH=VALUE"),
    ("stages.answer.models[-1]=weak", "valid is KEY.PATH=VALUE"),
    ("stages.answer.models[x]=weak", "valid is KEY.PATH=VALUE"),
    ("search.budget=[1", "the value is not valid YAML"),
    ("search.budget=*x", "undefined alias"),
    ("search.budget=!!python/name:os.system", "tag"),
    ("search.options=" + "[" * 100_000, "levels deep"),
    # Nothing at the place.
    ("x[0]=1", "set x as a whole"),
    ("searhc.budget=1", "--set searhc.budget=1: searhc: unknown key"),
    ("search.budgt=1", "did you mean 'budget'"),
    ("stages.answr.models=[weak]", "--set stages.answr.models=[weak]: stages.answr.prompt_tokens"),
    ("stages.answer.models[2]=weak", "valid: stages.answer.models[0] to stages.answer.models[1]"),
    ("stages.answer.samples[99999999999999999999]=1", "holds no element"),
    ("stages.answer.models.x=weak", "holds no keys of its own"),
    ("stages.answer[0]=weak", "holds no element 0"),
    ("search.budget.x=1", "'search.budget' in"),
    ("search.budget[0]=1", "'search.budget' in"),
    # Values of another type or out of range.
    ("search.budget=", "search.budget: must be a valid number"),
    ("search.budget=much", "not 'much'"),
    ("search.budget=.nan", "finite"),
    ("search.seed=1.5", "not 1.5"),
    ("stages=3", "stages: must be a valid dictionary"),
    ("stages.answer=[1]", "stages.answer: must be a valid dictionary"),
    ("stages.answer.models=weak", "must be a valid list"),
    ("stages.answer.samples=[1, 1000000000000]", "too many"),
    ("stages.answer.samples={values: [1000000000000]}", "too many"),
    ("search.options.insights=3", "search.options.insights"),
    (
        "search.options.insights=[7]",
        "search.options.insights[0]: 7 is not valid; valid: a list of 1, 2, 3",
    ),
    ("search.options.insights=[[1]]", "search.options.insights"),
    ("search.options.initial_cap=0", "valid: 1 or more"),
    ("search.options.initial_cap=true", "search.options.initial_cap"),
    (
        "models.weak.options.seconds_per_sample=2024-01-01",
        "models.weak.options.seconds_per_sample: '2024-01-01' is not valid; valid: a number of 0 or more",
    ),
    ("agent=[]", "agent"),
]


@pytest.mark.parametrize(("setting", "said"), WRONG, ids=lambda value: value[:40])
def test_a_wrong_setting_is_one_error_that_names_it(cli, scripted_spec, setting, said):
    done = cli("launch", scripted_spec(), "--dry-run", "--set", setting)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 1000
    assert said in done.stderr
    if said.startswith("--set"):
        assert setting in done.stderr


def test_an_error_names_the_setting_and_not_the_line_it_replaces(cli, scripted_spec):
    done = cli("launch", scripted_spec(), "--dry-run", "--set", "stages.answer.samples=[1,many]")
    assert "--set stages.answer.samples=[1,many]: stages.answer.samples[1]" in done.stderr
    assert "small.yaml:" not in done.stderr


def test_a_key_that_is_set_twice_is_an_error(cli, scripted_spec):
    for twice in (
        ["--set", "search.budget=90", "--set", "search.budget=80"],
        ["--set", "name=a", "--name", "b"],
        ["--set", "cluster=local", "--cluster", "in_process"],
    ):
        done = cli("launch", scripted_spec(), "--dry-run", *twice)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "is set twice; give one of the two" in done.stderr


def test_settings_that_are_right(cli, scripted_spec):
    for setting in (
        "search.budget=1e2",
        "search.budget=1.0e2",
        "search.budget=+9.5E1",
        "stages.answer.samples[0]=2",
        "stages.answer.models=[strong]",
        "search.options={insights: [1]}",
        "search.options.insights=[]",
    ):
        done = cli("launch", scripted_spec(), "--dry-run", "--set", setting)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["qwen2.5-7b", "qwen[7b]", "a.b.c", "v1.[2].x"])
def test_a_setting_reaches_a_model_with_separators_in_its_name(scripted_spec, tmp_path, name):
    """Also beside a model whose name is its beginning."""
    scripted_spec()
    spec = yaml.safe_load((tmp_path / "small.yaml").read_text())
    model = spec["models"]["weak"]
    spec["models"] |= {name: model, name[:2].rstrip("."): model}
    spec["stages"]["answer"]["models"] = ["weak", name]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(spec))
    settings = [f"models.{name}.params=7e9", f"models.{name}.options.seconds_per_sample=0.5"]
    models = load_spec(tmp_path / "small.yaml", settings).models
    assert models[name].params == 7e9
    assert models[name].options["seconds_per_sample"] == 0.5
    assert models["weak"].params == model["params"]


def test_an_unknown_key_of_a_model_with_a_dot_in_its_name_is_one_error(
    cli, scripted_spec, tmp_path
):
    text = scripted_spec().read_text()
    (tmp_path / "small.yaml").write_text(text.replace("weak", "weak-2.5"))
    done = cli("launch", "small.yaml", "--dry-run", "--set", "models.weak-2.5.parms=1")
    assert done.returncode == 2
    assert "models.weak-2.5.parms: unknown key" in done.stderr
