"""The data sets of knowledge-graph QA.

They are ComplexWebQuestions and WebQSP, with the triples around each question.
"""

from __future__ import annotations

from typing import Any

from agenttts.tasks.loading.aliases import AliasFile, convert_with_aliases
from agenttts.tasks.loading.answers import PARSES, is_text_or_number, read_answers
from agenttts.tasks.loading.records import Record
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.loading.source import DATA_FOLDER, example_id, read_source, take_split
from agenttts.tasks.retrieval.data import RetrievalExample

BUILT_IN = {"smallkg": DATA_FOLDER / "smallkg.json"}
DEFAULT_DATA = "builtin:smallkg"
OTHERS = 100
"""The most candidate triples that are not gold."""

_IDS = ("ID", "QuestionId", "_id", "id")
_QUESTIONS = ("question", "RawQuestion")
_ANSWERS = ("answer", "answers", PARSES)

Triple = tuple[str, str, str]


def load_triples(
    data: str,
    *,
    split: str = "search",
    examples: int | None = None,
    search_examples: int | None = None,
    hub_split: str = "",
    records_key: str = "",
    aliases: str = "",
    seed: int = 0,
    report: LoadReport | None = None,
) -> list[RetrievalExample]:
    """Return the examples of a split of ``data``; arguments as in `load_retrieval`.

    A record holds:

    - ``question`` or WebQSP's ``RawQuestion``; the first that is not null.
    - ``answer``, ``answers`` or WebQSP's ``Parses`` (see `agenttts.tasks.loading.answers`).
    - ``crucial_triples``, ``gt_triples`` and ``2hop_triples``.

    The candidates are the first 100 2-hop triples that are not gold (neither in ``gt_triples`` nor
    crucial), followed by the crucial ones, each once and not shuffled yet. The crucial ones are the
    gold ids. If a record has no crucial triple, retrieval scores 0 for every selection. Triples
    with a null are dropped, but a crucial triple with a null is an error.

    Raises:
        UserError: Data are missing, malformed or too few. Also the errors of `read_hub`.
    """
    data = data or DEFAULT_DATA
    source = read_source(
        data,
        BUILT_IN,
        split=split,
        hub_split=hub_split,
        records_key=records_key,
        fields=[_QUESTIONS],
    )
    found = convert_with_aliases(
        source, _example, report or LoadReport(), aliases=aliases, answers=_ANSWERS
    )
    return take_split(
        found, split=split, examples=examples, search_examples=search_examples, seed=seed, data=data
    )


def triple_text(triple: Triple) -> str:
    """Return a triple in the form of prompts."""
    return f"({', '.join(triple)})"


def _example(record: Record, number: int, aliases: AliasFile | None) -> RetrievalExample:
    crucial = list(dict.fromkeys(_triples(record, "crucial_triples", nulls=False)))
    gold = {*crucial, *_triples(record, "gt_triples")}
    others = [triple for triple in _triples(record, "2hop_triples") if triple not in gold][:OTHERS]
    candidates = [triple_text(triple) for triple in (*others, *crucial)]
    return RetrievalExample(
        id=example_id(record, number, _IDS),
        question=record.text(record.first_given(_QUESTIONS)).strip(),
        answers=read_answers(record, _ANSWERS, aliases.names if aliases else None),
        candidates=tuple(candidates),
        gold_ids=tuple(range(len(others) + 1, len(candidates) + 1)),
    )


def _triples(record: Record, field: str, *, nulls: bool = True) -> list[Triple]:
    """Return the triples of a field, which must be a list of [head, relation, tail].

    Numbers become texts, and triples with nulls are dropped. Without ``nulls``, a null in a triple
    is an error.
    """
    value = record.structure(field)
    if not isinstance(value, list) or not all(_is_triple(item, nulls) for item in value):
        raise record.error(field, "must be a list of [head, relation, tail] triples")
    whole = [triple for triple in value if None not in triple]
    return [(str(head), str(relation), str(tail)) for head, relation, tail in whole]


def _is_triple(item: Any, nulls: bool) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 3
        and all((nulls and part is None) or is_text_or_number(part) for part in item)
    )
