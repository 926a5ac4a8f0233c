"""The table of engines agrees with the names that specs and types know."""

from __future__ import annotations

import ast
import importlib.util
import typing
from pathlib import Path

import pytest

from agenttts.inference.base import EngineName, ModelConfig
from agenttts.inference.engine_options import option_names
from agenttts.inference.engines import ENGINES
from agenttts.inference.scripted import ScriptedEngine
from agenttts.spec.model import ModelSection

every_engine = pytest.mark.parametrize("name", ENGINES)


def test_the_names_are_the_same_everywhere():
    in_specs = ModelSection.model_fields["engine"].annotation
    assert set(ENGINES) == set(typing.get_args(EngineName)) == set(typing.get_args(in_specs))


@every_engine
def test_its_class_is_where_the_table_says(name):
    module, _, wanted = ENGINES[name].home.partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    tree = ast.parse(Path(found.origin).read_text())
    assert wanted in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@every_engine
def test_it_has_options_and_says_how_it_is_installed(name):
    entry = ENGINES[name]
    names = option_names(name)
    assert "max_model_len" in names
    assert len(set(names)) == len(names)
    assert bool(entry.packages) == bool(entry.install)


def test_an_engine_without_weights_is_loaded_in_this_process(tmp_path):
    script = tmp_path / "script.json"
    script.write_text('{"default": "yes"}')
    engine = ENGINES["scripted"].load(ModelConfig("m", str(script), engine="scripted"))
    assert isinstance(engine, ScriptedEngine)
