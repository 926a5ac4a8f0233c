"""Tell whether runs have one task, also where its file has another path."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from agenttts.run.directory import RunDirectory
from agenttts.tasks.user_tasks import frozen_files


def task_identity(run: RunDirectory, name: str) -> str:
    """Return a text that runs of one task have in common.

    For a user's own task this is a digest of its source, as it was frozen at the launch, and the
    class in it. So the same file in two checkouts is one task, and a file that was edited between
    two runs is two. Comments and layout of a YAML file do not count, and neither does the bytecode
    that trials leave beside the copy when they import it.

    Args:
        run: The run.
        name: The name of its task.
    """
    source = run.task_source
    files = frozen_files(source)
    if not files:
        return name
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source)}\0".encode("utf-8", "surrogateescape"))
        digest.update(hashlib.sha256(_content(path)).digest())
    return f"{digest.hexdigest()}:{name.rpartition(':')[2] if ':' in name else ''}"


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix in (".yaml", ".yml"):
        import yaml

        with suppress(ValueError, TypeError, yaml.YAMLError, RecursionError):
            return json.dumps(yaml.safe_load(content)).encode()
    return content
