"""What is missing is listed in the order in which a launch would refuse it."""

from __future__ import annotations

import pytest

from agenttts.errors import Unavailable
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
