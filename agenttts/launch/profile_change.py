"""Give a run a corrected profile.

This is done by ``resume --cluster``, and by ``launch`` after an edit of the profile.

A profile decides where and how trials run, but not what they measure. Finished trials and
stored samples therefore stay valid.

Three files of a run follow from its profile: ``run.json``, ``spec.yaml`` and ``profile.yaml``. The
event `profile_changed` is in the journal before any of them is written, and has all that they get.
If the writer is killed, the next command on the run writes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import load_completed_profile
from agenttts.errors import UserError, cli_command
from agenttts.files.atomic import atomic_write_text
from agenttts.launch.create import placement
from agenttts.launch.differences import Differences, differences
from agenttts.launch.plan import plan_of_run
from agenttts.run.directory import Run, RunDirectory
from agenttts.run.journal import Journal
from agenttts.run.record import update_record
from agenttts.run.state import ProfileChange, RunState
from agenttts.spec import dump_spec
from agenttts.spec.yaml_document import dump_document

# Fields of the record that users are told of; the others follow from these and from the profile.
_TOLD = ("gpus", "image_sha256")


@dataclass(frozen=True)
class ProfileOutcome:
    """Whether a run takes a profile that differs from its own.

    Attributes:
        changes: For each key that differs, the run's value and the given one.
        refused: Why the run keeps its own; None if it took the given one.
    """

    changes: Differences = field(default_factory=dict)
    refused: str | None = None


def edited_profile(run: RunDirectory, folders: Sequence[Path]) -> Differences:
    """Return what differs between a run's profile and its file.

    Nothing differs if the file is not found or not valid: the run does not need it.

    Args:
        run: The run.
        folders: Where profiles are looked for.
    """
    with suppress(UserError, OSError):
        profile = load_completed_profile(run.spec().cluster, folders)
        return differences(run.profile().model_dump(mode="json"), profile.model_dump(mode="json"))
    return {}


def planned_change(run: Run, cluster: str, profile: Profile) -> ProfileChange:
    """Return what a run's files get from a profile, after all checks of a launch.

    Nothing is written.

    Args:
        run: The run.
        cluster: The name or file of the profile.
        profile: The profile, completed from this shell's environment.

    Raises:
        UserError: The run's spec does not fit the profile.
        MissingRequirement: Something is missing here.
    """
    plan = plan_of_run(run, cluster, profile)
    changed = placement(plan, run.record.samples)
    if run.record.agent is not None:
        changed["agent"] = run.record.agent.model_copy(update={"gpus": plan.agent_gpus})
    new = run.record.model_copy(update=changed)
    before, after = run.record.model_dump(mode="json"), new.model_dump(mode="json")
    told = {
        "cluster": [run.spec.cluster, cluster],
        **differences(run.profile.model_dump(mode="json"), profile.model_dump(mode="json")),
        **{
            key: values
            for key, values in differences(before, after).items()
            if key.partition(".")[0] in ("models", "agent", *_TOLD) and key.endswith(_TOLD)
        },
    }
    return ProfileChange(
        cluster=cluster,
        image=plan.experiment.spec.container.image,
        profile=profile.model_dump(mode="json"),
        record={key: after[key] for key in changed},
        changes={key: values for key, values in told.items() if values[0] != values[1]},
    )


def check_takes(run: RunDirectory, state: RunState, change: ProfileChange) -> None:
    """Check that a run can take a profile now.

    Raises:
        UserError: It is over, or has jobs of another kind of scheduler.
    """
    if state.finished == "done":
        command = cli_command("resume", run.path, "--cluster", change.cluster, "--retry-failed")
        raise UserError(
            f"{run.path}: the run is over, so no job would use another profile; '{command}' takes "
            "it and tries trials without a score again"
        )
    old, new = run.profile().kind, change.profile["kind"]
    if old != new and state.finished is None and state.batches:
        raise UserError(
            f"{run.path}: the run has jobs of kind {old}, which a profile of kind {new} cannot "
            f"find; '{cli_command('cancel', run.path)}' first, which keeps what has finished, and "
            "then this command again"
        )


def take_profile(run: RunDirectory, change: ProfileChange) -> None:
    """Record a change of a run's profile, and write its files.

    For callers within `one_command` and `only_controller`.
    """
    with closing(Journal(run.journal_file)) as journal:
        journal.append("profile_changed", **asdict(change))
        finish_change(run, journal, change)


def finish_change(run: RunDirectory, journal: Journal, change: ProfileChange) -> None:
    """Write the files of a change that is in the journal; it may be called again.

    For callers within `one_command`, while no controller runs.
    """
    update_record(run.record_file, change.record)
    spec = run.spec()
    container = spec.container.model_copy(update={"image": change.image})
    spec = spec.model_copy(update={"cluster": change.cluster, "container": container})
    atomic_write_text(run.spec_file, dump_spec(spec))
    atomic_write_text(run.profile_file, dump_document(change.profile))
    journal.append("profile_written")
