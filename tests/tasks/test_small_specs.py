"""The small specs run with a real small language model, cut down to the least that goes through every stage."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from agenttts.spec import load_spec

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.llm
@pytest.mark.parametrize("name", ["kgqa-small", "taskbench-small"])
def test_a_small_spec_completes(cli, smollm2, tmp_path, name):
    spec = JOBS / f"{name}.yaml"
    stages = load_spec(spec).stages
    settings = ["task.examples=2", "search.iterations=0", "search.budget=24"]
    settings += [f"models.{model}.path={smollm2}" for model in ("smollm2", "gemma3")]
    settings += [f"stages.{stage}.models=[smollm2]" for stage in stages]
    settings += [f"stages.{stage}.samples=[1, 2]" for stage in stages]
    chosen = [part for setting in settings for part in ("--set", setting)]
    done = cli("launch", spec, "--wait", *chosen, timeout=800)
    assert done.returncode == 0, done.stderr
    trials = pl.read_parquet(tmp_path / "results" / name / "trials.parquet")
    assert set(trials["state"]) == {"COMPLETED"}
    assert trials["score"].is_between(0, 1).all()
    folder = tmp_path / "results" / name / "trials" / trials["trial"][0]
    rows = pl.read_parquet(folder / "examples.parquet")
    assert rows["stage"].unique().sort().to_list() == sorted(stages)
    # Something of what the model wrote was read: not every output is the empty value.
    assert set(rows["output"]) - {"[]", '""'}
