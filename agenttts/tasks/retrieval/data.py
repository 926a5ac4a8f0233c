"""The data sets of retrieval QA: the published formats as one kind of example, which
knowledge-graph QA shares.
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

    ``candidates`` are the references' texts. ``gold_ids`` are the numbers of those needed for the
    answer, counted from 1 as in prompts: the positions of the published files, plus one. There may
    be none: retrieval then scores 0, whatever is picked. A number beyond the candidates stands for
    a gold reference that is not among them (HotpotQA's full-wiki setting), and so counts as missed.
    Any of ``answers`` is right.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    candidates: tuple[str, ...]
    gold_ids: tuple[int, ...]

    def to_example(self) -> Example:
        """As an example of a task, whose data are JSON values."""
        data = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        del data["id"]
        return Example(id=self.id, data=data)

    @classmethod
    def of(cls, example: Example) -> RetrievalExample:
        """The inverse of `to_example`."""
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
    """The examples of a split of ``data``: a file, a hub id, ``builtin:NAME``, or empty for the
    built-in default.

    ``aliases`` is a file of other names of the answers (`agenttts.tasks.loading.aliases`).

    Raises `UserError` for data that are missing, malformed or too few, and what `read_hub` raises.
    For the splits see `agenttts.tasks.loading.source.take_split`, for bad records
    `agenttts.tasks.loading.report.convert`.
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
    """The example with its references trimmed and shuffled, as ``seed`` determines.

    At most ``max_candidates`` are kept: the gold ones, and as many others drawn at random as make
    up that number, in the order of the data. ``shuffle`` then puts them in a random order. Gold
    numbers follow.
    """
    # A generator for each example: its references do not depend on how many examples there are.
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
    """A record of any of the formats; the record's own id if it has one, else its position in
    the data.
    """
    fields = record.values
    if "context" in fields and "ctxs_candidate" not in fields:
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
    """2Wiki's shape: the references are texts, the gold ones repeated in a list of their own."""
    # Among a hundred sentences cut out of articles a blank one is a distractor, not a malformed
    # record.
    candidates = record.texts("ctxs_candidate", blank=True)
    # Where a reference occurs twice, its first place counts.
    numbers = {_spaced(text): n for n, text in reversed(list(enumerate(candidates, 1)))}
    gold = record.texts("ctxs_gt", none=True)
    for text in gold:
        if _spaced(text) not in numbers:
            raise record.error("ctxs_gt", "must hold only texts of 'ctxs_candidate'")
    return tuple(candidates), tuple(dict.fromkeys(numbers[_spaced(text)] for text in gold))


def _hotpot_references(record: Record) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """HotpotQA's shape: a reference is a titled paragraph, gold when a supporting fact is in it.

    In the full-wiki setting the paragraphs were retrieved, so one with a supporting fact may not be
    among them.
    """
    paragraphs = _pairs(record, "context", "title", "sentences", list)
    facts = _pairs(record, "supporting_facts", "title", "sent_id", int)
    for title, sentences in paragraphs:
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise record.error("context", f"must hold only texts in paragraph '{title}'")
    candidates = tuple(f"{title}: {_spaced(' '.join(s))}" for title, s in paragraphs)
    # Where a title occurs twice, its first place counts.
    numbers = {_spaced(title): n for n, (title, _) in reversed(list(enumerate(paragraphs, 1)))}
    wanted = list(dict.fromkeys(_spaced(title) for title, _ in facts))
    missing = [title for title in wanted if title not in numbers]
    numbers |= {title: n for n, title in enumerate(missing, len(candidates) + 1)}
    return candidates, tuple(numbers[title] for title in wanted)


def _pairs(
    record: Record, field: str, first: str, second: str, kind: type
) -> list[tuple[str, Any]]:
    """A list of [title, value] pairs, or as the hub stores it: {first: [titles], second:
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
    """The text with one space wherever it has white space: what gold texts are matched by."""
    return " ".join(text.split())
