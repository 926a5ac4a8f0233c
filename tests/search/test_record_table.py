"""The script that records replay tables, with scripted models."""

import sys

import polars as pl
import pytest

from agenttts.replay.replay import replay
from agenttts.replay.table import load_table
from agenttts.search import create
from agenttts.spec import load_spec
from benchmarks.search import record_table


@pytest.fixture
def recorded(scripted_spec, tmp_path, monkeypatch):
    few = {"values": [1, 3]}
    spec = scripted_spec("grid", stages__retrieval__samples=few, stages__answer__samples=few)
    monkeypatch.setattr(
        sys,
        "argv",
        ["record_table.py", str(spec), "--work", str(tmp_path / "work"), "--examples", "6"],
    )
    record_table.main()
    return spec


def test_the_whole_grid_is_a_table_to_replay(recorded):
    path = recorded.with_suffix(".parquet")
    table = pl.read_parquet(path)
    space = load_spec(recorded).space()
    combinations = 1
    for stage in space.stages:
        combinations *= len(stage.models) * len(stage.samples)
    assert len(table) == combinations
    assert table["score"].n_unique() > 1
    trace = replay(load_table(path, space), space, create("agenttts", space), 6, 2)
    assert trace["score"].null_count() == 0
    # Again: nothing is computed twice, and the table is the same.
    record_table.main()
    assert pl.read_parquet(path).equals(table)
