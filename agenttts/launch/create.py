"""Create the directory of a new run, and compare a spec with an existing run's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agenttts.errors import MissingRequirement, UserError
from agenttts.launch.plan import Plan
from agenttts.launch.resolve import run_record
from agenttts.run.directory import RunDirectory
from agenttts.run.examples import write_examples
from agenttts.run.record import write_record
from agenttts.spec import JobSpec, dump_spec
from agenttts.tasks.user_tasks import freeze_source


def create_run(run: RunDirectory, plan: Plan) -> bool:
    """Make the run directory: build it beside its place, then move it there whole.

    Returns:
        Whether it was made. It is not if another launch was faster.
    """
    record = run_record(plan)
    temporary = run.path.with_name(f".{run.name}.{record.token}")
    staged = RunDirectory(temporary)
    try:
        temporary.mkdir(parents=True)
        for folder in (staged.samples, staged.scheduler_logs, temporary / "trials"):
            folder.mkdir()
        freeze_source(plan.spec.task.name, staged.task_source)
        frozen = {
            staged.examples_file: plan.examples,
            staged.finalist_examples_file: plan.finalist_examples,
            staged.test_examples_file: plan.test_examples,
        }
        digests = {
            file.name: write_examples(file, examples)
            for file, examples in frozen.items()
            if examples is not None
        }
        profile = plan.profile.model_dump(mode="json")
        staged.profile_file.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
        write_record(staged.record_file, record.model_copy(update={"examples": digests}))
        staged.spec_file.write_text(dump_spec(plan.spec), encoding="utf-8")
        if plan.spec.samples:
            Path(plan.spec.samples).mkdir(parents=True, exist_ok=True)
        temporary.rename(run.path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if run.exists:
            return False
        raise MissingRequirement(
            f"the run directory {run.path} cannot be made: {error.strerror}",
            fix="choose another place with --results DIR, or another --name",
        ) from None
    return True


def check_same_spec(run: RunDirectory, spec: JobSpec) -> None:
    """Check that the run was launched with this spec.

    Raises:
        UserError: It was launched with another one.
    """
    old, new = run.spec().model_dump(mode="json"), spec.model_dump(mode="json")
    changed = _differences(old, new)
    if changed:
        raise UserError(
            f"{run.path}: a run named '{run.name}' exists with another spec "
            f"({'; '.join(changed[:5])}); choose another name with --name, remove that run, "
            "or continue it unchanged with 'agenttts-hpc resume'"
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for key in dict.fromkeys([*old, *new])
            for difference in _differences(
                old.get(key), new.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    return [] if old == new else [f"{path} was {old!r}, is {new!r}"]
