"""Other names of answers in a file, such as 2WikiMultiHopQA's ``id_aliases.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from agenttts.errors import UserError
from agenttts.tasks.loading.answers import ANSWER_ID, answer_ids
from agenttts.tasks.loading.records import Record, RecordSet, read_file
from agenttts.tasks.loading.report import LoadReport, convert

_IDS = ("Q_id", "qid", "answer_id", "id", "_id")
_NAMES = ("aliases", "demonyms")


class _Named(Protocol):
    @property
    def id(self) -> str: ...


_ExampleT = TypeVar("_ExampleT", bound=_Named)


@dataclass(frozen=True)
class AliasFile:
    """The aliases of a file.

    ``names`` maps the id of an answer to its other names.
    """

    path: str
    names: Mapping[str, Sequence[str]]

    def notes(self, data: RecordSet, fields: Sequence[str]) -> list[str]:
        """Return a note on how many records of ``data`` have an answer with aliases.

        Args:
            data: The records.
            fields: The fields that hold answers.

        Raises:
            UserError: No record has an id of its answers, so the file is of no use.
        """
        ids = [answer_ids(record, fields) for record in data.records]
        if not any(ids) and not any(ANSWER_ID in record.values for record in data.records):
            raise UserError(
                f"no record of {data.source} has a field '{ANSWER_ID}' "
                "by which its answer could be "
                f"found in {self.path}; leave the option out, or name the data set as it was "
                "first released",
                at=("options", "aliases"),
            )
        found = sum(any(self.names.get(ident) for ident in given) for given in ids)
        return [f"{found} of {len(ids)} records have answers with aliases in {self.path}"]


def read_aliases(file: str) -> AliasFile:
    """Return the aliases of a file of records with an id and other names.

    The id is ``Q_id``; the names are lists of texts, ``aliases`` and ``demonyms``. Source of the
    fields and of counting both lists as right: the evaluation script of 2WikiMultiHopQA (v1.1).

    Raises:
        UserError: The file is missing or malformed.
    """
    try:
        data = read_file(Path(file).expanduser(), fields=[_IDS])
        names = dict(_entry(record) for record in data.records)
    except UserError as error:
        error.at = ("options", "aliases")
        raise
    if not names:
        raise UserError(f"{data.source} holds no records", at=("options", "aliases"))
    return AliasFile(data.source, names)


def convert_with_aliases(
    data: RecordSet,
    make: Callable[[Record, int, AliasFile | None], _ExampleT],
    report: LoadReport,
    *,
    aliases: str,
    answers: Sequence[str],
) -> list[_ExampleT]:
    """Convert records to examples with an alias file; bad records as in `convert`.

    Args:
        data: The records.
        make: Makes an example of a record, its position and the alias file.
        report: Says how many bad records may be skipped, and records what was read.
        aliases: Path of the alias file; empty for none.
        answers: The fields that hold answers.
    """
    file = read_aliases(aliases) if aliases else None
    return convert(
        data,
        lambda record, number: [make(record, number, file)],
        report,
        ident=lambda example: example.id,
        notes=lambda: file.notes(data, answers) if file else (),
    )


def _entry(record: Record) -> tuple[str, tuple[str, ...]]:
    if record.damage is not None:
        raise record.damage
    field = record.first_given(_IDS)
    ident = record.values.get(field)
    if isinstance(ident, bool) or not isinstance(ident, str | int) or not str(ident).strip():
        raise record.error(field, "must be the id of an answer, a text or a number")
    given = [name for name in _NAMES if record.is_given(name)]
    if not given:
        raise record.error(_NAMES[0], "must be a list of texts")
    texts = [text for name in given for text in record.texts(name, blank=True, none=True)]
    return str(ident).strip(), tuple(dict.fromkeys(t.strip() for t in texts if t.strip()))
