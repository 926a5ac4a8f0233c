"""Draft the files of a first experiment, and check them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttts.dispatch.drafted_profile import (
    DraftedProfile,
    GpuHere,
    draft_profile,
    usual_name,
)
from agenttts.dispatch.profile import Profile, load_profile
from agenttts.errors import UserError, cli_command, counted
from agenttts.images.cuda import driver_facts
from agenttts.init.answers import answer_form
from agenttts.init.document import InitDocument
from agenttts.init.fields import Data, read
from agenttts.init.models import stand_ins, user_models
from agenttts.init.spec import spec_text
from agenttts.init.task import stages_of, task_text
from agenttts.spec import load_strict, parse_spec
from agenttts.spec.model import RUN_NAME
from agenttts.tables.documents import printed
from agenttts.tasks.base import TaskConfig
from agenttts.tasks.declarative.document import Document
from agenttts.tasks.declarative.task import DeclarativeTask
from agenttts.tasks.loading.report import LoadReport

_PROFILES = "slurm"
_IN_PROCESS = "in_process"


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; empty values are chosen by the data and this machine.

    Attributes:
        data: The data file; None for a profile alone.
        name: The name of the run and of its files.
        stages: The names of the stages.
        models: Models, as ``NAME=PATH[:PARAMS]``.
        fields: Names of the data's fields by role (`agenttts.init.fields.Fields`).
        cluster: The name of the profile.
        out: Where the files go.
    """

    data: Path | None = None
    name: str = ""
    stages: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None
    cluster: str = ""
    out: Path = Path()


@dataclass(frozen=True)
class Draft:
    """Files to write, with their contents, and remarks for the user.

    ``profile`` is None for the built-in profile ``in_process``.
    """

    files: Mapping[Path, str]
    spec: Path | None
    task: Path | None
    cluster: str
    profile: Path | None
    kept: tuple[Path, ...]
    notes: tuple[str, ...]


def draft(wanted: Wanted) -> Draft:
    """Draft a spec, a task and a profile; each is read back by its loader.

    A profile that exists already is used as it is, unless only a profile is asked for.

    Raises:
        UserError: The data or the options do not suffice.
    """
    cluster = wanted.cluster or usual_name()
    if not RUN_NAME.fullmatch(cluster):
        raise UserError(
            f"--cluster {cluster}: not a valid name of a profile; valid: letters, digits, '.', '_' "
            "and '-', at most 64, first a letter or digit"
        )
    profile = _profiles(wanted.out) / f"{cluster}.yaml"
    # A file of its name would be used in place of the built-in profile, and is none like it.
    built_in = cluster == _IN_PROCESS and not profile.exists()
    if wanted.data is None:
        _check_alone(wanted)
        if built_in:
            raise UserError(
                f"--cluster {cluster}: is built in and needs no file: trials run in the launching "
                "process; choose another name for a profile of this machine, or none"
            )
        drafted = _drafted(cluster)
        return Draft(
            {profile: _checked(drafted)}, None, None, cluster, profile, (), drafted.to_check
        )
    files: dict[Path, str] = {}
    kept: tuple[Path, ...] = ()
    notes: list[str] = []
    if profile.exists():
        load_profile(str(profile.absolute()), [])
        kept = (profile,)
    elif not built_in:
        drafted = _drafted(cluster)
        files[profile] = _checked(drafted)
        notes += drafted.to_check
    name = wanted.name or _name_of(wanted.data)
    spec, task = wanted.out / f"{name}.yaml", wanted.out / f"{name}-task.yaml"
    files |= _experiment(wanted, name, cluster, spec, task, notes, has_file=not built_in)
    for path in files:
        if path.exists() and path.samefile(wanted.data.expanduser()):
            raise UserError(
                f"{path} would replace the data file itself, and nothing was written; choose "
                "another --name or --out"
            )
    used = None if built_in else profile
    return Draft(files, spec, task, cluster, used, kept, tuple(notes))


def describe(drafted: Draft) -> dict[str, Any]:
    """Return a draft as `InitDocument`, the output of ``init --json``."""
    if drafted.spec is not None:
        spec = str(drafted.spec)  # profiles are looked for beside a spec too
        after = [cli_command("doctor", spec)]
        after += [cli_command("launch", spec, option) for option in ("--dry-run", "--wait")]
    else:
        in_sight = drafted.profile == _profiles(Path()) / f"{drafted.cluster}.yaml"
        cluster = drafted.cluster if in_sight else str(drafted.profile)
        after = [cli_command("doctor", "--cluster", cluster)]
    return printed(
        InitDocument,
        {
            "written": [str(path) for path in drafted.files],
            "kept": [str(path) for path in drafted.kept],
            "spec": None if drafted.spec is None else str(drafted.spec),
            "task": None if drafted.task is None else str(drafted.task),
            "profile": None if drafted.profile is None else str(drafted.profile),
            "cluster": drafted.cluster,
            "notes": list(drafted.notes),
            "next": after,
        },
    )


def _check_alone(wanted: Wanted) -> None:
    """Check that nothing is asked for that only data can give.

    Raises:
        UserError: Something is.
    """
    given = {"name": wanted.name, "stages": wanted.stages, "model": wanted.models}
    given |= wanted.fields or {}
    unused = [f"--{option}" for option, value in given.items() if value]
    if unused:
        raise UserError(
            f"init: without DATA only a profile is written, and {', '.join(unused)} would have no "
            "effect; name a data file, as in 'agenttts-hpc init DATA', or leave the options out"
        )


def _experiment(
    wanted: Wanted,
    name: str,
    cluster: str,
    spec: Path,
    task: Path,
    notes: list[str],
    *,
    has_file: bool,
) -> dict[Path, str]:
    """Return the files of a spec and its task; remarks are added to ``notes``."""
    assert wanted.data is not None
    if not RUN_NAME.fullmatch(name):
        raise UserError(
            f"--name {name}: not a valid run name; valid: letters, digits, '.', '_' and '-', at "
            "most 64, first a letter or digit"
        )
    data = read(wanted.data, wanted.fields or {})
    form = answer_form(data)
    stages = stages_of(data, form, wanted.stages)
    folder = f"{name}-models"
    models = user_models(wanted.models) or stand_ins(data, form, f"./{folder}")
    document = task_text(name, data, form, stages)
    made = DeclarativeTask(load_strict(Document, document, str(task)), str(task))
    skipped, reasons = _skipped(made, data)
    text = spec_text(
        name,
        f"./{task.name}",
        _data_path(wanted.data, wanted.out),
        data.total - skipped,
        skipped,
        stages,
        models,
        cluster,
        cli_command("launch", str(spec), "--dry-run"),
        has_file=has_file,
    )
    job = parse_spec(text, str(spec), wanted.out.absolute())
    job.space()
    roles = (("question", data.fields.question), ("answer", data.fields.answer))
    more = (("context", data.fields.context), ("options", data.fields.options))
    used = ", ".join(f"{role}: {field}" for role, field in (*roles, *more) if field)
    notes.append(f"{wanted.data}: {counted(data.total, 'record')}; fields: {used}")
    if data.unused:
        notes.append(
            f"the prompts do not show {', '.join(data.unused)}; write {{{{ FIELD }}}} into a "
            f"prompt of {task} for each of these fields that the question needs"
        )
    if data.question_form == "json":
        notes.append(
            f"the field '{data.fields.question}' holds objects or lists, and the prompts show them "
            "whole, as JSON; see that the right answer is not in it, and show the parts that "
            f"matter alone, such as {{{{ {data.fields.question}['text'] }}}}, in the prompts of "
            f"{task}"
        )
    notes += data.notes
    notes.append(f"metric: {made.main_metric}, because {form.why}")
    notes += [
        f"the stage '{stage.renamed}' is called '{stage.name}', because the data have a field of "
        "that name, and prompts use both names"
        for stage in stages
        if stage.renamed
    ]
    if skipped:
        count = counted(skipped, "record")
        notes.append(f"{count} cannot be used and will be skipped (skip_bad): {reasons[0]}")
    if models[0].script is not None:
        notes.append(
            "the models are stand-ins with scripted replies, to try everything without weights; "
            "name yours with --model NAME=PATH, or in the spec"
        )
    scripts = {
        spec.parent / folder / f"{model.name}.json": model.script
        for model in models
        if model.script is not None
    }
    return {spec: text, task: document, **scripts}


def _skipped(made: DeclarativeTask, data: Data) -> tuple[int, Sequence[str]]:
    """Return how many records the task cannot use, and reasons of the first ones.

    Raises:
        UserError: It cannot use most of those that have all of the fields.
    """
    report = LoadReport(data.total)
    path = str(data.path.expanduser().absolute())
    made.load(TaskConfig(data=path, options=made.read_options({}), report=report))
    [source] = report.sources.values()
    if 2 * (source.skipped - data.bad) > data.total - data.bad:
        raise UserError(
            f"{source.reasons[0]} (bad records: {source.skipped} of {data.total}); the drafted "
            "task cannot use most records, so nothing was written; fix the data, or name other "
            "fields with --question, --answer, --context or --options"
        )
    return source.skipped, source.reasons


def _drafted(cluster: str) -> DraftedProfile:
    return draft_profile(cluster, [GpuHere(gpu.name, gpu.memory_gb) for gpu in driver_facts()])


def _checked(drafted: DraftedProfile) -> str:
    load_strict(Profile, drafted.text, "the drafted profile")
    return drafted.text


def _profiles(out: Path) -> Path:
    """Return the folder of profiles: beside ``jobs/``, else below ``out``."""
    base = out.parent if out.name == "jobs" else out
    return base / _PROFILES


def _name_of(data: Path) -> str:
    """Return a run's name from a data file's."""
    stem = data.name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:50] or "mine"


def _data_path(data: Path, out: Path) -> str:
    """Return a data file's path for the spec: relative if it is below its folder."""
    whole, base = data.expanduser().absolute(), out.absolute()
    return f"./{whole.relative_to(base)}" if whole.is_relative_to(base) else str(whole)


def usual_out(given: Path | None) -> Path:
    """Return where specs go: ``jobs/`` if there is such a folder, else here."""
    if given is not None:
        return given
    return Path("jobs") if Path("jobs").is_dir() else Path()


def stage_names(text: str) -> Sequence[str]:
    """Return the names in ``--stages a,b``."""
    return [name.strip() for name in text.split(",") if name.strip()]
