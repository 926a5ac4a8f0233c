"""The task of the demo, on the data that it is run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttts import tasks
from agenttts.spec import load_spec
from agenttts.tasks.base import Example, TaskConfig

DEMO = Path(__file__).parents[3] / "jobs" / "demo.yaml"


@pytest.fixture(scope="module")
def demo():
    spec = load_spec(DEMO)
    task = tasks.create(spec.task.name)
    data = TaskConfig(spec.task.data, "search", spec.task.examples, seed=spec.search.seed)
    return spec, task, task.load(data)


def linking_name(example: Example) -> str:
    """The longest run of words that both facts have and the question has not."""
    first, second = (text.rstrip(".").split() for text in example.data["ctxs_gt"])
    runs = [" ".join(first[i:j]) for i in range(len(first)) for j in range(i + 1, len(first) + 1)]
    asked = f" {example.data['question'].rstrip('?')} "
    common = [run for run in runs if f" {run} " in f" {' '.join(second)} "]
    return max((run for run in common if f" {run} " not in asked and run[0].isupper()), key=len)


def test_the_right_name_leads_to_the_fact_with_the_answer(demo):
    spec, task, examples = demo
    assert len(examples) == spec.task.examples
    name, answer = task.stages
    for example in examples:
        first, second = example.data["ctxs_gt"]
        assert f"Fact: {first}\n" in name.prompt(example, {}).user
        found = answer.prompt(example, {"name": linking_name(example)}).user
        assert second in found
        [right] = example.data["answers"]
        assert right in second
        assert answer.metrics(answer.parse(f" {right}\n", example), example) == {"exact_match": 1.0}


def test_a_name_that_no_fact_has_leads_to_none(demo):
    _, task, [example, *_] = demo
    user = task.stages[1].prompt(example, {"name": "Nobody Atall"}).user
    assert user == f"Facts:\nQuestion: {example.data['question']}"


def test_the_budget_does_not_allow_the_large_model_everywhere_with_many_samples(demo):
    """Otherwise the largest allocation is the best one, and there is nothing to choose."""
    spec, *_ = demo
    feasible = list(spec.space().feasible())
    most = max(spec.space().stages[0].samples)
    for large in ("name", "answer"):
        [chosen] = [
            a for a in feasible
            if (a[large].model, a[large].samples) == ("gemma3", most)
            and all(c.model == "smollm2" and c.samples == most for c in a.choices if c.stage != large)
        ]  # fmt: skip
        assert chosen
    assert not any(
        all(c.model == "gemma3" and c.samples == most for c in a.choices) for a in feasible
    )
