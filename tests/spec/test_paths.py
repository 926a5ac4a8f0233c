"""Variables and ``~`` in paths of spec and profile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agenttts.dispatch.profile import frozen_profile, load_profile
from agenttts.errors import UserError
from agenttts.spec import load_spec
from agenttts.spec.load import dump_spec
from agenttts.spec.paths import (
    absolute_data,
    absolute_if_path,
    absolute_model_options,
    absolute_option,
    expanded,
    places_of_options,
)


def test_variables_and_homes_are_replaced(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("$SCRATCH/a", ("k",)) == "/scratch/me/a"
    assert expanded("${SCRATCH}_b:$SCRATCH:ro", ("k",)) == "/scratch/me_b:/scratch/me:ro"
    assert expanded("~/a", ("k",)) == "/home/me/a"
    for same in ("", "/a/b", "org/model", "a~b", "costs 5$", "$5 off", "$-x", "./a//b"):
        assert expanded(same, ("k",)) == same


@pytest.mark.parametrize(("path", "said"), [("$NO_SUCH/a", "NO_SUCH"), ("${NO_SUCH}", "NO_SUCH"), ("~nobody-here/a", "home")])  # fmt: skip
def test_what_is_not_set_is_named(monkeypatch, path, said):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(UserError, match=f"models.x.path: .*{said}"):
        expanded(path, ("models", "x", "path"))


SHELL_FORMS = ["${SCRATCH:-/scratch}", "${HOME%/}", "${#HOME}", "${!HOME}", "${5}", "${}", "${HOME", "$(pwd)", "$(hostname -s", "$((1+2))", "`pwd`", "`pwd"]  # fmt: skip


@pytest.mark.parametrize("form", SHELL_FORMS)
@pytest.mark.parametrize("path", ["{}/models/x", "/a/{}/b", "$HOME/{}", "./{}"])
def test_what_only_a_shell_replaces_is_refused_by_name(form, path):
    value = path.format(form)
    with pytest.raises(UserError) as caught:
        expanded(value, ("models", "x", "path"))
    assert str(caught.value).startswith(f"models.x.path: '{value}' holds ")
    assert "$NAME" in str(caught.value)


@given(st.text(alphabet="ab/~.:${}()`X_0 "))
def test_a_path_is_taken_or_refused_and_what_is_taken_holds_no_shell_s_form(text):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("X", "X_0", "a", "b", "ab"):
            patch.setenv(name, "/set")
        try:
            found = expanded(text, ("k",))
        except UserError as error:
            found = ""
            told = str(error)
            assert told.startswith("k: ")
    assert "${" not in found
    assert "$(" not in found
    assert "`" not in found


def test_an_empty_variable_is_named(monkeypatch):
    monkeypatch.setenv("NOTHING", "")
    with pytest.raises(UserError, match=r"models.x.path: .*NOTHING, which is empty"):
        expanded("$NOTHING/m", ("models", "x", "path"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of files, one of them a link as the hub's cache has it, and the variables and
    home that lead to it.
    """
    home = tmp_path / "home"
    (home / "set").mkdir(parents=True)
    base = tmp_path / "base"
    (base / "dir").mkdir(parents=True)
    for name in ("data.json", "a$b.csv", "t.jinja"):
        (base / name).write_text("{}")
    (tmp_path / "0123abcd").write_text("x")
    (base / "link.gguf").symlink_to(tmp_path / "0123abcd")
    (base / "linked").symlink_to(home / "set")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ORG", "Qwen")
    monkeypatch.setenv("PLACE", str(tmp_path))
    return base


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Qwen/x", "Qwen/x"),
        ("Qwen/$ORG-x", "Qwen/Qwen-x"),
        ("$ORG/model", "Qwen/model"),
        ("$PLACE/model", "{top}/model"),
        ("~/m", "{top}/home/m"),
        ("./dir", "{base}/dir"),
        ("dir/..", "{base}"),
        ("link.gguf", "{base}/link.gguf"),
        ("dir/../link.gguf", "{base}/link.gguf"),
        ("linked", "{top}/home/set"),
        ("linked/model.gguf", "{top}/home/set/model.gguf"),
        ("a$b.csv", "{base}/a$b.csv"),
        ("absent.json", "{base}/absent.json"),
        ("builtin:x", "builtin:x"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_what_may_be_a_path(place, tmp_path, value, found):
    wanted = found.format(base=place, top=tmp_path)
    assert absolute_if_path(value, place, ("k",)) == wanted
    assert absolute_if_path(wanted, tmp_path, ("k",)) == wanted, "frozen, it stays what it is"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("hf:squad", "hf:squad"),
        ("hf:$ORG/data:en@main", "hf:Qwen/data:en@main"),
        ("hf:./dir", "hf:{base}/dir"),
        ("hf:dir:en@v1", "hf:{base}/dir:en@v1"),
        ("hf:~/set", "hf:{top}/home/set"),
        ("data.json", "{base}/data.json"),
        ("$ORG/data", "Qwen/data"),
    ],
)
def test_data_of_the_hub_may_be_a_path(place, tmp_path, value, found):
    assert absolute_data(value, place, ("k",)) == found.format(base=place, top=tmp_path)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *((same, same) for same in (".*", "$5 off", "$ORGANISATION's", "~5", "...", "a/b", "absent.json", "dir", "x\n./y", "", 3, None, ["./a"], "x" * 5000)),
        ("data.json", "{base}/data.json"),
        ("./absent", "{base}/absent"),
        ("../x", "{top}/x"),
        ("~/x", "{top}/home/x"),
        ("$PLACE/x", "{top}/x"),
        ("${PLACE}", "{top}"),
    ],
)  # fmt: skip
def test_an_option_is_a_path_only_where_it_is_clear(place, tmp_path, value, found):
    wanted = found.format(base=place, top=tmp_path) if isinstance(found, str) else found
    assert absolute_option(value, place, ("k",)) == wanted


def test_engine_options_that_name_places(place, tmp_path):
    options = {
        "tokenizer": "./dir",
        "generation_config": "vllm",
        "speculative_config": {"model": "$PLACE/home", "num_speculative_tokens": 3},
        "quantization": "./awq",
    }
    found = absolute_model_options(options, place, ("models", "m", "options"))
    assert found == options | {
        "tokenizer": f"{place}/dir",
        "speculative_config": {"model": f"{tmp_path}/home", "num_speculative_tokens": 3},
    }
    assert places_of_options(found) == {
        "tokenizer": place / "dir",
        "speculative_config.model": tmp_path / "home",
    }
    with pytest.raises(UserError, match=r"models.m.options.speculative_config.model: .*NO_SUCH"):
        absolute_model_options({"speculative_config": {"model": "$NO_SUCH/x"}}, place, ("models", "m", "options"))  # fmt: skip


def test_relative_samples_and_binds_are_the_spec_s(scripted_spec, monkeypatch):
    path = scripted_spec(samples="store", container__binds=["./data:/data", "d2:/d2:ro", "/a/b", "d3"], task__options={"records_key": "small.yaml"})  # fmt: skip
    spec, base = load_spec(path), path.parent
    assert spec.samples == str(base / "store")
    assert spec.container.binds == [f"{base}/data:/data", f"{base}/d2:/d2:ro", "/a/b", f"{base}/d3"]
    assert spec.task.options == {"records_key": "small.yaml"}


PLACES = {
    "models.weak.options.tokenizer": {"models__weak__options": {"tokenizer": "$PLACE/tok"}},
    "models.weak.path": {"models__weak__path": "$PLACE/weak.json"},
    "task.data": {"task__data": "$PLACE/data.jsonl"},
    "samples": {"samples": "$PLACE/samples"},
    "container.image": {"container__image": "$PLACE/image.sif"},
    "container.binds[0]": {"container__binds": ["$PLACE/a:/a:ro"]},
    "task.options.tools": {"task__options": {"tools": "$PLACE/tools.json"}},
    "agent.model": {"agent": {"kind": "serve", "model": "$PLACE/model"}},
    "agent.replies": {"agent": {"kind": "scripted", "replies": "$PLACE/replies.json"}},
    "search.options.knowledge[0]": {"search__options": {"knowledge": ["$PLACE/a.parquet"]}},
}


@pytest.mark.parametrize(("key", "change"), PLACES.items(), ids=PLACES)
def test_every_path_of_a_spec_is_expanded_and_frozen(scripted_spec, tmp_path, monkeypatch, key, change):  # fmt: skip
    path = scripted_spec(**change)
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    text = dump_spec(load_spec(path))
    assert str(tmp_path / "place") in text
    assert "$" not in text
    monkeypatch.delenv("PLACE")
    (tmp_path / "frozen.yaml").write_text(text)
    assert dump_spec(load_spec(tmp_path / "frozen.yaml")) == text
    with pytest.raises(
        UserError, match=rf"small.yaml:\d+: {re.escape(key)}: .*PLACE, which is not set"
    ):
        load_spec(path)


@pytest.mark.parametrize(("key", "change"), PLACES.items(), ids=PLACES)
def test_no_path_of_a_spec_takes_a_shell_s_form(scripted_spec, key, change):
    text = yaml.safe_dump(change).replace("$PLACE", "${PLACE:-/here}")
    with pytest.raises(
        UserError, match=rf"small.yaml:\d+: {re.escape(key)}: .* holds \$\{{PLACE:-/here\}}"
    ):
        load_spec(scripted_spec(**yaml.safe_load(text)))


def test_a_name_with_a_dollar_sign_in_it_is_a_name(scripted_spec, tmp_path):
    (tmp_path / "a$(b)").mkdir()
    (tmp_path / "c${d").mkdir()
    spec = load_spec(scripted_spec(samples="a$(b)", container__binds=["c${d:/c"]))
    assert spec.samples == f"{tmp_path}/a$(b)"
    assert spec.container.binds == [f"{tmp_path}/c${{d:/c"]


def test_every_path_of_a_profile_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "beside").mkdir()
    (tmp_path / "here.sif").write_text("")
    path = tmp_path / "slurm" / "big.yaml"
    container = {
        "image": "here.sif",
        "binds": ["beside:/x:ro", "../here.sif", "/a:/b", "absent:/d"],
    }
    path.write_text(yaml.safe_dump({"kind": "slurm", "cache": "cc", "container": container}))
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "big", "slurm/big.yaml"):
        loaded = load_profile(name, [tmp_path])
        assert loaded.cache == f"{tmp_path}/slurm/cc", "as the paths of a spec"
        assert loaded.container.image == f"{tmp_path}/here.sif", "where the launch has it"
        assert loaded.container.binds == [f"{tmp_path}/slurm/beside:/x:ro", f"{tmp_path}/here.sif", "/a:/b", f"{tmp_path}/slurm/absent:/d"]  # fmt: skip
    frozen = tmp_path / "profile.yaml"
    frozen.write_text(yaml.safe_dump(loaded.model_dump()))
    assert frozen_profile(frozen) == loaded


@pytest.mark.parametrize("form", ["${SCRATCH:-/scratch}/x", "$(pwd)/x"])
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("cache", {"cache": "{}"}),
        ("container.image", {"container": {"image": "{}"}}),
        ("container.binds[1]", {"container": {"binds": ["/a:/b", "{}:/c"]}}),
    ],
)
def test_no_path_of_a_profile_takes_a_shell_s_form(tmp_path, form, key, change):
    path = tmp_path / "big.yaml"
    path.write_text(yaml.safe_dump({"kind": "slurm", **change}).replace("'{}'", f"'{form}'").replace("'{}:/c'", f"'{form}:/c'"))  # fmt: skip
    with pytest.raises(
        UserError, match=rf"big.yaml:\d+: {re.escape(key)}: .* no shell replaces here"
    ):
        load_profile(str(path), [])


def test_what_a_run_has_frozen_is_read_as_it_is(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump({"kind": "slurm", "cache": "/data/$HOME_x", "trial": {"exclude": "/gone/nodes.txt"}}))  # fmt: skip
    profile = frozen_profile(path)
    assert (profile.cache, profile.trial.exclude) == ("/data/$HOME_x", "/gone/nodes.txt")


def test_every_path_of_a_profile_is_expanded(tmp_path, monkeypatch):
    profile = {
        "kind": "slurm",
        "cache": "$PLACE/cache",
        "container": {"image": "${PLACE}/i.sif", "binds": ["$PLACE:/data"]},
    }
    path = tmp_path / "big.yaml"
    path.write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("PLACE", "/place")
    loaded = load_profile(str(path), [])
    assert (loaded.cache, loaded.container.image, loaded.container.binds) == ("/place/cache", "/place/i.sif", ["/place:/data"])  # fmt: skip
    monkeypatch.delenv("PLACE")
    with pytest.raises(
        UserError, match=r"big.yaml:\d+: container.image: .*PLACE, which is not set"
    ):
        load_profile(str(path), [])
    assert isinstance(Path(loaded.cache), Path)
