"""The script that records replay tables, with scripted models."""

import json
import sys

import polars as pl
import pytest

from agenttts import tasks
from agenttts.inference.base import EngineError
from agenttts.replay.replay import replay
from agenttts.replay.table import load_table
from agenttts.search import create
from agenttts.search.fidelity import Fidelity
from agenttts.spec import load_spec
from benchmarks.search import record_table

STAGES = ("retrieval", "answer")


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


def test_the_whole_grid_is_a_table_to_replay(recorded, tmp_path):
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
    results = sorted(tmp_path.glob("work/grid/trials/*/result.json"))
    before = [result.stat().st_mtime_ns for result in results]
    record_table.main()
    assert [result.stat().st_mtime_ns for result in results] == before
    assert len(before) == len(table)
    assert pl.read_parquet(path).equals(table)


def test_every_row_has_the_scores_by_example_in_the_order_of_the_frozen_examples(
    recorded, tmp_path
):
    work = tmp_path / "work" / "grid"
    order = [json.loads(line)["id"] for line in (work / "examples.jsonl").read_text().splitlines()]
    table = pl.read_parquet(recorded.with_suffix(".parquet"))
    assert table["examples"].list.len().to_list() == [6] * len(table)
    assert table["examples"].list.mean().to_list() == pytest.approx(table["score"].to_list())
    assert table["stderr"].to_list() == pytest.approx(
        [scores.std() / 6**0.5 for scores in table["examples"]]
    )
    assert any(scores != sorted(scores) for scores in table["examples"].to_list())
    stage, metric = tasks.create("retrieval_qa").main_metric.split(".")
    for row in table.iter_rows(named=True):
        name = "_".join(f"{row[f'{s}.model']}x{row[f'{s}.samples']}" for s in STAGES)
        trial = pl.read_parquet(work / "trials" / name / "examples.parquet")
        # As a job may write them in another order, they are found by their ids.
        for position, example in enumerate(order):
            [found] = trial.filter(stage=stage, example=example)["metrics"].struct.field(metric)
            assert row["examples"][position] == found


def test_the_scores_by_example_are_read_by_a_replay_on_parts_of_the_examples(recorded):
    space = load_spec(recorded).space()
    table = load_table(recorded.with_suffix(".parquet"), space)
    searcher = create("agenttts", space)
    searcher.fidelity = Fidelity(2, 6, table.example_count)
    trace = replay(table, space, searcher, None, 2, evaluations=20, stored=True)
    assert set(trace["examples"]) == {2}
    assert trace["evaluations"][-1] == 20


def test_trials_on_other_examples_are_not_mixed_into_a_table(recorded, monkeypatch):
    before = recorded.with_suffix(".parquet").read_bytes()
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "5"])
    with pytest.raises(SystemExit, match="trials on other examples than the spec's; valid: anoth"):
        record_table.main()
    assert recorded.with_suffix(".parquet").read_bytes() == before


def test_trials_without_their_frozen_examples_are_not_mixed_into_a_table(recorded, tmp_path):
    (tmp_path / "work" / "grid" / "examples.jsonl").unlink()
    with pytest.raises(SystemExit, match="trials on other examples than the spec's; valid: anoth"):
        record_table.main()


def test_a_failed_trial_ends_the_recording_without_a_table(recorded, monkeypatch, tmp_path, capsys):
    table = recorded.with_suffix(".parquet")
    table.unlink()
    next(tmp_path.glob("work/grid/trials/*/COMPLETED.json")).unlink()
    monkeypatch.setattr(record_table, "create_engine", broken_engine)
    for shard in tmp_path.glob("work/grid/samples/*"):
        shard.unlink()
    with pytest.raises(SystemExit, match="a trial failed"):
        record_table.main()
    assert not table.exists()
    assert "no such model" in capsys.readouterr().err


def broken_engine(config):
    raise EngineError("no such model")
