"""The data sets of retrieval QA: the published formats as one kind of example.

Knowledge-graph QA uses the same kind of example.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from agenttts.tasks.base import Example
from agenttts.tasks.loading.aliases import AliasFile, convert_with_aliases
from agenttts.tasks.loading.answers import read_answers
from agenttts.tasks.loading.records import Record
from agenttts.tasks.loading.report import LoadReport
from agenttts.tasks.loading.source import DATA_FOLDER, example_id, read_source, take_split

BUILT_IN = {"twohop": DATA_FOLDER / "twohop.jsonl"}
DEFAULT_DATA = "builtin:twohop"
_ANSWERS = ("answers", "answer")


@dataclass(frozen=True)
class RetrievalExample:
    """A question over numbered references.

    Attributes:
        id: Id of the example.
        question: The question.
        candidates: The references' texts.
        gold_ids: Numbers of the references needed for the answer. They count from 1 as in prompts,
            so they are the positions of the published files plus one. Without any, retrieval scores
            0 for every selection. A number beyond the candidates stands for a gold reference that
            is not among them (HotpotQA's full-wiki setting); it counts as missed.
        answers: The right answers; any of them is right.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    candidates: tuple[str, ...]
    gold_ids: tuple[int, ...]

    def to_example(self) -> Example:
        """Return it as an example of a task, whose data are JSON values."""
        data = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        del data["id"]
        return Example(id=self.id, data=data)

    @classmethod
    def of(cls, example: Example) -> RetrievalExample:
        """Return the retrieval example that `to_example` turned into ``example``."""
        data: Mapping[str, Any] = example.data
        return cls(
            id=example.id,
            question=data["question"],
            answers=tuple(data["answers"]),
            candidates=tuple(data["candidates"]),
            gold_ids=tuple(data["gold_ids"]),
        )


def load_retrieval(
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
    """Return the examples of a split of ``data``.

    For the splits see `agenttts.tasks.loading.source.take_split`, for bad records
    `agenttts.tasks.loading.report.convert`.

    Args:
        data: A file, a hub id, ``builtin:NAME``, or empty for the built-in default.
        split: Name of the split.
        examples: Number of examples; None: all.
        search_examples: Number of examples of the search split.
        hub_split: Split of a hub data set to draw from.
        records_key: Key of the records in a JSON document.
        aliases: File of other names of the answers (`agenttts.tasks.loading.aliases`).
        seed: Seed of the order.
        report: Records what was read.

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
        fields=[("question",)],
    )
    found = convert_with_aliases(
        source, _example, report or LoadReport(), aliases=aliases, answers=_ANSWERS
    )
    return take_split(
        found, split=split, examples=examples, search_examples=search_examples, seed=seed, data=data
    )


def arranged(
    example: RetrievalExample, *, max_candidates: int | None, shuffle: bool, seed: int
) -> RetrievalExample:
    """Trim and shuffle the references of an example, as ``seed`` determines.

    At most ``max_candidates`` are kept: the gold ones, and enough others drawn at random to reach
    that number, in the order of the data. ``shuffle`` then puts them in a random order. Gold
    numbers follow their references.
    """
    # One generator for each example, so that its references do not depend on the number of
    # examples.
    random_order = random.Random(f"{seed}:{example.id}")
    positions = list(range(len(example.candidates)))
    reachable = [number for number in example.gold_ids if number <= len(positions)]
    gold = {number - 1 for number in reachable}
    if max_candidates is not None:
        others = [position for position in positions if position not in gold]
        room = min(len(others), max(0, max_candidates - len(gold)))
        positions = sorted(gold | set(random_order.sample(others, room)))
    if shuffle:
        random_order.shuffle(positions)
    number_of = {position: number for number, position in enumerate(positions, 1)}
    missing = range(len(positions) + 1, len(positions) + 1 + len(example.gold_ids) - len(reachable))
    return replace(
        example,
        candidates=tuple(example.candidates[position] for position in positions),
        gold_ids=(*(number_of[number - 1] for number in reachable), *missing),
    )


def _example(record: Record, number: int, aliases: AliasFile | None) -> RetrievalExample:
    """Make an example of a record in any of the formats.

    Its id is the record's own, else the record's position in the data.
    """
    if record.is_given("context") and not record.is_given("ctxs_candidate"):
        candidates, gold = _hotpot_references(record)
    else:
        candidates, gold = _listed_references(record)
    return RetrievalExample(
        id=example_id(record, number),
        question=record.text("question").strip(),
        answers=read_answers(record, _ANSWERS, aliases.names if aliases else None),
        candidates=candidates,
        gold_ids=gold,
    )


def _listed_references(record: Record) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return candidates and gold numbers of a record in 2Wiki's form.

    The references are texts, and a list of its own repeats the gold ones.
    """
    # Among a hundred sentences cut out of articles, a blank one is a distractor and not an error.
    candidates = record.texts("ctxs_candidate", blank=True)
    # If a reference occurs twice, its first position counts.
    numbers = {_spaced(text): n for n, text in reversed(list(enumerate(candidates, 1)))}
    gold = record.texts("ctxs_gt", none=True)
    for text in gold:
        if _spaced(text) not in numbers:
            raise record.error("ctxs_gt", "must hold only texts of 'ctxs_candidate'")
    return tuple(candidates), tuple(dict.fromkeys(numbers[_spaced(text)] for text in gold))


def _hotpot_references(record: Record) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return candidates and gold numbers of a record in HotpotQA's form.

    A reference is a titled paragraph. It is gold if it has a supporting fact. In the full-wiki
    setting the paragraphs were retrieved, so a paragraph with a supporting fact may be missing.
    """
    paragraphs = _pairs(record, "context", "title", "sentences", list)
    facts = _pairs(record, "supporting_facts", "title", "sent_id", int)
    for title, sentences in paragraphs:
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise record.error("context", f"must hold only texts in paragraph '{title}'")
    candidates = tuple(f"{title}: {_spaced(' '.join(s))}" for title, s in paragraphs)
    # If a title occurs twice, its first position counts.
    numbers = {_spaced(title): n for n, (title, _) in reversed(list(enumerate(paragraphs, 1)))}
    wanted = list(dict.fromkeys(_spaced(title) for title, _ in facts))
    missing = [title for title in wanted if title not in numbers]
    numbers |= {title: n for n, title in enumerate(missing, len(candidates) + 1)}
    return candidates, tuple(numbers[title] for title in wanted)


def _pairs(
    record: Record, field: str, first: str, second: str, kind: type
) -> list[tuple[str, Any]]:
    """Return a list of (title, value) pairs from a field.

    The field is a list of [title, value], or one of the hub's forms: {first: [titles], second:
    [values]}, or a list of such objects with one title and one value each.
    """
    value = record.structure(field)
    if isinstance(value, Mapping):
        titles, values = value.get(first), value.get(second)
        if isinstance(titles, list) and isinstance(values, list) and len(titles) == len(values):
            value = [list(pair) for pair in zip(titles, values, strict=True)]
    elif isinstance(value, list) and all(isinstance(p, Mapping) for p in value):
        value = [[p.get(first), p.get(second)] for p in value]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(p, list) and len(p) == 2 for p in value)
        or not all(isinstance(p[0], str) and isinstance(p[1], kind) for p in value)
    ):
        raise record.error(field, f"must be a list of one or more [{first}, {second}] pairs")
    return [(title, item) for title, item in value]


def _spaced(text: str) -> str:
    """Return the text with single spaces for white space; gold texts are compared so."""
    return " ".join(text.split())
