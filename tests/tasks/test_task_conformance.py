"""What every task keeps to, whatever it does. A new task is a line in `CASES`.

The tasks a user writes keep to it too: the tutorial's is one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttts import tasks
from agenttts.inference.base import (
    PROMPT_STYLES,
    ModelConfig,
    Request,
    SamplingParams,
    render,
)
from agenttts.inference.embedding import EmbeddingModel
from agenttts.inference.sampler import Sampler
from agenttts.inference.scripted import ScriptedEngine
from agenttts.inference.store import SampleStore
from agenttts.inference.tokenization import fit
from agenttts.space import Allocation, Choice
from agenttts.tasks.base import Example, Task, TaskConfig
from agenttts.tasks.retrieval.prompts import format_numbers
from agenttts.tasks.taskbench.data import TaskBenchExample
from agenttts.tasks.taskbench.prompts import calls_json, steps_json, tools_json
from agenttts.trial.result import TrialOutput
from agenttts.trial.run import evaluate_alone
from agenttts.trial.spec import TrialSpec
from tests.support.executing import executed, perfect_chatdev, postprocessed
from tests.support.tutorial import write_files

# With the engines, which load PyTorch, too: its import takes some seconds of a worker.
pytestmark = pytest.mark.xdist_group("engines")


def perfect_retrieval(example: Example) -> dict[str, str]:
    """A perfect reply a stage."""
    data = example.data
    return {"retrieval": format_numbers(data["gold_ids"]), "answer": data["answers"][0]}


def perfect_plan(example: Example) -> dict[str, str]:
    record = TaskBenchExample.of(example)
    return {
        "decomposition": steps_json(record.steps),
        "tool_selection": tools_json([call.tool for call in record.calls]),
        "parameter_prediction": calls_json([call.to_json() for call in record.calls]),
    }


def perfect_triage(example: Example) -> dict[str, str]:
    data = example.data
    return {"naming": data["product"], "sorting": data["category"], "answer": data["reply"]}


def consistency(examples: list[Example]) -> dict[str, float]:
    """What ChatDev's perfect programs come to: no text means the same as a program, so that the
    cosine stays below 1.
    """
    model = EmbeddingModel(None)
    cosines = []
    for example in examples:
        asked, made = model.embed([example.data["requirement"], f"print({example.data['name']!r})"])
        cosines.append(sum(a * b for a, b in zip(asked, made, strict=True)))
    return {"consistency": fmean(cosines)}


@cache
def created(source: str) -> Task:
    """The task of a source; tasks have no state, and checking one reads its whole source file."""
    return tasks.create(source)


@dataclass(frozen=True)
class Case:
    """A task on a data set, and what a model that knows everything would reply at each stage."""

    task: str
    data: str
    perfect: Callable[[Example], Mapping[str, str]]
    file: str = ""
    """The file of a user's task."""
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: Callable[[list[Example]], Mapping[str, float]] = lambda examples: {}
    """By metric, what perfect replies score in a trial where that is not 1."""

    @property
    def source(self) -> str:
        return self.file or self.task

    def create(self) -> Task:
        return created(self.source)

    def load(self, seed: int = 0, count: int | None = None) -> list[Example]:
        config = TaskConfig(self.data, seed=seed, examples=count, options=self.options)
        return self.create().load(config)


CASES = [
    Case("retrieval_qa", "builtin:twohop", perfect_retrieval),
    Case("kgqa", "builtin:smallkg", perfect_retrieval),
    Case("taskbench", "builtin:errands", perfect_plan),
    Case("taskbench", "builtin:studio", perfect_plan),
    Case(
        "chatdev", "builtin:small_programs", perfect_chatdev,
        options={"run_memory_mb": 256}, measured=consistency,
    ),
    Case("triage", "tickets.jsonl", perfect_triage, file="triage-task.yaml"),
]  # fmt: skip


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=lambda case: f"{case.task}-{case.data.removeprefix('builtin:')}",
)
def case(request, tmp_path_factory):
    found = request.param
    if not found.file:
        return found
    folder = write_files(tmp_path_factory.mktemp("own"))
    return replace(found, file=str(folder / found.file), data=str(folder / found.data))


@pytest.fixture(scope="module")
def examples(case):
    return case.load(count=6)


def outputs_of(task: Task, texts: Mapping[str, str], example: Example) -> dict[str, Any]:
    """The fused outputs of every stage after one sample each."""
    outputs: dict[str, Any] = {}
    for stage in task.stages:
        sample = executed(stage, stage.parse(texts[stage.name], example), example, outputs)
        outputs[stage.name] = postprocessed(stage, stage.fuse([sample], example), example)
    return outputs


def perfect_outputs(case: Case, example: Example) -> dict[str, Any]:
    """The fused outputs of every stage after perfect replies."""
    return outputs_of(case.create(), case.perfect(example), example)


def test_the_task_describes_itself(case):
    task = case.create()
    assert task.name == case.task
    assert task.description
    assert len({stage.name for stage in task.stages}) == len(task.stages) >= 1
    assert all(stage.description and stage.temperature >= 0 for stage in task.stages)
    stage, _, metric = task.main_metric.partition(".")
    example = case.load(count=1)[0]
    assert metric in task.stage(stage).metrics(task.stage(stage).parse("", example), example)


def test_the_same_seed_gives_the_same_examples_and_prompts(case):
    task = case.create()

    def prompts(seed: int) -> list[object]:
        return [
            [e.id, *(stage.prompt(e, perfect_outputs(case, e)) for stage in task.stages)]
            for e in case.load(seed, 6)
        ]

    assert prompts(3) == prompts(3)
    assert prompts(3) != prompts(4)


def test_examples_and_prompts_survive_the_file_they_are_frozen_in(case, examples):
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        frozen = Example(**json.loads(json.dumps({"id": example.id, "data": example.data})))
        outputs = json.loads(json.dumps(perfect_outputs(case, example)))
        for stage in case.create().stages:
            before = stage.prompt(example, perfect_outputs(case, example))
            assert stage.prompt(frozen, outputs) == before


def test_perfect_replies_score_1_and_empty_ones_0(case, examples):
    task = case.create()
    nothing = dict.fromkeys([stage.name for stage in task.stages], "")
    for example in examples:
        right, wrong = perfect_outputs(case, example), outputs_of(task, nothing, example)
        for stage in task.stages:
            perfect = stage.metrics(right[stage.name], example)
            empty = stage.metrics(wrong[stage.name], example)
            assert perfect == pytest.approx(dict.fromkeys(perfect, 1)), stage.name
            assert empty == dict.fromkeys(perfect, 0), stage.name


@given(data=st.data())
def test_any_text_is_parsed_fused_and_scored(case, examples, data):
    example = examples[data.draw(st.integers(0, len(examples) - 1))]
    texts, before = case.perfect(example), perfect_outputs(case, example)
    for stage in case.create().stages:
        right = texts[stage.name]
        cut = st.integers(0, len(right)).map(lambda n, right=right: right[:n])
        noisy = st.tuples(cut, st.text(max_size=20), cut).map("".join)
        candidates = [
            executed(stage, stage.parse(text, example), example, before)
            for text in data.draw(st.lists(st.text() | cut | noisy, min_size=1, max_size=4))
        ]
        fused = postprocessed(stage, stage.fuse(candidates, example), example)
        for output in (*candidates, fused):
            # As a trial stores it: JSON, in UTF-8.
            text = json.dumps(output, ensure_ascii=False)
            assert json.loads(text.encode().decode()) == output
            scores = stage.metrics(output, example)
            assert scores.keys() == stage.metrics(stage.parse("", example), example).keys()
            assert all(0 <= score <= 1 for score in scores.values())
        outputs = {**before, stage.name: fused}
        for later in case.create().stages:
            later.prompt(example, outputs)  # whatever an earlier stage came to
        fusion = stage.fusion(candidates, example, outputs)
        assert fusion is None or fusion.temperature >= 0


def test_fusion_of_one_sample_is_that_sample(case, examples):
    for example in examples:
        outputs = perfect_outputs(case, example)
        for stage in case.create().stages:
            for text in (case.perfect(example)[stage.name], "", "no"):
                sample = executed(stage, stage.parse(text, example), example, outputs)
                assert stage.fuse([sample], example) == sample
                assert stage.fusion([sample], example, outputs) is None
            agreed = [outputs[stage.name]] * 3
            assert stage.fuse(agreed, example) == outputs[stage.name]


@pytest.mark.parametrize("style", PROMPT_STYLES)
def test_prompts_come_in_every_style(case, examples, style):
    example = examples[0]
    outputs = perfect_outputs(case, example)
    for stage in case.create().stages:
        prompts = [stage.prompt(example, outputs)]
        if fusion := stage.fusion([outputs[stage.name]] * 2, example, outputs):
            prompts.append(fusion.prompt)
        for prompt in prompts:
            content, stop = render(prompt, style)
            assert prompt.system
            assert prompt.shots, "base models need worked examples"
            assert prompt.label
            if style == "few_shot_completion":
                assert content.endswith(f"{prompt.user}\n{prompt.label}")
                assert stop
                # A worked example ends where the stop string would cut it.
                assert not any(s in reply for s in stop for _, reply in prompt.shots)
            else:
                roles = [message["role"] for message in content]
                shots = len(prompt.shots) if style == "few_shot_chat" else 0
                assert roles == ["system", *["user", "assistant"] * shots, "user"]


def test_a_prompt_that_is_too_long_loses_its_middle_and_says_so(case, examples, tmp_path):
    script = tmp_path / "script.json"
    script.write_text('{"default": "no"}')
    context, room = 30, 6
    model = ModelConfig("m", str(script), engine="scripted", options={"max_model_len": context})
    engine = ScriptedEngine(model)
    params = SamplingParams(temperature=0.5, max_tokens=room)
    example = examples[0]
    for stage in case.create().stages:
        prompt = stage.prompt(example, perfect_outputs(case, example))
        content, stop = render(prompt, "few_shot_completion")
        words = content.split()
        assert len(words) > context - room, "else there is nothing to cut"
        [completion] = engine.generate([Request(content, params, (1,), stop)])
        assert completion.truncated
        assert completion.prompt_tokens == context - room
        kept, cut = fit(words, context, room)
        assert cut
        half = (context - room) // 2
        assert (kept[:half], kept[-half:]) == (words[:half], words[-half:]), (
            "instructions, question"
        )


@pytest.mark.parametrize(
    ("task", "file", "tools", "perfect"),
    [
        ("retrieval_qa", "2wiki.excerpt.json", "", perfect_retrieval),
        ("retrieval_qa", "hotpotqa.excerpt.json", "", perfect_retrieval),
        ("kgqa", "cwq.excerpt.json", "", perfect_retrieval),
        ("chatdev", "srdd.excerpt.json", "", perfect_chatdev),
        ("taskbench", "taskbench_dailylifeapis.excerpt.jsonl", "taskbench_dailylifeapis_tool_desc.excerpt.json", perfect_plan),
    ],
)  # fmt: skip
def test_perfect_replies_score_1_on_published_records(excerpt, task, file, tools, perfect):
    options = {"tools": excerpt(tools)} if tools else {}
    found = tasks.create(task)
    examples = found.load(TaskConfig(excerpt(file), options=options))
    assert len(examples) in (3, 4, 6)
    for example in examples:
        outputs = outputs_of(found, perfect(example), example)
        for stage in found.stages:
            scores = stage.metrics(outputs[stage.name], example)
            assert scores == pytest.approx(dict.fromkeys(scores, 1)), (example.id, stage.name)


def trial(
    case: Case, examples: list[Example], rules: list[dict[str, Any]], folder: Path
) -> TrialOutput:
    """A whole trial, two samples a stage, with a model that replies as ``rules`` say and else
    nothing of use.
    """
    folder.mkdir()
    script = folder / "script.json"
    script.write_text(json.dumps({"rules": rules, "default": "I do not know"}))
    frozen = folder / "examples.jsonl"
    frozen.write_text("".join(json.dumps({"id": e.id, "data": e.data}) + "\n" for e in examples))
    model = ModelConfig("m", str(script), engine="scripted")
    stages = [stage.name for stage in case.create().stages]
    spec = TrialSpec(
        run="r",
        trial="t0000",
        allocation=Allocation(tuple(Choice(stage, "m", 2) for stage in stages)),
        task=case.source,
        examples=str(frozen),
        seed=0,
        decode_tokens=dict.fromkeys(stages, 500),
        models={"m": model},
        directory=str(folder),
        samples=str(folder / "samples"),
        options=case.options,
        code_on_host=True,
    )
    (folder / "trial.json").write_text(json.dumps(spec.to_json()))
    (folder / "samples").mkdir()
    store = SampleStore(folder / "samples", writer="w")
    sampler = Sampler(store, spec.models, spec.seed, engine_factory=ScriptedEngine)
    return evaluate_alone(spec, sampler)


def test_a_trial_of_perfect_samples_scores_1_or_what_is_measured_and_one_of_noise_0(
    case, examples, tmp_path
):
    rules = []
    for example in examples:
        outputs = perfect_outputs(case, example)
        for stage in case.create().stages:
            prompts = [stage.prompt(example, outputs)]
            if fusion := stage.fusion([outputs[stage.name]] * 2, example, outputs):
                prompts.append(fusion.prompt)
            reply = {"text": case.perfect(example)[stage.name]}
            rules += [{"contains": [p.system, p.user], "replies": [reply]} for p in prompts]
    perfect = trial(case, examples, rules, tmp_path / "perfect")
    measured = case.measured(examples)
    expected = {name: measured.get(name.partition(".")[2], 1.0) for name in perfect.metrics}
    assert perfect.metrics == pytest.approx(expected, abs=1e-5)
    assert perfect.score == perfect.metrics[case.create().main_metric]
    assert 0 < perfect.score <= 1
    noise = trial(case, examples, [], tmp_path / "noise")
    assert noise.score == 0
    assert noise.metrics.keys() == perfect.metrics.keys()
