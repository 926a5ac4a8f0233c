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
    cluster = typer.prompt("Name of the profile of this machine", default=usual_name())
    given = typer.prompt("Data file (empty: only the profile)", default="", show_default=False)
    if not given.strip():
        return replace(wanted, cluster=cluster)
    path = Path(given.strip())
    fields = dict(wanted.fields or {})
    try:
        found = read(path, fields).fields
    except UserError as error:
        typer.echo(str(error))
        for role in ("question", "answer"):
            fields[role] = typer.prompt(f"Field of the {role}")
    else:
        for role, name in (("question", found.question), ("answer", found.answer)):
            fields[role] = typer.prompt(f"Field of the {role}", default=name)
    stages = typer.prompt(
        "Stages, separated by commas (empty: as the data suggest)", default="", show_default=False
    )
    return replace(
        wanted,
        data=path,
        cluster=cluster,
        fields=fields,
        stages=tuple(stage_names(stages)),
        models=wanted.models or _models(),
    )


def _models() -> tuple[str, ...]:
    """Ask for models; each is checked before the next one is asked for."""
    models: list[str] = []
    while True:
        text = typer.prompt(
            "Model, as NAME=DIRECTORY or NAME=HUB_ID (empty: no more)",
            default="",
            show_default=False,
        ).strip()
        if not text:
            return tuple(models)
        try:
            user_models([*models, text])
        except UserError as error:
            typer.echo(str(error))
        else:
            models.append(text)
