"""What commands have in common: options, folders of profiles, forms of output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agenttts.cli.completion import complete_profiles, complete_runs
from agenttts.cli.terminal import json_text

Results = Annotated[
    Path, typer.Option("--results", envvar="AGENTTTS_RESULTS", help="Where runs are kept.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the spec."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name, or its path.", autocompletion=complete_runs),
]
Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Runs, by name or path.", autocompletion=complete_runs),
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the run is over.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="A profile: slurm/NAME.yaml or a file.",
        autocompletion=complete_profiles,
    ),
]


def profile_folders(spec: Path | None) -> list[Path]:
    """Return the folders where ``slurm/NAME.yaml`` is looked for.

    These are the current folder, the spec's folder and its parent.
    """
    folders = [Path.cwd()]
    if spec is not None:
        folders += [spec.absolute().parent, spec.absolute().parent.parent]
    return list(dict.fromkeys(folders))


def print_document(document: dict[str, Any], as_json: bool, pretty: Any) -> None:
    """Print what a command has found, as JSON or for people by ``pretty``."""
    if as_json:
        print(json_text(document))
    else:
        pretty(document)
