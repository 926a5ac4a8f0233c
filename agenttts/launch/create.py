"""Create the directory of a new run, and compare a spec with an existing run's."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from agenttts import __version__
from agenttts.dispatch.profile import Profile, profile_name
from agenttts.errors import MissingRequirement, UserError, cli_command
from agenttts.images.build import image_digest
from agenttts.launch.differences import changed_values, differences
from agenttts.launch.experiment import without_profile_image
from agenttts.launch.extension import widening_settings
from agenttts.launch.plan import Plan
from agenttts.run.agent import agent_record
from agenttts.run.directory import RunDirectory
from agenttts.run.examples import write_examples
from agenttts.run.listing import path_while_made
from agenttts.run.models import contents_of
from agenttts.run.record import SCHEMA_NUMBER, RunRecord, write_record
from agenttts.run.search_files import freeze_search_files
from agenttts.run.store_users import record_store_user
from agenttts.spec import JobSpec, dump_spec
from agenttts.spec.yaml_document import dump_document
from agenttts.tasks.user_tasks import freeze_source

_SAMPLES = Path("samples")
_CACHE = "cache"


def create_run(run: RunDirectory, plan: Plan) -> bool:
    """Make the run directory: build it beside its place, then move it there whole.

    Returns:
        Whether it was made. It is not if another launch was faster.
    """
    experiment, spec, examples = plan.experiment, plan.experiment.spec, plan.examples
    record = run_record(plan)
    temporary = path_while_made(run.path, record.token)
    staged = RunDirectory(temporary)
    try:
        temporary.mkdir(parents=True)
        for folder in (staged.samples, staged.scheduler_logs, temporary / "trials"):
            folder.mkdir()
        freeze_source(spec.task.name, staged.task_source)
        frozen = {
            staged.examples_file: examples.searched,
            staged.finalist_examples_file: examples.finalists,
            staged.test_examples_file: examples.test,
        }
        digests = {
            file.name: write_examples(file, listed)
            for file, listed in frozen.items()
            if listed is not None
        }
        profile = experiment.profile.model_dump(mode="json")
        staged.profile_file.write_text(dump_document(profile), encoding="utf-8")
        copied = freeze_search_files(spec, temporary)
        found = {"examples": digests, "search_files": copied}
        write_record(staged.record_file, record.model_copy(update=found))
        staged.spec_file.write_text(dump_spec(spec), encoding="utf-8")
        if spec.samples:
            _prepare_store(Path(spec.samples), run.path)
        temporary.rename(run.path)
    except OSError as error:
        if run.exists:
            return False
        raise MissingRequirement(
            f"the run directory {run.path} cannot be made: {error.strerror}",
            fix="choose another place with --results DIR, or another --name",
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _prepare_store(store: Path, run: Path) -> None:
    """Make a sample store outside the run's directory, and record the run in it.

    Raises:
        MissingRequirement: It cannot be written to.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        record_store_user(store, run)
    except OSError as error:
        raise MissingRequirement(
            f"the sample store {store} cannot be written to: {error.strerror}",
            fix="set samples in the spec to a directory that you may write to, or leave it out",
        ) from None


def run_record(plan: Plan) -> RunRecord:
    """Return the record of a new run of a plan, with a token of its own.

    Its examples are not frozen yet.
    """
    experiment, spec, examples = plan.experiment, plan.experiment.spec, plan.examples
    return RunRecord(
        schema_number=SCHEMA_NUMBER,
        token=secrets.token_hex(4),
        version=__version__,
        **placement(plan, _samples(spec)),
        contents=contents_of(plan.models),
        samples=_samples(spec),
        agent=agent_record(
            spec, experiment.task, len(examples.searched), plan.agent_gpus, plan.agent_dtype
        ),
        skip_bad=spec.task.skip_bad,
        data=tuple(examples.report.sources.values()),
        examples={},
        main_metric=experiment.task.main_metric,
    )


def placement(plan: Plan, samples: Path) -> dict[str, Any]:
    """Return the fields of a run's record that follow from the profile.

    Args:
        plan: The plan.
        samples: Where samples are stored, as in the record.
    """
    container, shared = plan.experiment.container, plan.experiment.profile.cache
    cache = Path(shared).absolute() if shared else samples.parent / _CACHE
    return {
        "models": plan.models,
        "sizes": dict(plan.sizes),
        "forecast": plan.forecast,
        "container": container,
        "image_sha256": image_digest(container.image) if container else None,
        # Without a container, engines keep it where they usually do, if the profile names no place.
        "compile_cache": cache if container or shared else None,
    }


def _samples(spec: JobSpec) -> Path:
    return Path(spec.samples).absolute() if spec.samples else _SAMPLES


def check_same_spec(run: RunDirectory, spec: JobSpec, profile: Profile) -> None:
    """Check that the run was launched with this spec.

    An image that the profile names is a part of the profile, not of the spec.

    Args:
        run: The run.
        spec: The resolved spec.
        profile: The profile that the spec was resolved with.

    Raises:
        UserError: It was launched with another one.
    """
    old = without_profile_image(run.spec(), run.profile())
    old = old.model_copy(update={"cluster": profile_name(old.cluster)})  # of older versions
    new = without_profile_image(spec, profile)
    documents = old.model_dump(mode="json"), new.model_dump(mode="json")
    found = differences(*documents)
    if not found:
        return
    changed = [f"{key} was {before!r}, is {after!r}" for key, (before, after) in found.items()]
    ways = "choose another name with --name, remove that run, or continue it unchanged with"
    if list(found) == ["cluster"]:
        ways = (
            f"'{cli_command('resume', run.path, '--cluster', spec.cluster)}' continues it on "
            "that profile; or choose another name with --name, or continue it unchanged with"
        )
    elif (settings := widening_settings(run, spec, changed_values(*documents))) is not None:
        given = [word for setting in settings for word in ("--set", setting)]
        ways = (
            f"'{cli_command('extend', run.path, *given)}' continues it with these values; or "
            "choose another name with --name, or continue it unchanged with"
        )
    raise UserError(
        f"{run.path}: a run named '{run.name}' exists with another spec "
        f"({'; '.join(changed[:5])}); {ways} '{cli_command('resume', run.path)}'"
    )
