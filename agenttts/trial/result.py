"""The files that a trial leaves in its directory, and when it is complete.

``result.json`` and ``examples.parquet`` are written first, each atomically. The marker
``COMPLETED.json`` comes last and holds the digests of both and of the trial's spec. A trial is
complete exactly when the marker matches all three. So a half-written, truncated or foreign result
does not count. If there are results of fewer samples (`agenttts.tables.stored_results`), the marker
has their digest too, so that whoever reads a complete trial reads all of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json, typed
from agenttts.files.table_files import atomic_write_parquet
from agenttts.files.trouble import passing_trouble
from agenttts.files.unicode import clean_text
from agenttts.tables.schema import StageCuts
from agenttts.tables.stored_results import STORED_FILE, StoredResult, stored_frame
from agenttts.trial.spec import SPEC_FILE

if TYPE_CHECKING:
    import polars as pl

RESULT_FILE = "result.json"
EXAMPLES_FILE = "examples.parquet"
MARKER_FILE = "COMPLETED.json"
FAULT_FILE = "fault.json"
_NAMES = (SPEC_FILE, RESULT_FILE, EXAMPLES_FILE)


@dataclass(frozen=True)
class TrialOutput:
    """What a trial measured.

    ``score`` is the main metric and ``metrics`` holds every ``STAGE.METRIC``; they are means over
    the examples, in [0, 1]. ``prompt_tokens`` and ``decode_tokens`` are the tokens of the
    allocation; ``reused_tokens`` of them were found in the sample store: of other trials, or of
    earlier attempts of this one, but not of a job that handed it over (`agenttts.trial.part`).
    ``seconds`` are wall seconds by phase (``load``, ``generate``). ``score_stderr`` is the score's
    standard error over the examples; None where it is unknown, as from an older image.
    ``metrics_stderr`` has the standard error of each metric; it is empty from an older image.
    ``cut_samples`` says how many samples of each stage were drawn, and how many of them ended at
    the stage's ``decode_tokens``; it is empty where that is unknown. ``engine_starts`` counts the
    engines that were started for this trial. An engine that several trials of a job use counts for
    the first of them.
    """

    score: float
    metrics: Mapping[str, float]
    prompt_tokens: int
    decode_tokens: int
    reused_tokens: int
    truncated: int
    examples: int
    seconds: Mapping[str, float]
    score_stderr: float | None = None
    cut_samples: Sequence[StageCuts] = ()
    metrics_stderr: Mapping[str, float | None] = field(default_factory=dict)
    engine_starts: int = 0


@dataclass(frozen=True)
class Fault:
    """Why a trial failed, as the trial recorded it.

    ``kind`` is FAILED, OOM, or INFRA_FAILED if something that the trial depends on failed, such as
    a server or a file system. ``message`` is one paragraph. ``source`` says where the fault arose:
    ``engine``, ``task`` (the task's code) or ``input`` (a file or the spec). It is empty in faults
    that an older image wrote.
    """

    kind: str
    message: str
    source: str = ""


def write_result(
    directory: Path,
    output: TrialOutput,
    examples: pl.DataFrame,
    stored: Sequence[StoredResult] = (),
) -> None:
    """Store a finished trial; the marker is written last."""
    names = [*_NAMES]
    (directory / STORED_FILE).unlink(missing_ok=True)  # of an attempt that did not complete
    if stored:
        atomic_write_parquet(directory / STORED_FILE, stored_frame(stored))
        names.append(STORED_FILE)
    atomic_write_parquet(directory / EXAMPLES_FILE, examples)
    atomic_write_json(directory / RESULT_FILE, asdict(output))
    atomic_write_json(directory / MARKER_FILE, _digests(directory, names))


def read_result(directory: Path, *, patient: bool = False) -> TrialOutput | None:
    """Return the result of a complete trial; None if it is not (yet) complete.

    Fields of a newer image are left out.

    Args:
        directory: The trial's directory.
        patient: Raise `OSError` if the file system is in trouble that may pass. It is then unknown
            whether there is a result.
    """
    try:
        return _read_result(directory)
    except (OSError, ValueError) as error:  # absent, or cut short by a crash: not complete
        if patient and isinstance(error, OSError) and passing_trouble(error):
            raise
        return None


def result_problem(directory: Path) -> str:
    """Return why a result is missing: which file is absent or damaged, and how."""
    try:
        found = _read_result(directory)
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return (
            f"{directory / MARKER_FILE} or {directory / RESULT_FILE} cannot be read as this "
            "version's "
            f"({type(error).__name__}: {error})"
        )
    if found is None:
        return (
            f"{directory / MARKER_FILE} does not match the trial's files: one of them was "
            "changed or is damaged"
        )
    return f"the result in {directory} is complete now"


def write_fault(directory: Path, fault: Fault) -> None:
    """Record why the trial failed, for the host to classify.

    The message may quote half of a character, or a file name that is not UTF-8.
    """
    fault = replace(fault, message=clean_text(fault.message))
    atomic_write_json(directory / FAULT_FILE, asdict(fault))


def read_fault(directory: Path) -> Fault | None:
    """Return the fault of the last attempt, if it recorded one."""
    try:
        return typed(Fault, parse_json((directory / FAULT_FILE).read_bytes()))
    except (OSError, ValueError):
        return None


def _read_result(directory: Path) -> TrialOutput | None:
    """Return the result; None if the marker does not match it.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not valid.
    """
    marker = parse_json((directory / MARKER_FILE).read_bytes())
    names = list(marker) if isinstance(marker, dict) else []
    if not set(_NAMES) <= set(names) <= {*_NAMES, STORED_FILE}:
        return None
    if marker != _digests(directory, names):
        return None
    output = typed(TrialOutput, parse_json((directory / RESULT_FILE).read_bytes()))
    return replace(output, cut_samples=tuple(output.cut_samples))


def _digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
