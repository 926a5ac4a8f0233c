"""Models that think, through every family of tasks: the scores are those of the same replies
without the thinking.

The thinking holds reference numbers, a wrong answer, draft plans and code
(`agenttts.inference.scripted_thinking.DRAFT`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agenttts import tasks
from agenttts.inference.base import ModelConfig
from agenttts.inference.sampler import Sampler
from agenttts.inference.scripted import script_thinking
from agenttts.inference.store import SampleStore
from agenttts.space import Allocation, Choice
from agenttts.tasks.base import Example, TaskConfig
from agenttts.tasks.retrieval.prompts import format_numbers
from agenttts.tasks.taskbench.data import TaskBenchExample
from agenttts.tasks.taskbench.prompts import calls_json, steps_json, tools_json
from agenttts.trial.result import TrialOutput
from agenttts.trial.run import evaluate_alone
from agenttts.trial.spec import TrialSpec

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")

SAMPLES = 3
EXAMPLES = 4
LONG_ENOUGH = 2000
"""Tokens of a sample: more than the longest thinking and the longest reply together."""

DECLARED = """
name: declared
description: Sort a note, and say in a word what it is about.
main_metric: topic.exact_match
stages:
  sorting:
    description: Pick the kind.
    system: Pick the kind.
    prompt: "{{ text }}"
    shots: [{user: a, reply: bug}]
    label: "Kind:"
    parse: choice
    choices: [bug, wish, praise]
    fuse: vote
    metrics: {exact_match: kind}
  topic:
    description: Name the topic.
    system: Name the topic.
    prompt: "{{ text }} ({{ sorting }})"
    shots: [{user: a, reply: b}]
    label: "Topic:"
    parse: first_line
    fuse:
      model:
        system: Merge the topics.
        shots: [{user: a, reply: b}]
        prompt: "{{ text }}: {% for candidate in candidates %}{{ candidate }}; {% endfor %}"
    metrics: {exact_match: about}
"""

OWN = '''
from agenttts.inference.base import Prompt
from agenttts.tasks.base import Example, Fusion, StageDefinition, Task


class Count(StageDefinition):
    """A parser that takes the whole text: whatever else is in it makes it wrong."""

    name, temperature, description = "count", 0.5, "Count the letters."

    def prompt(self, example, outputs):
        return Prompt(system="Count.", user=f"How long is {example.data['word']}?")

    def parse(self, text, example):
        return int(text) if text.isdecimal() else None

    def fusion(self, candidates, example, outputs):
        listed = ", ".join(map(str, candidates))
        return Fusion(Prompt(system="Merge.", user=f"{example.data['word']}: {listed}"), 0.2)

    def fuse(self, candidates, example):
        return candidates[0]

    def metrics(self, output, example):
        return {"right": float(output == len(example.data["word"]))}


class Counting(Task):
    name, description = "counting", "Count the letters of a word."
    stages = (Count(),)
    main_metric = "count.right"

    def load(self, config):
        words = ["river", "hill", "sea", "mountain"][: config.examples]
        return [Example(word, {"word": word}) for word in words]
'''


def right_answers(example: Example) -> Mapping[str, str]:
    numbers = format_numbers(example.data["gold_ids"])
    return {"retrieval": numbers, "answer": example.data["answers"][0]}


def right_plan(example: Example) -> Mapping[str, str]:
    record = TaskBenchExample.of(example)
    return {
        "decomposition": steps_json(record.steps),
        "tool_selection": tools_json([call.tool for call in record.calls]),
        "parameter_prediction": calls_json([call.to_json() for call in record.calls]),
    }


def right_program(example: Example) -> Mapping[str, str]:
    program = f"main.py\n```python\nprint({example.data['name']!r})\n```"
    return dict.fromkeys(("coding", "static_testing", "dynamic_testing"), program)


@dataclass(frozen=True)
class Family:
    """A task, its data, what of an example stands in every prompt about it, and the right reply
    to each stage.
    """

    task: str
    data: str
    told_by: str
    right: Callable[[Example], Mapping[str, str]]
    options: Mapping[str, Any] = field(default_factory=dict)


def declared(folder: Path) -> Family:
    about = [("bug", "login"), ("wish", "dark mode"), ("praise", "speed"), ("bug", "export")]
    notes = [{"text": f"note {n}.", "kind": k, "about": a} for n, (k, a) in enumerate(about)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    (folder / "declared.yaml").write_text(DECLARED)
    return Family(
        str(folder / "declared.yaml"), str(folder / "notes.jsonl"), "text",
        lambda example: {"sorting": example.data["kind"], "topic": example.data["about"]},
    )  # fmt: skip


def own(folder: Path) -> Family:
    (folder / "counting.py").write_text(OWN)
    return Family(
        f"{folder / 'counting.py'}:Counting", "", "word",
        lambda example: {"count": str(len(example.data["word"]))},
    )  # fmt: skip


FAMILIES: dict[str, Callable[[Path], Family]] = {
    "retrieval_qa": lambda _: Family("retrieval_qa", "builtin:twohop", "question", right_answers),
    "kgqa": lambda _: Family("kgqa", "builtin:smallkg", "question", right_answers),
    "taskbench": lambda _: Family("taskbench", "builtin:errands", "instruction", right_plan),
    "chatdev": lambda _: Family(
        "chatdev", "builtin:small_programs", "requirement", right_program, {"run_memory_mb": 256}
    ),
    "declarative": declared,
    "own": own,
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path) -> Family:
    return FAMILIES[request.param](tmp_path)


def examples_of(family: Family) -> list[Example]:
    config = TaskConfig(family.data, examples=EXAMPLES, options=family.options)
    return tasks.create(family.task).load(config)


def script(family: Family, path: Path) -> Path:
    """A script that replies rightly to the prompts of every example but the last, to which it
    does not know.
    """
    rules = []
    examples = examples_of(family)
    for example in examples:
        outputs: dict[str, Any] = {}
        for stage in tasks.create(family.task).stages:
            right = family.right(example)[stage.name]
            value = stage.parse(right, example)
            prompts = [stage.prompt(example, outputs)]
            if fusion := stage.fusion([value] * SAMPLES, example, outputs):
                prompts.append(fusion.prompt)
            reply = "I do not know" if example is examples[-1] else right
            told_by = str(example.data[family.told_by])
            rules += [{"contains": [p.system, told_by], "replies": [{"text": reply}]} for p in prompts]  # fmt: skip
            outputs[stage.name] = value
    path.write_text(json.dumps({"rules": rules, "default": "no rule fits"}))
    return path


def trial(
    family: Family, folder: Path, options: Mapping[str, Any], **changes: Any
) -> tuple[TrialOutput, pl.DataFrame]:
    """A whole trial, three samples a stage, and its table of examples."""
    folder.mkdir()
    frozen = folder / "examples.jsonl"
    frozen.write_text(
        "".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in examples_of(family))
    )
    model = ModelConfig(
        "m", str(script(family, folder / "script.json")), engine="scripted", options=options,
        **{"thinking": script_thinking(options), **changes},
    )  # fmt: skip
    stages = [stage.name for stage in tasks.create(family.task).stages]
    spec = TrialSpec(
        run="r",
        trial="t0000",
        allocation=Allocation(tuple(Choice(stage, "m", SAMPLES) for stage in stages)),
        task=family.task,
        examples=str(frozen),
        seed=0,
        decode_tokens=dict.fromkeys(stages, LONG_ENOUGH),
        models={"m": model},
        directory=str(folder),
        samples=str(folder / "samples"),
        options=family.options,
        code_on_host=True,
    )
    (folder / "trial.json").write_text(json.dumps(spec.to_json()))
    sampler = Sampler(SampleStore(folder / "samples", "w"), spec.models, 0)
    output = evaluate_alone(spec, sampler)
    sampler.close()
    return output, pl.read_parquet(folder / "examples.parquet")


THINKS = {
    "closed": {},
    "several blocks": {"blocks": 3},
    "opened by the prompt": {"opened": True},
    "other markers": {"start": "[THINK]", "end": "[/THINK]", "blocks": 2},
}


def test_a_model_that_thinks_scores_as_its_answers_do(family, tmp_path):
    plain, rows = trial(family, tmp_path / "plain", {})
    assert 0 < plain.score < 1, "one of four examples is answered wrongly"
    # Each program runs in a sandbox, for seconds: two of the four have to do.
    names = list(THINKS)[1:3] if family.task == "chatdev" else list(THINKS)
    for name in names:
        option = THINKS[name]
        output, thought = trial(family, tmp_path / name, {"thinking": option})
        assert output.metrics == plain.metrics, name
        assert output.decode_tokens > plain.decode_tokens
        same = ("example", "stage", "output", "candidates", "metrics")
        assert thought.select(same).equals(rows.select(same)), "what parsers saw is what is told"
        stored = pl.read_parquet(tmp_path / name / "samples" / "*.parquet")["text"]
        assert stored.str.contains("Atlantis").all(), "whole"
    raw, _ = trial(family, tmp_path / "raw", {"thinking": {}}, thinking=None)
    assert raw.metrics != plain.metrics, "what would come of thinking that is not removed"


def test_a_model_that_never_ends_its_thinking_answers_nothing(family, tmp_path):
    output, rows = trial(family, tmp_path / "unclosed", {"thinking": {"unclosed": 1.0}})
    assert output.score == 0
    assert all(part["cut"] == part["samples"] > 0 for part in output.cut_samples)
    assert rows["candidates"].list.eval(pl.element() == "").list.all().all()
    stages = {stage.name: stage for stage in tasks.create(family.task).stages}
    examples = {example.id: example for example in examples_of(family)}
    if family.task != "chatdev":  # whose outputs hold what came of running nothing
        for row in rows.iter_rows(named=True):
            assert json.loads(row["output"]) == stages[row["stage"]].parse("", examples[row["example"]])  # fmt: skip


def test_samples_that_end_their_thinking_outvote_those_that_do_not(family, tmp_path):
    option = {"thinking": {"unclosed": 0.3}}
    output, rows = trial(family, tmp_path / "some", option)
    assert output.score > 0
    drawn = sum(part["samples"] for part in output.cut_samples)
    cut = sum(part["cut"] for part in output.cut_samples)
    assert 0 < cut < drawn
    assert rows["cut"].sum() == cut
    assert rows["candidates"].explode().eq("").sum() <= cut
