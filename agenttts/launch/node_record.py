"""The outcome of the last ``doctor --submit`` of a profile, and its time.

The file is ``results/.doctor/NAME.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from agenttts.dispatch.profile import Profile
from agenttts.dispatch.schedulers import scheduler_type
from agenttts.errors import cli_command
from agenttts.files.atomic import atomic_write_json
from agenttts.files.documents import parse_json

PROBE_FOLDER = ".doctor"
"""Folder in the results directory, of records and of jobs that did not end well."""


@dataclass(frozen=True)
class NodeRecord:
    """The outcome of one ``doctor --submit``.

    ``profile`` is the digest of the profile that was tried. ``time`` is ISO 8601, UTC.
    """

    ok: bool
    time: str
    profile: str


def last_look(
    results: Path, cluster: str, profile: Profile, now: datetime | None = None
) -> str | None:
    """Return, for users, when ``doctor --submit`` last looked at the nodes.

    Args:
        results: The results directory.
        cluster: The profile's name or file.
        profile: The profile.
        now: The current time.

    Returns:
        The text; None if the profile has no nodes.
    """
    if not scheduler_type(profile.kind).has_nodes:
        return None
    record = read_record(results, cluster)
    command = f"'{cli_command('doctor', '--cluster', cluster, '--submit')}'"
    if record is None:
        return f"not checked yet ({command} checks them)"
    then = datetime.fromisoformat(record.time).astimezone(UTC)
    age = _age(((now or datetime.now(UTC)) - then).total_seconds())
    text = f"{'all checks passed' if record.ok else 'some checks failed'} {age} ago"
    if record.profile != profile_digest(profile):
        return f"{text}, with another version of the profile ({command} checks again)"
    return text if record.ok else f"{text} ({command} checks again)"


def write_record(results: Path, cluster: str, profile: Profile, ok: bool) -> None:
    """Keep the outcome of ``doctor --submit``."""
    record = NodeRecord(
        ok, datetime.now(UTC).isoformat(timespec="seconds"), profile_digest(profile)
    )
    path = _path(results, cluster)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, asdict(record))


def read_record(results: Path, cluster: str) -> NodeRecord | None:
    """Return the last outcome; None if there is none that can be read."""
    try:
        document = parse_json(_path(results, cluster).read_text(encoding="utf-8"))
        record = NodeRecord(bool(document["ok"]), str(document["time"]), str(document["profile"]))
        datetime.fromisoformat(record.time).astimezone(UTC)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record


def profile_digest(profile: Profile) -> str:
    """Return a digest that differs between versions of a profile."""
    text = json.dumps(profile.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(results: Path, cluster: str) -> Path:
    name = re.sub(r"[^\w.-]+", "-", Path(cluster).name.removesuffix(".yaml").removesuffix(".yml"))
    return results.absolute() / PROBE_FOLDER / f"{name}.json"


def _age(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
