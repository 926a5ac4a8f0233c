"""One allocation over the examples: samples, fusion, scores, tokens, and what trials share."""

from __future__ import annotations

import json
from importlib.machinery import PathFinder
from pathlib import Path

import polars as pl
import pytest

from agenttts.errors import UserError
from agenttts.inference.base import ModelConfig
from agenttts.inference.engine_process import create_engine
from agenttts.inference.partition import ALONE, SamplePartition
from agenttts.inference.sampler import Sampler
from agenttts.inference.store import SampleStore
from agenttts.space import Allocation, Choice
from agenttts.tables.schema import examples_schema
from agenttts.trial.evaluate import evaluate, read_examples
from agenttts.trial.result import EXAMPLES_FILE, read_result
from agenttts.trial.run import evaluate_alone


def run(spec):
    """The trial's output and the models whose engines were started."""
    started = []

    def factory(config):
        started.append(config.name)
        return create_engine(config)

    sampler = Sampler(SampleStore(Path(spec.samples), spec.trial), spec.models, spec.seed, factory)
    output = evaluate_alone(spec, sampler)
    sampler.close()
    return output, started


def table(spec) -> pl.DataFrame:
    return pl.read_parquet(Path(spec.directory) / EXAMPLES_FILE)


def test_the_table_of_examples_has_a_row_an_example_and_stage(make_trial):
    spec = make_trial("t0000", ("strong", 3), ("weak", 5))
    output, started = run(spec)
    assert started == ["strong", "weak"], "one after the other"
    frame = table(spec)
    assert frame.columns == examples_schema([]).names()
    assert frame.select("example", "stage").n_unique() == frame.height == 12
    assert frame["trial"].unique().to_list() == ["t0000"]
    for stage, model, k in (("retrieval", "strong", 3), ("answer", "weak", 5)):
        rows = frame.filter(stage=stage)
        assert rows["model"].unique().to_list() == [model]
        assert rows["samples"].unique().to_list() == [k]
        assert set(rows["candidates"].list.len()) == {k}
    ids = [example.id for example in read_examples(Path(spec.examples))]
    assert frame.filter(stage="answer")["example"].to_list() == ids
    assert isinstance(json.loads(frame["output"][0]), list)
    assert isinstance(json.loads(frame["output"][-1]), str)
    assert output.examples == 6


def test_the_output_sums_and_averages_the_table(make_trial):
    spec = make_trial("t0000", ("weak", 2), ("weak", 3))
    output, _ = run(spec)
    frame = table(spec)
    for stage, metric in (
        ("retrieval", "f1"),
        ("retrieval", "recall"),
        ("answer", "em"),
        ("answer", "f1"),
    ):
        column = frame.filter(stage=stage)["metrics"].struct.field(metric)
        assert output.metrics[f"{stage}.{metric}"] == pytest.approx(column.mean())
    assert output.score == output.metrics["answer.em"]
    assert 0 <= output.score < 1, "a weak model is wrong somewhere"
    for name in ("prompt_tokens", "decode_tokens", "reused_tokens"):
        assert getattr(output, name) == frame[name].sum()
    assert output.metrics_stderr.keys() == output.metrics.keys()
    assert output.metrics_stderr["answer.em"] == output.score_stderr
    found = table(spec).filter(stage="retrieval")["metrics"].struct.field("f1")
    expected = found.std() / len(found) ** 0.5
    assert output.metrics_stderr["retrieval.f1"] == pytest.approx(expected)
    assert read_result(Path(spec.directory)) == output


def test_what_a_stage_hands_on_is_its_fused_output(make_trial):
    """Retrieval's vote decides what the answer stage reads: right references, right answers."""
    spec = make_trial("t0000", ("strong", 9), ("strong", 1))
    run(spec)
    by_example = {}
    for row in table(spec).iter_rows(named=True):
        by_example.setdefault(row["example"], {})[row["stage"]] = row
    gold = {
        e.id: list(e.data["gold_ids"]) if isinstance(e.data, dict) else None
        for e in read_examples(Path(spec.examples))
    }
    for example, rows in by_example.items():
        fused = json.loads(rows["retrieval"]["output"])
        votes = [json.loads(f"[{','.join(c.strip('[]').split('] ['))}]") for c in rows["retrieval"]["candidates"]]  # fmt: skip
        counts = {n: sum(n in vote for vote in votes) for vote in votes for n in vote}
        assert min(counts[n] for n in fused) >= max([c for n, c in counts.items() if n not in fused], default=0)  # fmt: skip
        assert rows["retrieval"]["metrics"]["recall"] == pytest.approx(len(set(fused) & set(gold[example])) / len(gold[example]))  # fmt: skip


def test_more_than_one_answer_costs_a_fusion_call(make_trial):
    one, many = (
        make_trial("t0000", ("strong", 1), ("strong", 1)),
        make_trial("t0001", ("strong", 1), ("strong", 2)),
    )
    run(one)
    run(many)
    prompts = [table(spec).filter(stage="answer")["prompt_tokens"].sum() for spec in (one, many)]
    assert prompts[1] > prompts[0], "the fusion prompt is counted"
    retrieval = [
        table(spec).filter(stage="retrieval")["prompt_tokens"].to_list() for spec in (one, many)
    ]
    assert retrieval[0] == retrieval[1]


def test_a_shared_stage_is_not_drawn_again(make_trial):
    first, second = (
        make_trial("t0000", ("strong", 4), ("strong", 2)),
        make_trial("t0001", ("strong", 4), ("weak", 2)),
    )
    run(first)
    output, started = run(second)
    assert started == ["weak"], "retrieval is known already"
    one, two = table(first).filter(stage="retrieval"), table(second).filter(stage="retrieval")
    assert two["candidates"].to_list() == one["candidates"].to_list()
    assert (two["reused_tokens"] == two["prompt_tokens"] + two["decode_tokens"]).all()
    assert output.reused_tokens == two["reused_tokens"].sum()
    assert output.decode_tokens == table(second)["decode_tokens"].sum(), "cost does not depend on what was stored"  # fmt: skip


def test_fewer_samples_of_a_known_trial_need_no_engine_for_retrieval(make_trial):
    run(make_trial("t0000", ("strong", 8), ("strong", 1)))
    spec = make_trial("t0001", ("strong", 3), ("strong", 1))
    run(spec)
    whole = pl.read_parquet(Path(spec.directory).parent / "t0000" / EXAMPLES_FILE).filter(
        stage="retrieval"
    )
    few = table(spec).filter(stage="retrieval")
    assert few["candidates"].to_list() == whole["candidates"].list.head(3).to_list()


def test_the_same_trial_again_starts_no_engine_and_scores_the_same(make_trial):
    first, started = run(make_trial("t0000", ("weak", 3), ("weak", 3)))
    assert started == ["weak"]
    again, started = run(make_trial("t0001", ("weak", 3), ("weak", 3)))
    assert started == []
    assert (again.score, again.metrics) == (first.score, first.metrics)
    assert (again.prompt_tokens, again.decode_tokens) == (first.prompt_tokens, first.decode_tokens)
    assert again.reused_tokens == again.prompt_tokens + again.decode_tokens


def test_truncated_prompts_are_counted(make_trial):
    spec = make_trial(
        "t0000", ("weak", 1), ("weak", 1), options={"weak": {"max_model_len": 60}}
    )  # fmt: skip
    output, _ = run(spec)
    frame = table(spec)
    assert output.truncated == frame["truncated"].sum()
    assert frame.filter(stage="retrieval")["truncated"].all()


def test_examples_are_lines_whatever_their_texts_hold(tmp_path):
    file = tmp_path / "examples.jsonl"
    data = {"question": "a line\u2028separator, \x85 and \x1c"}
    lines = [json.dumps({"id": name, "data": data}, ensure_ascii=False) for name in "ab"]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [(e.id, e.data) for e in read_examples(file)] == [("a", data), ("b", data)]
    file.write_text("")
    with pytest.raises(UserError, match="no examples"):
        read_examples(file)


def test_a_merge_that_cannot_be_read_leaves_the_vote(make_trial, tmp_path):
    """The model answers every question, and says nothing when it is asked to merge its answers."""
    script = json.loads((tmp_path / "strong.json").read_text())
    script["rules"].insert(0, {"contains": ["Best answer:"], "replies": [{"text": " "}]})
    (tmp_path / "mute.json").write_text(json.dumps(script))
    mute = ModelConfig("mute", str(tmp_path / "mute.json"), engine="scripted", gpus=0,
                       prompt_style="few_shot_completion")  # fmt: skip
    spec = make_trial("t0000", ("mute", 9), ("mute", 9), models={"mute": mute})
    output, _ = run(spec)
    for row in table(spec).filter(stage="answer").iter_rows(named=True):
        answers = [text for text in row["candidates"] if text]
        assert json.loads(row["output"]) == max(answers, key=answers.count)
    assert output.score > 0


def test_a_main_metric_that_no_stage_gives_is_named_with_those_that_there_are(make_trial, tmp_path):
    (tmp_path / "own.py").write_text(
        "from agenttts.tasks.retrieval.task import RetrievalQA\n\n\n"
        "class Own(RetrievalQA):\n    main_metric = 'answer.exact'\n"
    )
    spec = make_trial("t0000", ("strong", 1), ("strong", 1), task=f"{tmp_path}/own.py:Own")
    with pytest.raises(UserError, match=r"main_metric 'answer\.exact'; valid: retrieval\.precision, .*answer\.em"):  # fmt: skip
        run(spec)


def test_a_task_without_the_settings_of_its_toolbox_is_refused_before_it_draws(
    make_trial, tmp_path
):
    (tmp_path / "own.py").write_text(
        "from agenttts.tasks.chatdev.task import ChatDev\n\n\n"
        "class Own(ChatDev):\n    def toolbox_settings(self, options): return None\n"
    )
    spec = make_trial("t0000", ("strong", 1), ("strong", 1), task=f"{tmp_path}/own.py:Own")
    with pytest.raises(UserError, match="is an ExecutingStage, but its task's toolbox_settings"):
        next(evaluate(spec))


NAMED_ALIKE = """
from agenttts.inference.base import Prompt
from agenttts.tasks.base import StageDefinition, Task

class Plan(StageDefinition):
    name, description, temperature = "plan", "plans", 0.0
    def prompt(self, example, outputs): return Prompt(system="Plan.", user=self.name)
    def parse(self, text, example): return text
    def fuse(self, candidates, example): return candidates[0]
    def metrics(self, output, example): return {"check.f1": 1.0, "checked": 0.5}

class Check(Plan):
    name = "plan.OTHER"
    def metrics(self, output, example): return {"f1": 0.0, "a.b": 0.25}

class Alike(Task):
    name, description, stages, main_metric = "alike", "two names", (Plan(), Check()), "plan.OTHER.f1"
    def load(self, config): return []
"""


@pytest.mark.parametrize("other", ["check", "checks"])
def test_a_metric_with_the_name_of_another_stage_is_refused(make_trial, tmp_path, other):
    """Both would be one column, and their mean one metric."""
    (tmp_path / "own.py").write_text(NAMED_ALIKE.replace("OTHER", other))
    names = ("plan", f"plan.{other}")
    spec = make_trial(
        "t0000", ("strong", 1), ("strong", 1), task=f"{tmp_path}/own.py:Alike",
        allocation=Allocation(tuple(Choice(name, "strong", 1) for name in names)), decode_tokens=dict.fromkeys(names, 32),
    )  # fmt: skip
    if other == "checks":
        expected = {"plan.check.f1": 1, "plan.checked": 0.5, "plan.checks.f1": 0, "plan.checks.a.b": 0.25}  # fmt: skip
        assert run(spec)[0].metrics == expected
        return
    with pytest.raises(UserError, match=r"^metric 'check\.f1' of stage 'plan' is called 'plan\.check\.f1' in tables, as a metric of stage 'plan\.check'; rename the metric, e\.g\. to 'check_f1', or the stage$"):  # fmt: skip
        run(spec)


def test_the_folder_of_a_tasks_file_hides_no_module_from_engines(make_trial, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # and what is put on the path later is removed
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "queue.py").write_text(
        "from agenttts.tasks.retrieval.task import RetrievalQA as Own\n"
    )
    own = {"task": f"{folder}/queue.py:Own", "task_source": str(folder)}
    run(make_trial("t0000", ("strong", 1), ("strong", 1), **own))
    assert PathFinder.find_spec("queue").origin != str(folder / "queue.py"), "engines get the path"


def test_the_score_comes_with_its_standard_error_over_the_examples(make_trial):
    spec = make_trial("t0000", ("strong", 3), ("weak", 5))
    output, _ = run(spec)
    rows = table(spec).filter(stage="answer")
    values = rows["metrics"].struct.field("em")
    assert output.score == pytest.approx(values.mean())
    assert output.score_stderr == pytest.approx(values.std() / len(values) ** 0.5)
    assert read_result(Path(spec.directory)) == output


def test_each_stage_draws_by_its_share(make_trial, monkeypatch):
    partitions = []
    draw = Sampler.draw_together

    def recorded(self, requests):
        partitions.extend((r.model, r.k, r.partition) for r in requests)
        return draw(self, requests)

    monkeypatch.setattr(Sampler, "draw_together", recorded)
    run(
        make_trial("t0000", ("strong", 2), ("weak", 3), shares={"retrieval": SamplePartition(1, 2)})
    )
    assert ("strong", 2, SamplePartition(1, 2)) in partitions
    assert ("weak", 3, ALONE) in partitions


FACTS = """\
name: facts
main_metric: answer.exact_match
stages:
  retrieval:
    prompt: "Facts: {{ text }}"
    parse: json
    metrics: {exact_match: city}
  answer:
    prompt: "{% if retrieval %}Add {{ retrieval.number + 1 }} in {{ retrieval.city }}{% else %}Guess{% endif %}"
    fuse: {model: {prompt: "Merge: {{ candidates | join('; ') }}"}}
    metrics: {exact_match: city}
"""  # fmt: skip


@pytest.mark.parametrize(
    "reply",
    ["I do not know", '{"town": 1}', '{"city": "Rome", "number": "x"}', "[1]", '{"number": 1}'],
)
def test_a_reply_that_a_later_prompt_cannot_take_spoils_its_example_alone(
    make_trial, tmp_path, reply
):
    (tmp_path / "task.yaml").write_text(FACTS)
    texts = ("Rome", "Oslo")
    (tmp_path / "two.jsonl").write_text(
        "".join(json.dumps({"id": t, "data": {"text": t, "city": t}}) + "\n" for t in texts)
    )
    rules = [
        {"contains": ["Facts: Rome"], "replies": [{"text": '{"city": "Rome", "number": 1}'}]},
        {"contains": ["Facts: Oslo"], "replies": [{"text": reply}]},
        {"contains": ["Add 2 in Rome"], "replies": [{"text": "Rome"}]},
        {"contains": ["Merge: Rome; Rome"], "replies": [{"text": "Rome"}]},
    ]
    (tmp_path / "facts.json").write_text(json.dumps({"rules": rules, "default": "a guess"}))
    model = ModelConfig("weak", str(tmp_path / "facts.json"), engine="scripted", gpus=0)
    spec = make_trial(
        "t0000", ("weak", 1), ("weak", 2), task=str(tmp_path / "task.yaml"),
        examples=str(tmp_path / "two.jsonl"), models={"weak": model},
    )  # fmt: skip
    output, _ = run(spec)
    assert output.score == 0.5
    answers = table(spec).filter(stage="answer")["output"].to_list()
    assert [json.loads(text) for text in answers] == ["Rome", "a guess"]
