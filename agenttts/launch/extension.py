"""Widen the search of a run that exists: ``extend``.

Only what widens the search may change (`_WIDENS`). Finished trials and stored samples therefore
stay valid, and every tried allocation stays in the search space.

Two files of a run follow from these keys: ``run.json`` (the forecast) and ``spec.yaml``. A request
to end the search early is withdrawn. The event `extended` is in the journal before any of that, and
has all that the files get. If the writer is killed, the next command on the run writes them again.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agenttts import search
from agenttts.errors import KeyPath, UserError, cli_command, dotted
from agenttts.files.atomic import atomic_write_text
from agenttts.launch.controller import controller_waits, controller_works, stop_controllers
from agenttts.launch.differences import Differences, changed_values, differences
from agenttts.launch.plan import Plan, check_trials, plan_of_run
from agenttts.run.directory import Run, RunDirectory
from agenttts.run.journal import Journal, read_state
from agenttts.run.record import update_record
from agenttts.run.starts import ControllerHandle, read_handle, write_handle
from agenttts.run.state import Extension
from agenttts.search import fidelity_for
from agenttts.spec import JobSpec, load_spec
from agenttts.spec.yaml_document import dump_document
from agenttts.tables.schema import AFTER_SEARCH


def _more(old: Any, new: Any) -> bool:
    return new > old  # type: ignore[no-any-return]


def _more_or_all(old: Any, new: Any) -> bool:
    return old is not None and (new is None or new > old)


def _less_or_never(old: Any, new: Any) -> bool:
    return old is not None and (new is None or new < old)


_WIDENS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "search.iterations": (_more, "more of them"),
    "search.budget": (_more, "a higher one"),
    "search.examples.most": (_more_or_all, "more of them, or null for all"),
    "search.stop.within": (_less_or_never, "a lower share, or search.stop=null"),
    "search.stop.confidence": (_more_or_all, "a higher one, or search.stop=null"),
    "search.finalists.top": (_more_or_all, "more of them"),
    "search.test_split.top": (_more_or_all, "more of them"),
}
"""For each key that may change: whether two values are wider, and what is."""

_SAMPLES = "further counts, with all that it has"

_INSTEAD = {
    "name": "a run keeps its name",
    "cluster": "'{resume}' gives it another profile",
    "task": (
        "scores on other examples cannot be compared with those that the run has; launch the spec "
        "under another --name, with '--set {samples}' to draw no sample twice"
    ),
    "models": (
        "the run's trials used its models; launch the spec under another --name, with "
        "'--set {samples}' to draw no sample twice"
    ),
}
"""What to do about keys that stay, by the first of their names."""


@dataclass(frozen=True)
class ExtensionPlan:
    """An extension that has passed all checks, not written yet.

    Attributes:
        plan: The plan of the extended run.
        extension: What the run's files get.
        searched: Number of the trials of the search so far.
    """

    plan: Plan
    extension: Extension
    searched: int


@dataclass(frozen=True)
class ExtensionOutcome:
    """What an extension has changed.

    Attributes:
        changes: For each key that differs, the run's value and the given one.
    """

    changes: Differences = field(default_factory=dict)


def planned_extension(run: Run, settings: Sequence[str], *, dry_run: bool = False) -> ExtensionPlan:
    """Return what a run's files get from a wider search, after all checks of a launch.

    Nothing is written.

    Args:
        run: The run.
        settings: The keys and values, as given to ``--set``.
        dry_run: As in `agenttts.launch.plan.make_plan`.

    Raises:
        UserError: A setting is not valid, does not widen the search, or its search space is empty.
        MissingRequirement: Something is missing here.
    """
    directory = run.directory
    spec = load_spec(directory.spec_file, settings)
    old, new = run.spec.model_dump(mode="json"), spec.model_dump(mode="json")
    changed = changed_values(old, new)
    with spec.located():
        _check_widens(run, spec, changed)
    plan = plan_of_run(replace(run, spec=spec), spec.cluster, run.profile, dry_run=dry_run)
    with spec.located():
        check_trials(spec, search.create_for(plan.experiment.spec))
        fidelity_for(spec, len(plan.examples.searched))
    after = run.record.model_copy(update={"forecast": plan.forecast})
    known = read_state(directory.journal_file).trials
    number = 1 + max((int(trial.lstrip("t")) for trial in known), default=-1)
    return ExtensionPlan(
        plan,
        Extension(
            sections={section: new[section] for section in sorted({str(p[0]) for p in changed})},
            record={
                "forecast": after.model_dump(mode="json")["forecast"],
                "extended_at": [*run.record.extended_at, number],
            },
            changes=differences(old, new),
            trials=number,
        ),
        sum(p.planned.source not in AFTER_SEARCH for p in known.values()),
    )


def widening_settings(
    run: RunDirectory, spec: JobSpec, changed: Mapping[KeyPath, list[Any]]
) -> list[str] | None:
    """Return the settings of ``extend`` that make a run's spec another one.

    None: it differs in more than what widens the search.

    Args:
        run: The run.
        spec: The other spec.
        changed: What differs (`changed_values`).
    """
    try:
        _check_widens(run.read(), spec, changed)
    except UserError:
        return None
    document = spec.model_dump(mode="json")
    return list(dict.fromkeys(_setting(document, path) for path in changed))


def _setting(document: Any, path: KeyPath) -> str:
    """Return the setting of a key; of the section around it if the document has none."""
    keys: KeyPath = ()
    for key in path:
        document, keys = document[key], (*keys, key)
        if document is None:
            break
    return f"{dotted(keys)}={json.dumps(document)}"


def _check_widens(run: Run, spec: JobSpec, changed: Mapping[KeyPath, list[Any]]) -> None:
    """Check that every change widens the search.

    Raises:
        UserError: One does not; the message says what is valid for its key, or which keys may
            change.
    """
    for path, (old, new) in changed.items():
        key = dotted(path)
        if path[0] == "stages" and path[2:3] == ("samples",):
            stage = str(path[1])
            before, after = run.spec.stages[stage], spec.stages[stage]
            if not set(before.sample_counts) <= set(after.sample_counts):
                raise UserError(
                    f"the run's search has {json.dumps(before.model_dump()['samples'])}, and its "
                    f"trials stay in it; valid for extend: {_SAMPLES}",
                    at=path[:3],
                )
            continue
        if key not in _WIDENS:
            raise UserError(_stays(run, path, new), at=path)
        widens, valid = _WIDENS[key]
        if not widens(old, new):
            given = "not set" if old is None else json.dumps(old)
            raise UserError(
                f"{json.dumps(new)} does not widen the search, which has {given}; "
                + (f"valid for extend: {valid}" if old is not None else _what_may()),
                at=path,
            )


def _stays(run: Run, path: KeyPath, value: Any) -> str:
    instead = _INSTEAD.get(str(path[0]))
    said = "a run that exists keeps it"
    if instead is not None:
        resume = cli_command("resume", run.directory.path, "--cluster", value)
        samples = shlex.quote(f"samples={run.samples}")
        said += ": " + instead.format(resume=resume, samples=samples)
    return f"{said}; {_what_may()}"


def _what_may() -> str:
    keys = ", ".join([*_WIDENS, "stages.STAGE.samples"])
    return f"what extend may change: {keys}"


def record_extension(run: RunDirectory, extension: Extension) -> None:
    """Record an extension of a run, and write its files.

    For callers within `one_command` and `only_controller`.
    """
    with closing(Journal(run.journal_file)) as journal:
        journal.append("extended", **asdict(extension))
        finish_extension(run, journal, extension)


def finish_extension(run: RunDirectory, journal: Journal, extension: Extension) -> None:
    """Write the files of an extension that is in the journal; it may be called again.

    For callers within `one_command`, while no controller runs.
    """
    update_record(run.record_file, extension.record)
    document = run.spec().model_dump(mode="json") | extension.sections
    atomic_write_text(run.spec_file, dump_document(document))
    run.finish_file.unlink(missing_ok=True)
    journal.append("extension_written", trials=extension.trials)


def release_controller(run: RunDirectory) -> None:
    """End the run's controller if it runs; its jobs go on, for the next one.

    A controller that waits in the queue keeps its place. For callers within `one_command`.

    Raises:
        MissingRequirement: It is on another host.
        RunFailed: It does not end.
    """
    handle: ControllerHandle | None = read_handle(run)
    if handle is None or not controller_works(run) or controller_waits(run):
        return
    # A controller ends when the file names another start than its own.
    handle = read_handle(run) or handle
    write_handle(run, replace(handle, start=secrets.token_hex(4)))
    stop_controllers(run, on_record=True, again=("extend", "--set", "..."))
