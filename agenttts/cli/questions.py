"""The questions of ``init`` on a terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from agenttts.dispatch.drafted_profile import usual_name
from agenttts.errors import UserError
from agenttts.init.draft import Wanted, stage_names
from agenttts.init.fields import read
from agenttts.init.models import user_models
from agenttts.tables.console import without_controls
from agenttts.tasks.loading.records import read_file


def ask_for(wanted: Wanted) -> Wanted:
    """Return what the user answers; defaults are in brackets.

    Raises:
        UserError: Standard input is not a terminal, or an answer cannot be used.
    """
    if not sys.stdin.isatty():
        raise UserError(
            "init: no data file is named, and there is no terminal to ask on; give "
            "'agenttts-hpc init DATA' with a file of records (and --model NAME=PATH, --stages, "
            "--question FIELD, --answer FIELD as needed), or 'agenttts-hpc init --cluster NAME' "
            "for a profile alone"
        )
    cluster = _answer("Name of the profile of this machine", default=usual_name())
    path = _data_file()
    if path is None:
        return replace(wanted, cluster=cluster)
    fields = dict(wanted.fields or {})
    try:
        found = read(path, fields).fields
    except UserError as error:
        _say(error)
        for role in ("question", "answer"):
            fields[role] = _answer(f"Field of the {role}")
    else:
        for role, name in (("question", found.question), ("answer", found.answer)):
            fields[role] = _answer(f"Field of the {role}", default=name)
    return replace(
        wanted,
        data=path,
        cluster=cluster,
        fields=fields,
        stages=wanted.stages or _stages(),
        models=wanted.models or _models(),
    )


def _data_file() -> Path | None:
    """Ask for a data file until one can be read; None if none is named."""
    while True:
        given = _answer_or_none("Data file (empty: only the profile)")
        if not given:
            return None
        path = Path(given).expanduser()
        try:
            read_file(path)
        except UserError as error:
            _say(error)
        else:
            return path


def _stages() -> tuple[str, ...]:
    return tuple(
        stage_names(_answer_or_none("Stages, separated by commas (empty: as the data suggest)"))
    )


def _models() -> tuple[str, ...]:
    """Ask for models; each is checked before the next one is asked for."""
    models: list[str] = []
    while True:
        text = _answer_or_none("Model, as NAME=DIRECTORY or NAME=HUB_ID (empty: no more)")
        if not text:
            return tuple(models)
        try:
            user_models([*models, text])
        except UserError as error:
            _say(error)
        else:
            models.append(text)


# On standard error, because --json has standard output for its document.


def _answer(question: str, default: str | None = None) -> str:
    return str(typer.prompt(question, default=default, err=True))


def _answer_or_none(question: str) -> str:
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()


def _say(error: UserError) -> None:
    typer.echo(without_controls(str(error)), err=True)
