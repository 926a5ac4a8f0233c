"""Sketches of utility curves: read, split over the budget, and tried first."""

import json

import pytest

from agenttts.search import TrialResult, create
from agenttts.search.llm.sketch import asked_counts, planned, read_sketch
from agenttts.search.water_filling import water_fill
from agenttts.space import Model, SearchSpace, Stage
from tests.support.llm import SPACE, score, scripted_session

UTILITY = {
    "retrieval": {"qwen-7b": {"1": 0.2, "5": 0.3, "22": 0.35, "100": 0.4}, "qwen-72b": {"1": 0.9, "5": 0.9}},
    "answer": {"llama-3b": {"1": 0.3, "4": 0.5, "16": 0.7, "64": 0.8}, "llama-70b": {"1": 0.5, "64": 0.6}},
}  # fmt: skip
TEXT = json.dumps({"analysis": "large retrieval", "utility": UTILITY})


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"<analysis>\n```json\n{TEXT}\n```",
        json.dumps(UTILITY),
        TEXT.replace("retrieval", "Retrieval").replace("qwen-72b", "Qwen 72B"),
        TEXT.replace("0.9", '"90%"').replace("0.3,", '"0.3",'),
        TEXT[:-2],
    ],
)
def test_every_way_to_write_a_sketch(text):
    sketch = read_sketch(text, SPACE)
    assert sketch is not None
    assert sketch["retrieval"]["qwen-72b"] == {1: 0.9, 5: 0.9}
    assert sketch["answer"]["llama-3b"] == {1: 0.3, 4: 0.5, 16: 0.7, 64: 0.8}


def test_lists_and_percent_in_the_order_of_the_counts_asked():
    assert asked_counts(SPACE.stage("answer")) == (1, 4, 16, 64)
    lists = {
        "retrieval": {"qwen-7b": [20, 30, 40, 50]},
        "answer": {"llama-3b": [30, 50, 70, 80]},
    }
    sketch = read_sketch(json.dumps(lists), SPACE)
    assert sketch is not None
    assert sketch["answer"]["llama-3b"] == {1: 0.3, 4: 0.5, 16: 0.7, 64: 0.8}


def test_counts_with_a_separator_are_read_whole():
    said = TEXT.replace('"100"', '"1,000"').replace('"22"', '"1.000"')
    sketch = read_sketch(said, SPACE)
    assert sketch is not None
    assert sketch["retrieval"]["qwen-7b"] == {1: 0.2, 5: 0.3, 1000: 0.4}


@pytest.mark.parametrize("text", ["", "no idea", "{}", '{"utility": 3}', json.dumps({"retrieval": UTILITY["retrieval"]}), '{"retrieval": {"qwen-7b": {"a": "b"}}, "answer": {"llama-3b": [null]}}', "[" * 3000])  # fmt: skip
def test_no_sketch(text):
    assert read_sketch(text, SPACE) is None


def test_the_first_split_is_the_best_by_the_sketch_and_all_are_feasible():
    sketch = read_sketch(TEXT, SPACE)
    assert sketch is not None
    plan = list(planned(SPACE, sketch))
    assert plan[0] == SPACE.allocation(("qwen-72b", 1), ("llama-3b", 64))
    assert all(allocation in SPACE for allocation in plan)
    assert len({*plan}) == len(plan) >= 4
    combinations = {tuple(choice.model for choice in a.choices) for a in plan}
    assert len(combinations) == 4


def test_the_searcher_tries_the_plan_then_draws_and_asks_once():
    session = scripted_session([TEXT])
    searcher = create("llm_sketch", SPACE, 0, llm=session)
    tried = []
    for _ in range(4):
        batch = searcher.propose(4)
        tried += batch
        searcher.tell([TrialResult(p.allocation, score(p.allocation)) for p in batch])
    plan = list(planned(SPACE, read_sketch(TEXT, SPACE)))
    assert [p.allocation for p in tried if p.source == "llm_sketch"] == plan
    assert [p.source for p in tried[len(plan) :]] == ["random"] * (16 - len(plan))
    assert session.caller.transcript.calls == 1
    again = create("llm_sketch", SPACE, 0, llm=scripted_session([TEXT]))
    again.tell([TrialResult(p.allocation, score(p.allocation)) for p in tried[:4]])
    assert again.propose(4) == tried[4:8]


@pytest.mark.parametrize("then", ["nonsense", {"error": 401}])
def test_without_a_sketch_allocations_are_drawn_and_the_model_is_not_asked_again(then):
    session = scripted_session([], then=then)
    searcher = create("llm_sketch", SPACE, 0, llm=session)
    batches = [searcher.propose(3) for _ in range(3)]
    assert {p.source for batch in batches for p in batch} == {"random"}
    assert session.caller.transcript.calls == 1
    [event] = [e for e in session.caller.transcript.events if e["event"] == "sketch"]
    assert not event["usable"]
    assert event["problem"]


def first_batch(session, n):
    return create("agenttts", SPACE, 0, llm=session).propose(n)


def test_the_first_batch_of_agenttts_has_one_trial_of_the_sketch():
    plan = list(planned(SPACE, read_sketch(TEXT, SPACE)))
    plain = first_batch(None, 3)
    assert [p.source for p in plain] == ["initial"] * 3
    few = first_batch(scripted_session([TEXT]), 3)
    assert few[:2] == plain[:2]
    assert (few[2].source, few[2].allocation) == ("agent", plan[0])
    more = first_batch(scripted_session([TEXT]), 8)
    assert [p.source for p in more][:5] == ["initial"] * 3 + ["agent", "explore"]
    assert first_batch(scripted_session([], then="nonsense"), 3) == plain
    served = scripted_session([TEXT])
    served.at_once = False  # trials do not wait for a model that has to be started
    assert first_batch(served, 3) == plain
    assert served.caller.transcript.calls == 0


def test_the_next_split_is_tried_if_the_best_is_an_initial_trial():
    initial = first_batch(None, 3)[0].allocation
    counts = {choice.stage: {1: 0.1, choice.samples: 1.0} for choice in initial.choices}
    models = {choice.stage: choice.model for choice in initial.choices}
    text = json.dumps(
        {
            stage.name: {
                model.name: counts[stage.name] if model.name == models[stage.name] else {1: 0.0}
                for model in stage.models
            }
            for stage in SPACE.stages
        }
    )
    sketch = read_sketch(text, SPACE)
    plan = list(planned(SPACE, sketch))
    assert plan[0] == initial
    batch = first_batch(scripted_session([text]), 3)
    assert (batch[2].source, batch[2].allocation) == ("agent", plan[1])


def test_the_first_split_of_thousands_of_combinations_takes_no_time(monkeypatch):
    models = tuple(Model(f"m{n}", (n + 1) * 1e9) for n in range(10))
    stages = tuple(Stage(f"s{n}", models, 256, 64, tuple(range(1, 101))) for n in range(4))
    space = SearchSpace(stages, 10_000)
    curves = {f"m{n}": {1: 0.1 + 0.05 * n, 100: 0.2 + 0.05 * n} for n in range(10)}
    filled = []

    def count(options, budget):
        filled.append(budget)
        return water_fill(options, budget)

    monkeypatch.setattr("agenttts.search.llm.sketch.water_fill", count)
    assert next(planned(space, {stage.name: curves for stage in stages})) in space
    assert len(filled) == 1
