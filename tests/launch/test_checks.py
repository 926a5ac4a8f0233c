"""What is missing is listed in the order in which a launch would refuse it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts.dispatch.sizing import model_facts
from agenttts.errors import Unavailable
from agenttts.files.documents import read_object
from agenttts.launch.create import run_record
from agenttts.launch.description import describe_plan
from agenttts.launch.plan import make_plan
from agenttts.spec import load_spec


@pytest.fixture
def lacking(scripted_spec, tmp_path, monkeypatch):
    """A sound spec of which this machine has neither model, data, runtime nor image."""
    monkeypatch.setenv("PATH", "/nonexistent")
    spec = scripted_spec(
        models__weak__path="./no-model.json",
        task__data="./no-data.jsonl",
        container__image=str(tmp_path / "no-image.sif"),
    )
    return load_spec(spec)


def test_the_problems_come_in_the_order_of_the_stages(lacking, tmp_path):
    plan = make_plan(lacking, [tmp_path], tmp_path / "results", dry_run=True)
    parts = ["no-model.json", "no-data.jsonl", "apptainer", "no-image.sif"]
    assert len(plan.problems) == len(parts)
    for problem, part in zip(plan.problems, parts, strict=True):
        assert part in problem.what
    assert plan.examples.searched == []
    assert plan.experiment.container is not None


def test_a_launch_is_refused_for_the_first_of_them(lacking, tmp_path):
    with pytest.raises(Unavailable, match=r"models\.weak\.path: .*no-model\.json"):
        make_plan(lacking, [tmp_path], tmp_path / "results")


def test_the_config_of_a_model_is_read_once(scripted_spec, tmp_path, monkeypatch):
    read: list[Path] = []
    monkeypatch.setattr(
        model_facts, "read_object", lambda file: read.append(file) or read_object(file)
    )
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps({"num_hidden_layers": 30}))
    model = {"path": str(tmp_path / "large"), "params": 7e9, "gpus": 1, "engine": "vllm"}
    plan = make_plan(load_spec(scripted_spec(models__strong=model)), [], tmp_path, dry_run=True)
    describe_plan(plan)
    assert run_record(plan).sizes["strong"].layers == 30
    assert read == [tmp_path / "large" / "config.json"]
