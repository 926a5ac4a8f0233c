"""Right answers in the forms they are published in, and their aliases: any of them is right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agenttts import tasks
from agenttts.errors import Unavailable, UserError
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.loading.answers import read_answers
from agenttts.tasks.loading.records import Record
from agenttts.tasks.loading.report import LoadReport

CWQ = {"answer_id": "m.06m", "answer": "Rome", "aliases": ["Roma", "Eternal City"]}
WEBQSP = {"AnswerType": "Entity", "AnswerArgument": "m.06m", "EntityName": "Rome"}
DATE = {"AnswerType": "Value", "AnswerArgument": "1904-02-03", "EntityName": None}
TRIVIA = {
    "value": "Rome",
    "aliases": ["Roma", "Rome"],
    "normalized_value": "rome",
    "type": "WikipediaEntity",
}
SQUAD = {"text": ["Rome", "in Rome", "Rome"], "answer_start": [3, 0, 3]}


def answers(fields: dict[str, Any], names: tuple[str, ...] = ("answers", "answer", "Parses"), aliases: Any = None) -> tuple[str, ...]:  # fmt: skip
    return read_answers(Record(fields, lambda: "d.json:1"), names, aliases)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"answers": [CWQ]}, ("Rome", "Roma", "Eternal City")),
        ({"answers": [CWQ, {"answer_id": "m.1", "answer": "Oslo", "aliases": []}]}, ("Rome", "Roma", "Eternal City", "Oslo")),
        ({"answers": [{"answer": None, "aliases": ["Oslo"]}]}, ("Oslo",)),
        ({"answers": [{"answer": 1904, "aliases": [None, " ", "MCMIV"]}]}, ("1904", "MCMIV")),
        ({"answer": TRIVIA}, ("Rome", "Roma")),
        ({"answer": {"value": "Rome"}}, ("Rome",)),
        ({"answers": SQUAD}, ("Rome", "in Rome")),
        ({"answers": [{"text": "Rome", "answer_start": 3}, {"text": 7, "answer_start": 0}]}, ("Rome", "7")),
        ({"answers": json.dumps(SQUAD)}, ("Rome", "in Rome")),
        ({"answers": {"text": [], "answer_start": []}, "answer": "Oslo"}, ("Oslo",)),
        ({"answer": "Rome", "answer_aliases": ["Roma"]}, ("Rome", "Roma")),
        ({"answer": "Rome", "aliases": ["Roma", ""]}, ("Rome", "Roma")),
        ({"answer": ["Rome", CWQ, 3]}, ("Rome", "Roma", "Eternal City", "3")),
        ({"Parses": [{"Answers": [WEBQSP, DATE]}, {"Answers": [WEBQSP]}, {"Answers": []}]}, ("Rome", "1904-02-03")),
        ({"Parses": [{"Answers": [WEBQSP | {"Aliases": ["Roma"]}]}, {"ParseId": "x"}]}, ("Rome", "Roma")),
        # What another field knows of the same answers counts, and nothing else of it.
        ({"answer": ["rome!"], "Parses": [{"Answers": [WEBQSP | {"Aliases": ["Roma"]}, DATE]}]}, ("rome!", "Rome", "Roma")),
        ({"answer": ["Oslo"], "answers": None, "Parses": "none"}, ("Oslo",)),
        # Tables hold lists as their JSON texts.
        ({"answers": json.dumps([CWQ])}, ("Rome", "Roma", "Eternal City")),
        ({"answers": '["Rome", "Roma"]'}, ("Rome", "Roma")),
        ({"answers": "[sic]"}, ("[sic]",)),
        # A column of whole numbers with a null in it is one of floats.
        ({"answer": 1999.0}, ("1999",)),
        ({"answer": [-3.0, 0.5, {"answer": 7.0, "aliases": [8.0]}]}, ("-3", "0.5", "7", "8")),
        ({"answer": 1e16}, ("10000000000000000",)),
        ({"answers": '{"x": 1}'}, ('{"x": 1}',)),
    ],
)  # fmt: skip
def test_every_form_of_answers(fields, expected):
    assert answers(fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"answer": {"text": "Rome"}}, "field 'answer' must be a list of one or more texts .*{answer, aliases}"),
        ({"answer": {"text": [["Rome"]], "answer_start": [3]}}, "field 'answer' must be .*{text, answer_start}"),
        ({"answer": {"text": [], "answer_start": []}}, "field 'answer' must be"),
        ({"answer": {"value": ["Rome"]}}, "field 'answer' must be"),
        ({"answer": {"value": "Rome", "aliases": "Roma"}}, "field 'answer' must be"),
        ({"answer": {"value": "Rome", "aliases": [["Roma"]]}}, "field 'answer' must be"),
        ({"answer": {"value": None, "aliases": []}}, "field 'answer' must be"),
        ({"answers": [CWQ, True]}, "field 'answers' must be"),
        ({"answer": "Rome", "aliases": {"a": 1}}, "field 'aliases' must be a list of texts, the other names"),
        ({"Parses": []}, "field 'Parses' must be a list"),
        ({"Parses": [{"Answers": []}]}, "field 'Parses' must be a list"),
        ({"Parses": [{"Answers": {}}]}, "field 'Parses' must be a list"),
        ({"Parses": [{"Answers": "x"}]}, "field 'Parses' must be a list of objects, each with a list 'Answers'"),
        ({"Parses": [{"Answers": [{"Name": "x"}]}]}, "field 'Parses' must be a list of objects"),
        ({"Parses": ["x"]}, "field 'Parses' must be a list of objects"),
        ({"Parses": {"Answers": []}}, "field 'Parses' must be a list of objects"),
    ],
)  # fmt: skip
def test_malformed_answers_name_the_field(fields, expected):
    with pytest.raises(UserError, match=f"^d.json:1: {expected}"):
        answers(fields)


KNOWN = {"m.06m": ("Roma",), "Q1": ("Eternal City",), "7": ("seven",)}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"answer": "Rome", "answer_id": "Q1"}, ("Rome", "Eternal City")),
        ({"answer": "Rome", "answer_id": ["Q1", "m.06m"]}, ("Rome", "Eternal City", "Roma")),
        ({"answer": "Rome", "answer_id": 7}, ("Rome", "seven")),
        ({"answer": "yes", "answer_id": None}, ("yes",)),
        ({"answer": "yes", "answer_id": "Q2"}, ("yes",)),
        ({"answers": [CWQ | {"aliases": []}]}, ("Rome", "Roma")),
        ({"Parses": [{"Answers": [WEBQSP]}]}, ("Rome", "Roma")),
        ({"answer": ["Rome"], "Parses": [{"Answers": [WEBQSP]}]}, ("Rome", "Roma")),
        ({"answer": ["Oslo"], "Parses": [{"Answers": [WEBQSP]}]}, ("Oslo",)),
    ],
)
def test_aliases_by_the_ids_of_answers(fields, expected):
    assert answers(fields, aliases=KNOWN) == expected


def released(n: int, **changes: object) -> dict[str, object]:
    """A record of 2WikiMultiHopQA as first released."""
    return {
        "_id": f"r{n}",
        "type": "bridge",
        "question": f"Where was {n} born?",
        "context": [["A", ["One.", "Two."]], ["B", ["Three."]]],
        "supporting_facts": [["B", 0]],
        "evidences": [["A", "place of birth", "Rome"]],
        "answer": "Rome",
        "evidences_id": [["Q5", "place of birth", "Q220"]],
        "answer_id": "Q220",
        **changes,
    }


def alias(ident: str, *names: str, demonyms: tuple[str, ...] = ()) -> dict[str, object]:
    return {"Q_id": ident, "aliases": list(names), "demonyms": list(demonyms)}


@pytest.fixture
def two_wiki(tmp_path):
    records = [released(0), released(1, answer="no", answer_id=None), released(2, answer_id="Q9")]
    (tmp_path / "dev.json").write_text(json.dumps(records))
    names = [alias("Q220", "Roma", " Eternal  City ", demonyms=("Roman",)), alias("Q1")]
    (tmp_path / "id_aliases.json").write_text("\n".join(map(json.dumps, names)))
    return tmp_path


def test_2wiki_as_released_with_its_aliases(two_wiki):
    task = tasks.create("retrieval_qa")
    report = LoadReport()
    options = {"aliases": str(two_wiki / "id_aliases.json")}
    found = {e.id: e for e in task.load(TaskConfig(str(two_wiki / "dev.json"), options=options, report=report))}  # fmt: skip
    assert {e.id: e.data["answers"] for e in found.values()} == {
        "r0": ["Rome", "Roma", "Eternal  City", "Roman"],
        "r1": ["no"],
        "r2": ["Rome"],
    }
    assert found["r0"].data["candidates"] == ["A: One. Two.", "B: Three."]
    assert found["r0"].data["gold_ids"] == [2]
    stage = task.stage("answer")
    scores = [stage.metrics(text, found["r0"]) for text in ("the eternal city", "Roman", "Paris")]
    assert [s["em"] for s in scores] == [1, 1, 0]
    assert scores[0]["f1"] == 1, "the best match counts"
    assert stage.metrics("Roman", found["r2"])["em"] == 0
    [source] = report.sources.values()
    assert source.notes == (f"1 of 3 records have answers with aliases in {options['aliases']}",)
    plain = task.load(TaskConfig(str(two_wiki / "dev.json")))
    assert {e.id: e.data["answers"] for e in plain}["r0"] == ["Rome"]


@pytest.mark.parametrize("form", ["list", "document", "gzip", "csv"])
def test_aliases_in_other_forms_of_file(two_wiki, form):
    import gzip

    names = [alias("Q220", "Roma"), alias("Q9")]
    text = json.dumps(names)
    path = two_wiki / {"gzip": "a.json.gz", "csv": "a.csv"}.get(form, "a.json")
    content = {
        "list": text.encode(),
        "document": json.dumps({"aliases": names}).encode(),
        "gzip": gzip.compress(text.encode()),
        "csv": b'Q_id,aliases\nQ220,"[""Roma""]"\nQ9,[]\n',
    }[form]
    path.write_bytes(content)
    found = tasks.create("retrieval_qa").load(TaskConfig(str(two_wiki / "dev.json"), options={"aliases": str(path)}))  # fmt: skip
    assert {e.id: e.data["answers"] for e in found}["r0"] == ["Rome", "Roma"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"Q_id": "Q1", "aliases": []}\n{"Q_id": 1.5, "aliases": []}', "a.json:2: field 'Q_id' must be the id"),
        ('{"Q_id": "Q1", "aliases": []}\n{"aliases": []}', "a.json:2: field 'Q_id' is missing"),
        ('{"Q_id": "Q1", "aliases": []}\n{"Q_id": "Q2"}', "a.json:2: field 'aliases' is missing"),
        ('{"Q_id": "Q1", "aliases": []}\n{"Q_id": "Q2", "aliases": "x"}', "a.json:2: field 'aliases' must be a list of texts"),
        ('{"Q_id": "Q1", "aliases": []}\n{"Q_id": "Q2", "aliases": [], "demonyms": [1]}', "a.json:2: field 'demonyms' must be"),
        ('{"Q_id": "Q1", "aliases": []}\n{bad', "a.json:2: not a JSON object"),
        ("", "holds no records"),
    ],
)  # fmt: skip
def test_a_malformed_file_of_aliases_is_refused(two_wiki, text, expected):
    (two_wiki / "a.json").write_text(text)
    config = TaskConfig(str(two_wiki / "dev.json"), options={"aliases": str(two_wiki / "a.json")}, report=LoadReport(9))  # fmt: skip
    with pytest.raises(UserError, match=f"^options.aliases: .*{expected}"):
        tasks.create("retrieval_qa").load(config)


def test_a_file_of_aliases_that_is_missing_or_of_no_use(two_wiki):
    task = tasks.create("retrieval_qa")
    with pytest.raises(Unavailable, match=r"^options.aliases: .*none.json does not exist; .*id_aliases.json"):  # fmt: skip
        task.load(TaskConfig(str(two_wiki / "dev.json"), options={"aliases": str(two_wiki / "none.json")}))  # fmt: skip
    with pytest.raises(UserError, match=r"no record of builtin:twohop has a field 'answer_id'"):
        task.load(TaskConfig("", options={"aliases": str(two_wiki / "id_aliases.json")}))
    with pytest.raises(UserError, match=r"^options.aliases: 3 is not valid; valid: the path of"):  # fmt: skip
        task.load(TaskConfig("", options={"aliases": 3}))


TRIPLES = {
    "crucial_triples": [["Bo", "born in", "Rome"]],
    "gt_triples": [],
    "2hop_triples": [["Bo", "died in", "Oslo"]],
}


def test_webqsp_as_published_beside_its_triples(tmp_path):
    question = {
        "QuestionId": "WebQTest-7",
        "RawQuestion": "where was bo born?",
        "ProcessedQuestion": "where was bo born",
        "Parses": [
            {
                "ParseId": "WebQTest-7.P0",
                "TopicEntityMid": "m.01",
                "InferentialChain": ["people.person.place_of_birth"],
                "Constraints": [],
                "Answers": [WEBQSP, WEBQSP | {"AnswerArgument": "m.02", "EntityName": "Italy"}],
            }
        ],
        **TRIPLES,
    }
    document = {"Version": "1.0", "FreebaseVersion": "2015-08-09", "Questions": [question]}
    (tmp_path / "WebQSP.test.json").write_text(json.dumps(document, indent=2))
    (tmp_path / "mids.jsonl").write_text(json.dumps({"id": "m.06m", "aliases": ["Roma"]}))
    report = LoadReport()
    options = {"aliases": str(tmp_path / "mids.jsonl")}
    [found] = tasks.create("kgqa").load(
        TaskConfig(str(tmp_path / "WebQSP.test.json"), options=options, report=report)
    )
    assert found.id == "WebQTest-7"
    assert found.data["question"] == "where was bo born?"
    assert found.data["answers"] == ["Rome", "Italy", "Roma"]
    assert next(iter(report.sources.values())).key == "Questions"


def test_cwq_as_published_beside_its_triples(tmp_path):
    record = {"ID": "WebQTrn-1_a", "question": "Where?", "answers": [CWQ], **TRIPLES}
    (tmp_path / "cwq.json").write_text(json.dumps([record]))
    [found] = tasks.create("kgqa").load(TaskConfig(str(tmp_path / "cwq.json")))
    assert found.data["answers"] == ["Rome", "Roma", "Eternal City"]
    stage = tasks.create("kgqa").stage("answer")
    assert stage.metrics("roma", found)["em"] == 1
    # As prepared with triples: the texts alone, and the published objects beside them.
    (tmp_path / "both.json").write_text(json.dumps([record | {"answer": ["Rome"]}]))
    [found] = tasks.create("kgqa").load(TaskConfig(str(tmp_path / "both.json")))
    assert found.data["answers"] == ["Rome", "Roma", "Eternal City"]


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (TRIVIA, "roma", "value"),
        ([CWQ, "Oslo"], "Eternal City", "aliases"),
        ({"steps": ["a"]}, '{"steps": ["a"]}', "a"),
    ],
)
def test_a_task_of_your_own_takes_answers_with_aliases(tmp_path, gold, right, wrong):
    (tmp_path / "task.yaml").write_text(
        "name: t\nmain_metric: a.exact_match\nstages:\n  a:\n    prompt: '{{ question }}'\n"
        "    metrics: {exact_match: gold, contains: gold, token_f1: gold, rouge_l: gold}\n"
    )
    (tmp_path / "d.json").write_text(json.dumps([{"question": "Where?", "gold": gold}]))
    task = tasks.create(str(tmp_path / "task.yaml"))
    [example] = task.load(TaskConfig(str(tmp_path / "d.json")))
    [stage] = task.stages
    assert set(stage.metrics(right, example).values()) == {1.0}
    assert stage.metrics(wrong, example)["exact_match"] == 0
