"""The files that a spec names for its search, copied into the run at launch.

They are the script of a scripted agent (``agent.replies``) and the finished searches of
``mlcopilot`` (``search.options.knowledge``). A controller that continues the run reads the copies,
so that it proposes what the first one would have proposed. Runs of older versions have no copies,
and read the files where they lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agenttts.errors import KeyPath, RunFailed, UserError
from agenttts.run.directory import Run
from agenttts.run.examples import restore_advice
from agenttts.run.record import RunRecord
from agenttts.spec import JobSpec, ScriptedAgent

_FOLDER = "search_files"
_REPLIES = f"{_FOLDER}/replies"


def freeze_search_files(spec: JobSpec, run: Path) -> dict[str, str]:
    """Copy the files into the directory of a new run.

    Returns:
        The SHA-256 of each copy, by its path from the run's directory.

    Raises:
        UserError: A file cannot be read.
    """
    digests = {}
    for name, file in _files(spec):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"{file} cannot be copied into the run ({error.strerror}), as all files are that "
                "the search reads; make it readable, or correct the spec"
            ) from None
        copy = run / name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests


def with_search_files(run: Run) -> Run:
    """Return the run with a spec that names the copies; they are not read."""

    def copy_of(place: str, source: str) -> str:
        found = (name for name in run.record.search_files if name.startswith(f"{place}/"))
        name = next(found, None)
        return source if name is None else str(run.directory.path / name)

    spec = run.spec
    if isinstance(spec.agent, ScriptedAgent):
        agent = spec.agent.model_copy(update={"replies": copy_of(_REPLIES, spec.agent.replies)})
        spec = spec.model_copy(update={"agent": agent})
    if sources := _knowledge(spec):
        copies = [copy_of(place, source) for place, source in sources.items()]
        options = {**spec.search.options, "knowledge": copies}
        search = spec.search.model_copy(update={"options": options})
        spec = spec.model_copy(update={"search": search})
    return replace(run, spec=spec)


def check_search_files(run: Path, record: RunRecord) -> None:
    """Check that the copies are those of the launch.

    Args:
        run: The run's directory.
        record: The run's record.

    Raises:
        RunFailed: A copy is missing or damaged.
    """
    for name, digest in record.search_files.items():
        copy = run / name
        try:
            content = copy.read_bytes()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            problem = "is gone" if gone else f"cannot be read ({error.strerror})"
            raise RunFailed(
                f"{copy}: this copy of a file that the search reads {problem}; "
                f"{restore_advice(run)}"
            ) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise RunFailed(
                f"{copy}: this copy of a file that the search reads has changed since the launch; "
                f"{restore_advice(run)}"
            )


def search_file_digests(spec: JobSpec, method: str) -> dict[KeyPath, str]:
    """Return the SHA-256 of the files that a method reads, by their keys in the spec.

    Raises:
        UserError: A file cannot be read.
    """
    digests: dict[KeyPath, str] = {}
    for name, file in _files(spec):
        of_script = name.startswith(_REPLIES)
        if not of_script and method != spec.search.method:
            continue  # it gets none of the spec's options
        key = ("agent", "replies") if of_script else ("search", "options", "knowledge")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}", at=key) from None
        together = digests.get(key, "") + hashlib.sha256(content).hexdigest()
        digests[key] = hashlib.sha256(together.encode()).hexdigest()
    return digests


def _files(spec: JobSpec) -> Iterator[tuple[str, Path]]:
    """Yield the path of each copy, from the run's directory, and the file to copy."""
    # Imported here, because it imports Polars, and only a launch copies files.
    from agenttts.search.llm.knowledge import TRIALS_FILE, table_of

    if isinstance(spec.agent, ScriptedAgent):
        file = Path(spec.agent.replies)
        yield f"{_REPLIES}/{file.name}", file
    for place, source in _knowledge(spec).items():
        table = table_of(source)
        # The searcher takes the name of a search from its table's folder, or from the table.
        of_run = table.name == TRIALS_FILE
        name = f"{table.parent.name}/{table.name}" if of_run else table.name
        yield f"{place}/{name}", table


def _knowledge(spec: JobSpec) -> dict[str, str]:
    """Return the finished searches that a spec names, by the folders of their copies."""
    sources = spec.search.options.get("knowledge")
    given = sources if isinstance(sources, list) else []
    return {f"{_FOLDER}/knowledge/{number}": source for number, source in enumerate(given)}
