"""The data sets of retrieval QA: the published formats and what is wrong with a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttts import tasks
from agenttts.errors import UserError
from agenttts.tasks.retrieval.data import RetrievalExample, arranged, load_retrieval

LISTED = {
    "question": "Who?",
    "answers": ["Ann", "Ann", "Anne"],
    "ctxs_candidate": ["w", "x", "y", "x"],
    "ctxs_gt": ["y", "x"],
}
HOTPOT = {
    "_id": "h1",
    "question": "Who?",
    "answer": "Ann",
    "supporting_facts": [["B", 1], ["A", 0], ["B", 0]],
    "context": [["A", ["One. ", "Two."]], ["C", ["No."]], ["B", [" Three."]]],
    "type": "bridge",
    "level": "easy",
}


def load(tmp_path, *records):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return load_retrieval(str(path))


def test_2wiki(tmp_path):
    [found] = load(tmp_path, LISTED)
    assert found == RetrievalExample("0", "Who?", ("Ann", "Anne"), ("w", "x", "y", "x"), (3, 2))


def test_a_blank_reference_is_a_distractor(tmp_path):
    [found] = load(tmp_path, LISTED | {"ctxs_candidate": ["", "x", "y"]})
    assert (found.candidates, found.gold_ids) == (("", "x", "y"), (3, 2))


def test_a_record_may_have_no_gold_reference(tmp_path):
    [found] = load(tmp_path, LISTED | {"ctxs_gt": []})
    assert found.gold_ids == ()
    assert len(arranged(found, max_candidates=2, shuffle=True, seed=0).candidates) == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answers": [1987]}, ("1987",)),
        ({"answers": ["Paris", "", None, " "]}, ("Paris",)),
        ({"answers": None, "answer": "Paris"}, ("Paris",)),
        ({"answers": [], "answer": "Paris"}, ("Paris",)),
        ({"answers": None, "answer": 1987}, ("1987",)),
        ({"answers": "Paris"}, ("Paris",)),
    ],
)
def test_answers_are_read_in_every_form_there_is(tmp_path, change, expected):
    [found] = load(tmp_path, LISTED | change)
    assert found.answers == expected


def test_hotpotqa_as_published_and_as_the_hub_stores_it(tmp_path):
    expected = RetrievalExample(
        "h1", "Who?", ("Ann",), ("A: One. Two.", "C: No.", "B: Three."), (3, 1)
    )
    assert load(tmp_path, HOTPOT) == [expected]
    columns = HOTPOT | {
        "supporting_facts": {"title": ["B", "A", "B"], "sent_id": [1, 0, 0]},
        "context": {"title": ["A", "C", "B"], "sentences": [["One. ", "Two."], ["No."], [" Three."]]},
    }  # fmt: skip
    assert load(tmp_path, columns) == [expected]


def test_hotpotqa_in_the_shape_of_2wiki(tmp_path):
    record = {**LISTED, "answer": "Ann", "_id": "h2"}
    del record["answers"]
    [found] = load(tmp_path, record)
    assert (found.id, found.answers, found.gold_ids) == ("h2", ("Ann",), (3, 2))


def test_gold_texts_are_matched_whatever_their_white_space(tmp_path):
    change = {"ctxs_candidate": ["a  b\n", "c\u00a0d", "e"], "ctxs_gt": ["c d ", "a b"]}
    [found] = load(tmp_path, LISTED | change)
    assert (found.candidates, found.gold_ids) == (("a  b\n", "c\u00a0d", "e"), (2, 1))
    [found] = load(tmp_path, HOTPOT | {"supporting_facts": [["B ", 1], ["\u00a0A", 0]]})
    assert found.gold_ids == (3, 1)


def test_a_gold_paragraph_that_was_not_retrieved_counts_as_missed(tmp_path):
    facts = [["Z", 0], ["B", 1], ["Y", 0], ["Z", 1]]
    [found] = load(tmp_path, HOTPOT | {"supporting_facts": facts})
    assert (len(found.candidates), found.gold_ids) == (3, (4, 3, 5))
    trimmed = arranged(found, max_candidates=2, shuffle=True, seed=0)
    assert len(trimmed.candidates) == 2
    assert sorted(trimmed.gold_ids)[1:] == [3, 4], "one is there, two are not"
    stage = tasks.create("retrieval_qa").stage("retrieval")
    for example in (found, trimmed):
        case = example.to_example()
        picked = stage.parse("[1] [2] [3] [4] [5]", case)
        assert len(picked) == len(example.candidates)
        assert stage.metrics(picked, case)["recall"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("record", "change", "expected"),
    [
        (LISTED, {"answers": []}, "field 'answers' must be a list of one or more texts or numbers"),
        (LISTED, {"answers": [None, " "]}, "field 'answers' must be a list of one or more texts or numbers"),
        (LISTED, {"answers": None}, "field 'answers' must be a list of one or more texts or numbers"),
        (LISTED, {"answers": [["Ann"]]}, "field 'answers' must be a list of one or more texts or numbers"),
        (HOTPOT, {"answer": True}, "field 'answer' must be a list of one or more texts or numbers"),
        (LISTED, {"ctxs_gt": None}, "field 'ctxs_gt' must be a list of texts"),
        (LISTED, {"question": " "}, "field 'question' must be a text"),
        (LISTED, {"ctxs_gt": ["z"]}, "field 'ctxs_gt' must hold only texts of 'ctxs_candidate'"),
        (LISTED, {"ctxs_candidate": "w"}, "field 'ctxs_candidate' must be a list"),
        (HOTPOT, {"supporting_facts": [["Z"]]}, "must be a list of one or more [title, sent_id] pairs"),
        (HOTPOT, {"context": [["A"]]}, "must be a list of one or more [title, sentences] pairs"),
        (HOTPOT, {"context": [["A", [3]]]}, "must hold only texts in paragraph 'A'"),
    ],
)  # fmt: skip
def test_a_malformed_record_names_its_line(tmp_path, record, change, expected):
    with pytest.raises(UserError) as caught:
        load(tmp_path, record | {"id": "first"}, record | {"_id": "second"} | change)
    assert "d.jsonl:2: " in str(caught.value)
    assert expected in str(caught.value)


def test_excerpt_of_2wiki(excerpt):
    path = excerpt("2wiki.excerpt.json")
    records = json.loads(Path(path).read_text("utf-8"))
    found = {int(example.id): example for example in load_retrieval(path)}
    assert len(found) == len(records) == 4
    for number, record in enumerate(records):
        example = found[number]
        assert list(example.candidates) == record["ctxs_candidate"]
        assert [example.candidates[n - 1] for n in example.gold_ids] == record["ctxs_gt"]
        assert set(example.answers) == set(record["answers"])


def test_excerpt_of_hotpotqa(excerpt):
    path = excerpt("hotpotqa.excerpt.json")
    found = {example.id: example for example in load_retrieval(path)}
    records = json.loads(Path(path).read_text("utf-8"))
    assert len(found) == len(records) == 4
    for record in records:
        example = found[record["_id"]]
        titles = [text.partition(": ")[0] for text in example.candidates]
        assert titles == [title for title, _ in record["context"]]
        gold = {titles[n - 1] for n in example.gold_ids}
        assert gold == {title for title, _ in record["supporting_facts"]}


def test_trimming_keeps_the_gold_references_and_shuffling_moves_their_numbers():
    texts = tuple(f"text {n}" for n in range(20))
    example = RetrievalExample("e", "Who?", ("Ann",), texts, (20, 3))
    for seed in range(20):
        found = arranged(example, max_candidates=5, shuffle=True, seed=seed)
        assert len(found.candidates) == 5
        assert [found.candidates[n - 1] for n in found.gold_ids] == ["text 19", "text 2"]
    kept = arranged(example, max_candidates=5, shuffle=False, seed=0).candidates
    assert list(kept) == sorted(kept, key=texts.index), "trimmed only, they stay in order"
    one = arranged(example, max_candidates=1, shuffle=False, seed=0)
    assert one.candidates == ("text 2", "text 19"), "gold references are never dropped"
