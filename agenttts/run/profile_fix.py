"""How a run goes on after an error, for messages that do not know the run.

Messages of schedulers say what to correct in the profile. The run keeps the profile of its launch
until it is given another one. Nodes say which file they cannot read, but not which key named it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from agenttts.dispatch.node.preflight import NOT_READABLE
from agenttts.dispatch.profile import is_profile_file
from agenttts.errors import KeyPath, UserError, cli_command, dotted
from agenttts.run.directory import RunDirectory
from agenttts.spec import JobSpec
from agenttts.spec.paths import named_places

_ASKS = re.compile(r"\bprofile\b")


def names_a_command(reason: str) -> bool:
    """Return whether a reason already says which command to give next.

    ``resume`` is then not offered beside it: before the reason's own fix it would fail alike.
    """
    return "'agenttts-hpc " in reason


def profile_fix(run: RunDirectory, *, retry: bool = False) -> str:
    """Return the steps that give a run a corrected profile.

    Args:
        run: The run.
        retry: Also try trials without a score again.
    """
    cluster = run.spec().cluster
    file = cluster if is_profile_file(cluster) else f"slurm/{cluster}.yaml"
    command = cli_command("resume", run.path, "--cluster", cluster, *_retrying(retry))
    return f"edit {file}, then '{command}'"


def with_profile_fix(text: str, run: RunDirectory, *, retry: bool = False) -> str:
    """Return a message, with the steps at its end that make the run go on.

    They are `profile_fix` if the message asks for that. If it says that a node cannot read a model
    of the spec, they name the model. Else, failed trials can be tried again. A message that names
    the command already stays as it is.

    Args:
        text: The message.
        run: The run.
        retry: Whether the message is about failed trials.
    """
    if "agenttts-hpc resume" in text or "--cluster" in text:
        return text
    said = text.rstrip(".")
    again = f"'{cli_command('resume', run.path, *_retrying(retry))}'"
    with suppress(UserError):  # a damaged spec: the message itself is what matters
        if (model := _unreadable_model(text, run.spec())) is not None:
            key, place = model
            return (
                f"{said}. {place} is the value of {dotted(key)} in the spec: put the model there, "
                f"where the nodes can read it, then {again}"
            )
        if _ASKS.search(text):
            return f"{said}. To correct the profile: {profile_fix(run, retry=retry)}"
    return f"{said}. When the cause is fixed, {again} tries failed trials again" if retry else text


def _retrying(retry: bool) -> list[str]:
    return ["--retry-failed"] if retry else []


def _unreadable_model(text: str, spec: JobSpec) -> tuple[KeyPath, Path] | None:
    """Return the key and place of a model that a node cannot read; None for others."""
    for name, model in spec.models.items():
        places: dict[KeyPath, Path] = {
            ("models", name, "options", key): place
            for key, place in named_places(model.options).items()
        }
        if model.files is not None:
            places["models", name, "path"] = model.files
        for key, place in places.items():
            if f"{place} {NOT_READABLE}" in text:
                return key, place
    return None
