"""The prompts hold everything that the method says they hold."""

import json
import re
from dataclasses import replace

import pytest

from agenttts.search.archive import Archive, TrialResult
from agenttts.search.llm.paper import PaperAgent
from agenttts.search.llm.prompts import FOLDER, Prompts, history
from agenttts.spec.stage_names import REPLY_KEYS
from tests.support.llm import SPACE, TASK_DESCRIPTION, allocation, scripted_session, surrogate_of


def archive(trials=12):
    made = Archive(SPACE)
    results = []
    for number in range(trials):
        tried = SPACE.allocation(("qwen-7b", number + 1), ("llama-3b", 2 ** (number % 6)))
        score = None if number == 2 else round(0.30 + 0.01 * number, 4)
        metrics = {} if score is None else {"retrieval.f1": 0.5 + number / 100, "answer.em": score}
        results.append(TrialResult(tried, score, metrics))
    made.add(results)
    return made


def asked(insights=(1, 2, 3), trials=12):
    """The questions that an agent asks over four batches, each with new results: by purpose, in
    order.
    """
    said = [
        {"for": "guidelines", "text": json.dumps({"guidelines": [f"rule {n}"]})} for n in range(9)
    ]
    connection = scripted_session(
        [*said], then={"allocations": [allocation("qwen-7b", 99, "llama-3b", 64)]}
    )
    agent = PaperAgent(SPACE, 0, connection, insights)
    for count in range(trials, trials + 16, 4):
        known = archive(count)
        agent.propose(3, known, surrogate_of(known))
    events = [e for e in connection.caller.transcript.events if e["event"] == "reply"]
    return {
        purpose: [e["messages"][-1]["content"] for e in events if e["purpose"] == purpose]
        for purpose in ("guidelines", "propose")
    }


@pytest.fixture(scope="module")
def questions():
    return asked()


@pytest.mark.parametrize("purpose", ["guidelines", "propose"])
def test_task_stages_models_ranges_budget_and_metrics(questions, purpose):
    for text in questions[purpose]:
        for part in (
            TASK_DESCRIPTION.task, TASK_DESCRIPTION.description, "Pick the facts.", "Answer from them.",
            "retrieval", "answer", "qwen-7b (7B parameters)", "qwen-72b (72B parameters)",
            "llama-3b (3B parameters)", "llama-70b (70B parameters)",
            "Prompt about 2048 tokens (Np), each sample about 128 tokens (Nd)",
            "Prompt about 256 tokens (Np), each sample about 64 tokens (Nd)",
            "any whole number from 1 to 100", "1, 2, 4, 8, 16, 32, 64",
            "B = 1000 units", "(M / 3e9 * (Np + S * Nd) - 128) / 64",
            "answer.em", "50 examples",
        ):  # fmt: skip
            assert part in text, part


def test_a_models_costs_are_the_budgets_own(questions):
    text = questions["propose"][0]
    stage = SPACE.stage("retrieval")
    line = re.search(r"qwen-72b .*first sample costs ([\d.]+) units, each further one ([\d.]+); at most (\d+)", text)  # fmt: skip
    assert float(line[1]) == pytest.approx(stage.budget("qwen-72b", 1), abs=0.1)
    assert float(line[2]) == pytest.approx(48, abs=0.1)
    assert int(line[3]) == stage.affordable_samples("qwen-72b", 1000 - SPACE.cost(SPACE.cheapest) + stage.budget("qwen-7b", 1))  # fmt: skip


def test_the_whole_history_with_costs(questions):
    text = questions["propose"][0]
    for number, result in enumerate(archive(12).results, start=1):
        first, second = result.allocation.choices
        cost = SPACE.cost(result.allocation)
        score = "failed" if result.score is None else f"{result.score:.4f}"
        line = f"{number}. retrieval={first.model} x {first.samples}, answer={second.model} x {second.samples} | cost {cost:.0f} | score {score}"
        assert line in text
    assert "retrieval.f1=0.500" in text


def test_the_first_and_the_two_latest_guidelines(questions):
    assert "# Guidelines" not in questions["guidelines"][0]
    assert "rule 0" in questions["propose"][0]
    last = questions["propose"][3]
    assert [f"rule {n}" in last for n in range(4)] == [True, False, True, True]
    assert "(the first)" in last


def test_the_first_guidelines_compare_models_at_equal_cost(questions):
    assert "compare its models at the same cost" in questions["guidelines"][0]
    assert "The last 4 trials are new" in questions["guidelines"][1]


SIGNS = {
    1: "compare its models at the same cost",
    2: "more samples",
    3: "give budget to which",
}


@pytest.mark.parametrize("off", [1, 2, 3])
def test_an_insight_switched_off_leaves_the_guideline_prompts(off):
    on = [n for n in (1, 2, 3) if n != off]
    text = "\n".join(t.split("# What to do")[1] for t in asked(on)["guidelines"]).lower()
    assert SIGNS[off].lower() not in text
    assert all(SIGNS[n].lower() in text for n in on)


def test_a_limited_history_keeps_the_best_and_the_latest():
    shown = [line["number"] for line in history(archive(40), 10)]
    assert len(shown) == 10
    assert {"40", "39", "38", "37", "36"} <= set(shown), "the best are the latest here"
    falling = Archive(SPACE)
    falling.add(TrialResult(r.allocation, 1 - (r.score or 0)) for r in archive(40).results)
    shown = [line["number"] for line in history(falling, 10)]
    assert {"1", "2", "40", "39"} <= set(shown)
    assert shown == sorted(shown, key=int)


def test_the_schema_takes_the_example_and_no_unknown_model():
    jsonschema = pytest.importorskip("jsonschema")
    prompts = Prompts(SPACE, TASK_DESCRIPTION)
    schema = prompts.allocations_schema(3)
    example = {**allocation("qwen-7b", 1, "llama-3b", 64), "reason": "r"}
    jsonschema.validate({"allocations": [example]}, schema)
    for wrong in (
        {"allocations": []},
        {"allocations": [example] * 4},
        {"allocations": [{**example, "retrieval": {"model": "gpt", "samples": 1}}]},
        {"allocations": [{**example, "retrieval": {"model": "qwen-7b", "samples": 101}}]},
        {"allocations": [{**example, "more": 1}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_every_template_is_used():
    code = "".join(path.read_text() for path in FOLDER.parent.glob("*.py"))
    templates = "".join(path.read_text() for path in FOLDER.glob("*.j2"))
    for path in FOLDER.glob("*.j2"):
        assert f'"{path.stem}"' in code or f'"{path.name}"' in templates, path.name


def test_no_stage_may_be_called_like_a_key_of_replies():
    """A stage of such a name would be read in its place (`agenttts.spec.stage_names`)."""
    schema = Prompts(SPACE, TASK_DESCRIPTION).batch_schema(2, 2)
    entry = schema["properties"]["allocations"]["items"]
    keys = {*schema["properties"], *entry["properties"]} - {stage.name for stage in SPACE.stages}
    assert keys - {"allocations"} == set(REPLY_KEYS), "the value of 'allocations' is never a choice"


def test_a_budget_above_a_million_is_not_rounded():
    prompts = Prompts(replace(SPACE, budget=1234567.4), TASK_DESCRIPTION)
    assert "none over B = 1234567.4 units" in prompts.text("_format", n=1)
