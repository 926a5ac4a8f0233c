"""ComplexWebQuestions and WebQSP: which triples are candidates, which are gold, what is wrong
with a record.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.retrieval.data import arranged
from agenttts.tasks.retrieval.kgqa_data import load_triples


def triple(n: int) -> list[str]:
    return [f"h{n}", "r", f"t{n}"]


RECORD = {
    "ID": "q",
    "question": "Who?",
    "answer": ["Ann", " ", None, "Ann"],
    "crucial_triples": [triple(2), triple(1)],
    "gt_triples": [triple(1), triple(2), triple(3)],
    "2hop_triples": [triple(n) for n in (9, 3, 8, 1, 7)],
}


def load(tmp_path, *records):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(list(records), indent=1))
    return load_triples(str(path))


def test_candidates_are_the_triples_that_are_not_gold_and_the_crucial_ones(tmp_path):
    [found] = load(tmp_path, RECORD)
    assert found.id == "q"
    assert found.answers == ("Ann",)
    assert found.candidates == ("(h9, r, t9)", "(h8, r, t8)", "(h7, r, t7)", "(h2, r, t2)", "(h1, r, t1)")  # fmt: skip
    assert found.gold_ids == (4, 5)


def test_only_the_first_100_that_are_not_gold(tmp_path):
    near = [triple(n) for n in range(1, 160)]
    [found] = load(tmp_path, RECORD | {"2hop_triples": near})
    # 1 to 3 are gold, so that the first 100 others are 4 to 103.
    assert found.candidates[:100] == tuple(f"(h{n}, r, t{n})" for n in range(4, 104))
    assert len(found.candidates) == 102
    assert found.gold_ids == (101, 102)


def test_webqsp_has_its_question_under_another_name(tmp_path):
    record = {key: value for key, value in RECORD.items() if key not in ("question", "ID")}
    [found] = load(tmp_path, record | {"RawQuestion": "Which?", "QuestionId": "WebQTest-1"})
    assert (found.id, found.question) == ("WebQTest-1", "Which?")


def test_a_record_without_crucial_triples_is_one_whose_retrieval_scores_nothing(tmp_path):
    [found] = load(tmp_path, RECORD | {"crucial_triples": []})
    assert (found.candidates, found.gold_ids) == (("(h9, r, t9)", "(h8, r, t8)", "(h7, r, t7)"), ())
    [bare] = load(tmp_path, RECORD | {"crucial_triples": [], "2hop_triples": []})
    stage = tasks.create("kgqa").stage("retrieval")
    for example in (arranged(found, max_candidates=2, shuffle=True, seed=0), bare):
        case = example.to_example()
        assert "Who?" in stage.prompt(case, {}).user
        for text in ("[1] [2]", ""):
            metrics = stage.metrics(stage.parse(text, case), case)
            assert metrics == {"precision": 0, "recall": 0, "f1": 0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([2011, 2.5, "x"], ("2011", "2.5", "x")),
        ("Paris ", ("Paris",)),
        (2011, ("2011",)),
    ],
)
def test_answers_may_be_numbers_or_stand_alone(tmp_path, answer, expected):
    [found] = load(tmp_path, RECORD | {"answer": answer})
    assert found.answers == expected


def test_a_null_question_counts_as_absent(tmp_path):
    [found] = load(tmp_path, RECORD | {"question": None, "RawQuestion": "Which?"})
    assert found.question == "Which?"


def test_triples_with_nulls_are_dropped_where_they_are_not_gold(tmp_path):
    change = {
        key: [*RECORD[key], ["h", "r", None], [None] * 3] for key in ("2hop_triples", "gt_triples")
    }
    assert load(tmp_path, RECORD | change) == load(tmp_path, RECORD)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"2hop_triples": [["a", "b"]]}, "field '2hop_triples' must be a list of [head, relation, tail] triples"),
        ({"gt_triples": None}, "field 'gt_triples' must be a list of [head, relation, tail] triples"),
        ({"crucial_triples": None}, "field 'crucial_triples' must be a list of [head, relation, tail] triples"),
        ({"crucial_triples": [["a", None, "b"]]}, "field 'crucial_triples' must be a list of [head, relation, tail] triples"),
        ({"answer": {"text": "Ann"}}, "field 'answer' must be a list of one or more texts or numbers"),
        ({"answer": [True]}, "field 'answer' must be a list of one or more texts or numbers"),
        ({"answer": [" "]}, "field 'answer' must be a list of one or more texts or numbers"),
        ({"answer": None}, "field 'answer' must be a list of one or more texts or numbers"),
        ({"question": None}, "field 'question' must be a text"),
        ({"question": 3}, "field 'question' must be a text"),
    ],
)  # fmt: skip
def test_a_malformed_record_names_its_line(tmp_path, change, expected):
    good = json.dumps([RECORD], indent=1)
    line = good.count("\n") + 1  # where the second record of the list begins
    with pytest.raises(UserError) as caught:
        load(tmp_path, RECORD, RECORD | {"ID": "r"} | change)
    assert f"d.json:{line} (record 2): " in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_field_names_the_one_that_may_be_meant(tmp_path):
    record = {key: value for key, value in RECORD.items() if key != "crucial_triples"}
    with pytest.raises(UserError, match="'crucial_triples' is missing.*is 'crucial_triple' meant"):
        load(tmp_path, record | {"crucial_triple": []})


def test_the_task_shuffles_the_candidates_with_the_seed(tmp_path):
    path = tmp_path / "d.json"
    path.write_text(json.dumps([RECORD | {"2hop_triples": [triple(n) for n in range(1, 60)]}]))
    task = tasks.create("kgqa")
    orders = [task.load(TaskConfig(str(path), seed=seed))[0].data for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for data in orders:
        gold = [data["candidates"][n - 1] for n in data["gold_ids"]]
        assert gold == ["(h2, r, t2)", "(h1, r, t1)"]
        assert data["gold_ids"] != [57, 58]
    assert sorted(orders[0]["candidates"]) == sorted(orders[2]["candidates"])
    trimmed = task.load(TaskConfig(str(path), options={"max_candidates": 7}))[0].data
    assert len(trimmed["candidates"]) == 7
    assert {trimmed["candidates"][n - 1] for n in trimmed["gold_ids"]} == {"(h2, r, t2)", "(h1, r, t1)"}  # fmt: skip


def test_options_are_checked_before_the_data_are_read():
    task = tasks.create("kgqa")
    with pytest.raises(UserError, match="no option 'max_candidate'.*did you mean 'max_candidates'"):
        task.load(TaskConfig("./none.json", options={"max_candidate": 3}))
    with pytest.raises(UserError, match="max_candidates: 0 is not valid"):
        task.load(TaskConfig("./none.json", options={"max_candidates": 0}))


def test_excerpt_of_cwq(excerpt):
    path = excerpt("cwq.excerpt.json")
    records = {r["ID"]: r for r in json.loads(Path(path).read_text("utf-8"))}
    found = tasks.create("kgqa").load(TaskConfig(path))
    # 30, 30 and 20 triples, of which 1, 0 and 8 (with repeats) are gold; 2, 4 and 2 crucial ones:
    # counted by hand.
    counts = {example.id: len(example.data["candidates"]) for example in found}
    assert [counts[key] for key in records] == [31, 34, 14]
    for example in found:
        record = records[example.id]
        gold = {example.data["candidates"][n - 1] for n in example.data["gold_ids"]}
        assert gold == {f"({', '.join(t)})" for t in record["crucial_triples"]}
        assert example.data["answers"] == record["answer"]
        others = set(example.data["candidates"]) - gold
        assert not others & {f"({', '.join(t)})" for t in record["gt_triples"]}
