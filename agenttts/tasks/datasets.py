"""The data sets of retrieval QA: the published formats, as one kind of example, and the search and test splits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from agenttts.errors import UserError, valid_names
from agenttts.tasks.base import Example
from agenttts.tasks.hub import hub_id, read_hub
from agenttts.tasks.records import Record, read_records

BUILT_IN = {"twohop": Path(__file__).parent / "data" / "twohop.jsonl"}
DEFAULT_DATA = "builtin:twohop"
SPLITS = ("search", "test")

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RetrievalExample:
    """A question over numbered references.

    ``candidates`` are the references' texts. ``gold_ids`` are the numbers of those needed for the answer, counted from
    1 as in prompts: the positions of the published files, plus one. Any of ``answers`` is right.
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
    seed: int = 0,
) -> list[RetrievalExample]:
    """The examples of a split of ``data``: a file, a hub id, ``builtin:NAME``, or empty for the built-in default.

    All records are put in an order that ``seed`` determines. ``search`` takes the first ``examples`` of it, ``test``
    the first after those of the search: after ``search_examples`` if given, else after half of all records. For
    hub ids both come from one hub split, ``hub_split`` if given; any other ``split`` is the hub's of that name.

    Raises `UserError` for data that are missing, malformed or too few, and what `read_hub` raises.
    """
    data = data or DEFAULT_DATA
    hub = None if data.startswith("builtin:") else hub_id(data)
    if hub is None and split not in SPLITS:
        raise UserError(f"task.split: unknown split '{split}'; {valid_names(split, SPLITS)}")
    if hub is None and hub_split:
        raise UserError(f"task.options.hub_split: '{data}' is no hub data set; leave it out")
    if hub is None:
        records = read_records(_file(data))
    else:
        records = read_hub(hub, hub_split if split in SPLITS else split)
    found = [_example(record, number) for number, record in enumerate(records)]
    _check_ids(found, records)
    return take_split(
        found, split=split, examples=examples, search_examples=search_examples, seed=seed, data=data
    )


def take_split(
    items: Sequence[_Item],
    *,
    split: str,
    examples: int | None,
    search_examples: int | None,
    seed: int,
    data: str,
) -> list[_Item]:
    """The items of a split, in the order that ``seed`` determines; see `load_retrieval`."""
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    skipped = 0
    if split == "test":
        skipped = (len(items) + 1) // 2 if search_examples is None else search_examples
    available = max(0, len(items) - skipped)
    wanted = available if examples is None else examples
    if wanted > available or available == 0:
        left = f", and {skipped} of them are the search split's" if skipped else ""
        hint = "; task.options.search_examples says how many" if split == "test" else ""
        raise UserError(
            f"task.examples: {wanted or 'no'} examples asked for, but '{data}' has {len(items)}{left}{hint}; "
            f"valid for split '{split}': at most {available}"
        )
    return shuffled[skipped : skipped + wanted]


def _file(data: str) -> Path:
    if not data.startswith("builtin:"):
        return Path(data).expanduser()
    name = data.removeprefix("builtin:")
    if name not in BUILT_IN:
        raise UserError(f"task.data: no built-in data set '{name}'; {valid_names(name, BUILT_IN)}")
    return BUILT_IN[name]


def _example(record: Record, number: int) -> RetrievalExample:
    """A record of any of the formats; the record's own id if it has one, else its position in the data."""
    fields = record.values
    if "context" in fields and "ctxs_candidate" not in fields:
        candidates, gold = _hotpot_references(record)
    else:
        candidates, gold = _listed_references(record)
    given_id = fields.get("_id", fields.get("id"))
    return RetrievalExample(
        id=str(number) if given_id is None else str(given_id),
        question=record.text("question").strip(),
        answers=_answers(record),
        candidates=candidates,
        gold_ids=gold,
    )


def _answers(record: Record) -> tuple[str, ...]:
    """``answers``, or ``answer`` as a list or a text; repeats are dropped."""
    field = "answers" if "answers" in record.values else "answer"
    if field in record.values and isinstance(record.values[field], str):
        return (record.text(field),)
    if field not in record.values:
        raise record.error("answers", "must be a list of one or more texts (or 'answer' a text)")
    return tuple(dict.fromkeys(record.texts(field)))


def _listed_references(record: Record) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """2Wiki's shape: the references are texts, the gold ones repeated in a list of their own."""
    candidates = record.texts("ctxs_candidate")
    # Where a reference occurs twice, its first place counts.
    numbers = {text: n for n, text in reversed(list(enumerate(candidates, 1)))}
    gold = record.texts("ctxs_gt")
    for text in gold:
        if text not in numbers:
            raise record.error("ctxs_gt", "must hold only texts of 'ctxs_candidate'")
    return tuple(candidates), tuple(dict.fromkeys(numbers[text] for text in gold))


def _hotpot_references(record: Record) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """HotpotQA's shape: a reference is a titled paragraph, gold when a supporting fact is in it."""
    paragraphs = _pairs(record, "context", "title", "sentences", list)
    facts = _pairs(record, "supporting_facts", "title", "sent_id", int)
    titles = [title for title, _ in paragraphs]
    for title, sentences in paragraphs:
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise record.error("context", f"must hold only texts in paragraph '{title}'")
    for title, _ in facts:
        if title not in titles:
            raise record.error("supporting_facts", f"has the title '{title}' that 'context' lacks")
    candidates = tuple(f"{title}: {' '.join(' '.join(s).split())}" for title, s in paragraphs)
    return candidates, tuple(dict.fromkeys(titles.index(title) + 1 for title, _ in facts))


def _pairs(
    record: Record, field: str, first: str, second: str, kind: type
) -> list[tuple[str, Any]]:
    """A list of [title, value] pairs, or as the hub stores it: {first: [titles], second: [values]}."""
    value = record.values.get(field)
    if isinstance(value, Mapping):
        titles, values = value.get(first), value.get(second)
        if isinstance(titles, list) and isinstance(values, list) and len(titles) == len(values):
            value = [list(pair) for pair in zip(titles, values, strict=True)]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(p, list) and len(p) == 2 for p in value)
        or not all(isinstance(p[0], str) and isinstance(p[1], kind) for p in value)
    ):
        raise record.error(field, f"must be a list of one or more [{first}, {second}] pairs")
    return [(title, item) for title, item in value]


def _check_ids(examples: Sequence[RetrievalExample], records: Sequence[Record]) -> None:
    """Ids name examples in the result tables, so two must not share one."""
    first: dict[str, int] = {}
    for number, example in enumerate(examples):
        if example.id in first:
            other = records[first[example.id]].place()
            raise UserError(f"{records[number].place()}: id '{example.id}' is also that of {other}")
        first[example.id] = number
