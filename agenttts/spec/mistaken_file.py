"""Recognise a task, a profile or data that is given as a job spec."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from agenttts.errors import cli_command

_DATA_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".json")
# Keys that a job spec does not have.
_TASK_KEYS = {"main_metric", "description"}
_PROFILE_KEYS = {"kind", "controller", "trial", "max_running", "gpus_per_node"}
_MOST_BYTES = 1_000_000  # of a file that is searched for the name of another


def mistaken_file(path: Path) -> str:
    """Return what a file is in place of a job spec, with a fix; '' if unknown."""
    if path.suffix.lower() in _DATA_SUFFIXES:
        return (
            f"{path} is not a job spec but looks like data; a spec is YAML. "
            f"'{cli_command('init', path)}' writes a spec for data of questions and answers"
        )
    document = _read(path)
    if not isinstance(document, dict) or "search" in document or "models" in document:
        return ""
    if _TASK_KEYS & set(document) and "stages" in document:
        return f"{path} is a task, not a job spec; {_job_of(path)}"
    if len(_PROFILE_KEYS & set(document)) > 1:
        return (
            f"{path} is the profile of a cluster, not a job spec; "
            f"give it beside the spec: {cli_command('launch', 'SPEC', '--cluster', path)}"
        )
    return ""


def _job_of(task: Path) -> str:
    """Return which job uses a task, or how one is made."""
    with suppress(OSError):
        for path in sorted(task.parent.glob("*.y*ml")):
            document = _read(path) if path != task else None
            part = document.get("task") if isinstance(document, dict) else None
            name = part.get("name") if isinstance(part, dict) else None
            if isinstance(name, str) and (path.parent / name).resolve() == task.resolve():
                return f"did you mean '{path}', a job with this task?"
    return (
        f"a job names it: 'task: {{name: ./{task.name}}}', besides stages, models and search "
        "(docs/how-to/own-task.md has a whole job)"
    )


def _read(path: Path) -> Any:
    """Return the document of a YAML file; None if it cannot be read."""
    with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        if path.stat().st_size <= _MOST_BYTES:
            return yaml.safe_load(path.read_text(encoding="utf-8"))
    return None
