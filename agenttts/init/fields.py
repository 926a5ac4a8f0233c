"""Which fields of a data file hold the question, the answer and the context."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from agenttts.errors import UserError, counted, valid_names
from agenttts.init.options import FORMS, all_options, options_of
from agenttts.init.template_names import usable
from agenttts.tasks.loading.answers import texts_of_named_answer
from agenttts.tasks.loading.record import Record, shown
from agenttts.tasks.loading.records import read_file

# Names of fields in published data sets, the most telling first.
_NAMES = {
    "question": (
        "question problem query prompt instruction input question_text query_text sentence text "
        "premise goal ctx title utterance complaint"
    ),
    "answer": (
        "answer answers gold gold_answer golden_answers final_answer answer_text answerKey "
        "answer_key target label labels output reply response solution expected category "
        "reference"
    ),
    "context": (
        "context contexts passage passages document documents ctxs paragraphs facts evidence "
        "supporting_facts article background story abstract"
    ),
    "options": "choices options candidates_list endings answer_choices",
}
_ROLES = {
    "question": "what the model is asked",
    "answer": "the right answer",
    "context": "what helps to answer",
    "options": "the answers to choose from",
}
_IDS = ("id", "_id")
_LOOKED_AT = 2000
"""The most records that the choice of fields and of the metric looks at, from all of the file."""


@dataclass(frozen=True)
class Fields:
    """The names of the fields; None for one that the data do not have."""

    question: str
    answer: str
    context: str | None = None
    options: str | None = None


@dataclass(frozen=True)
class Data:
    """A data file, the fields that a task uses and values of its records.

    Attributes:
        path: The file.
        fields: The names of the fields.
        names: The names of all fields.
        total: The number of records, including bad ones.
        bad: The number of records without a question or an answer.
        values: The values of records that have both: at most 2,000, spread over the file, since
            it may be sorted by answers.
        answers: The answers of all records that have both.
        options: The options of all of them; empty if none are used.
        notes: Remarks for the user.
    """

    path: Path
    fields: Fields
    names: tuple[str, ...]
    total: int
    bad: int
    values: tuple[Mapping[str, Any], ...]
    answers: tuple[Any, ...]
    options: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def question_form(self) -> Literal["text", "chat", "json"]:
        """How prompts show the question: as it is, by the messages of a chat, or as JSON."""
        values = [row[self.fields.question] for row in self.values]
        if all(map(_is_chat, values)):
            return "chat"
        return "json" if any(map(_is_structure, values)) else "text"

    @property
    def unused(self) -> list[str]:
        """The names of fields that prompts do not show and metrics do not use."""
        used = {getattr(self.fields, role.name) for role in fields(Fields)}
        return [name for name in self.names if name not in (*used, *_IDS)]


def read(path: Path, given: Mapping[str, str]) -> Data:
    """Read a data file and find the fields for a task.

    Args:
        path: The file, in any form that tasks read.
        given: Names of fields that the user gave, by role (a field of `Fields`).

    Raises:
        UserError: The file cannot be read, or it is not clear which field is which.
    """
    found = read_file(path)
    records = [record for record in found.records if record.damage is None]
    if not records:
        damage = next((r.damage for r in found.records if r.damage is not None), None)
        raise damage or UserError(f"{found.source} holds no records")
    names = tuple(dict.fromkeys(name for record in records for name in record.values))
    chosen = _fields(path, _spread(records), names, given)
    chosen, rare = _without_rare(records, chosen, given)
    chosen, notes = _with_options_that_can_be_shown(path, _spread(records), chosen, given)
    # Any field may be missing in some records; the task needs all that it uses.
    used = [getattr(chosen, role.name) for role in fields(Fields)]
    complete = [r for r in records if all(_given(r.values.get(name)) for name in used if name)]
    if not complete:
        raise UserError(
            f"{path}: no record has all of the fields {', '.join(filter(None, used))}; name others "
            f"with {_options()}"
        )
    return Data(
        path,
        chosen,
        names,
        len(found.records),
        len(found.records) - len(complete),
        tuple(_structured(record, chosen) for record in _spread(complete)),
        tuple(record.values[chosen.answer] for record in complete),
        tuple(record.structure(chosen.options) for record in complete) if chosen.options else (),
        (*rare, *notes),
    )


def asked(value: Any) -> list[str]:
    """Return the texts by which a drafted prompt shows a question."""
    if _is_chat(value):
        return [message["content"] for message in value]
    return [json.dumps(value, ensure_ascii=False) if _is_structure(value) else str(value)]


def _is_chat(value: Any) -> bool:
    """Return whether a value is a list of messages, ``{role, content}``."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in value)
    )


def _is_structure(value: Any) -> bool:
    return isinstance(value, list | dict)


def _spread(records: Sequence[Record]) -> list[Record]:
    """Return the records that are looked at, evenly spread over all."""
    count = min(len(records), _LOOKED_AT)
    return [records[n * len(records) // count] for n in range(count)]


def _without_rare(
    records: Sequence[Record], chosen: Fields, given: Mapping[str, str]
) -> tuple[Fields, tuple[str, ...]]:
    """Return the fields, without those that most records lack, and remarks.

    A task skips records without a field that it uses.
    """
    needed = (chosen.question, chosen.answer)
    able = [r for r in records if all(_given(r.values.get(name)) for name in needed)]
    notes = []
    for role in ("context", "options"):
        name = getattr(chosen, role)
        have = sum(_given(record.values.get(name)) for record in able)
        if name is None or role in given or 2 * have >= len(able):
            continue
        without: dict[str, Any] = {role: None}
        chosen = replace(chosen, **without)
        notes.append(
            f"the field '{name}' is not used, because {have} of "
            f"{counted(len(able), 'record')} with question and answer have it; --{role} {name} "
            "uses it all the same"
        )
    return chosen, tuple(notes)


def _with_options_that_can_be_shown(
    path: Path, records: Sequence[Record], chosen: Fields, given: Mapping[str, str]
) -> tuple[Fields, tuple[str, ...]]:
    """Return the fields, without options that no prompt can show, and a remark."""
    name = chosen.options
    if name is None:
        return chosen, ()
    values = [record.structure(name) for record in records if _given(record.values.get(name))]
    if all_options(values) is not None:
        return chosen, ()
    other = next((value for value in values if options_of(value) is None), values[:2])
    found = f"the field '{name}' holds no options that a prompt can show ({shown(other)})"
    if "options" in given:
        raise UserError(f"{path}: --options: {found}; valid: {FORMS}, the same in all records")
    return replace(chosen, options=None), (f"{found}, and is not used; valid: {FORMS}",)


def _fields(
    path: Path, records: Sequence[Record], names: Sequence[str], given: Mapping[str, str]
) -> Fields:
    for role, name in given.items():
        if name not in names:
            raise UserError(f"{path}: --{role}: no field '{name}'; {valid_names(name, names)}")
        _check_identifier(path, role, name)
        of_it = [f"--{other}" for other in given if given[other] == name]
        if len(of_it) > 1:
            raise UserError(
                f"{path}: {' and '.join(of_it)} name the same field '{name}'; each needs a field "
                f"of its own (the fields are: {', '.join(names)})"
            )
    known: dict[str, str | None] = dict(given)
    for role in ("answer", "options", "context", "question"):
        taken = {name for name in known.values() if name is not None}
        known.setdefault(role, _named(role, [name for name in names if name not in taken]))
    taken = {name for name in known.values() if name is not None}
    left = [name for name in names if name not in (*taken, *_IDS)]
    if known["question"] is None:
        known["question"] = _longest_text(records, left)
        left = [name for name in left if name != known["question"]]
    if known["answer"] is None and len(left) == 1:
        known["answer"] = left[0]
    for role in ("question", "answer"):
        if known[role] is None:
            raise UserError(
                f"{path}: the field of the {role} ({_ROLES[role]}) is not clear; name it with "
                f"--{role} FIELD (the fields are: {', '.join(names)})"
            )
    for role, found in known.items():
        if found is not None:
            _check_identifier(path, role, found)
    _check_answers(path, records, str(known["answer"]))
    return Fields(str(known["question"]), str(known["answer"]), known["context"], known["options"])


def _named(role: str, names: Sequence[str]) -> str | None:
    """Return the first of the known names of a role that a field has."""
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[n.lower()] for n in _NAMES[role].split() if n.lower() in by_lower), None)


def _longest_text(records: Sequence[Record], names: Sequence[str]) -> str | None:
    """Return the field with the longest texts; None if no field holds only texts."""
    lengths = {}
    for name in names:
        values = [record.values.get(name) for record in records]
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        if texts and len(texts) == len([value for value in values if value is not None]):
            lengths[name] = statistics.fmean(map(len, texts))
    return max(lengths, key=lengths.__getitem__) if lengths else None


def _check_identifier(path: Path, role: str, name: str) -> None:
    if not usable(name):
        raise UserError(
            f"{path}: the field '{name}' ({_ROLES[role]}) has a name that prompt templates cannot "
            "use; valid: letters, digits and _, the first not a digit, and no word that means "
            "something else in Python or Jinja. Rename it in the data, or "
            f"name another field with --{role} FIELD"
        )


def _check_answers(path: Path, records: Sequence[Record], name: str) -> None:
    for record in records:
        value = record.structure(name)
        in_text = isinstance(record.values.get(name), str)  # of which no metric reads the texts
        if isinstance(value, dict) and (in_text or texts_of_named_answer(value) is None):
            raise UserError(
                f"{record.place()}: field '{name}' holds an object ({', '.join(map(str, value))}), "
                "and a metric needs a text, a number or a list of them; write the answer into a "
                "field of its own and name it with --answer FIELD"
            )


def _given(value: Any) -> bool:
    empty = value is None or value in ("", [], {}) or _is_blank(value)
    return not empty and texts_of_named_answer(value) != ()


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _structured(record: Record, chosen: Fields) -> Mapping[str, Any]:
    """Return values as the drafted task reads them.

    The JSON texts of tables are lists and objects where a prompt takes their items.
    """
    used = [name for name in (chosen.context, chosen.options) if name]
    return {**record.values, **{name: record.structure(name) for name in used}}


def _options() -> str:
    return ", ".join(f"--{role.name}" for role in fields(Fields))
