"""Reading a job spec from a file and freezing the resolved one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from agenttts.errors import UserError, nearest_name
from agenttts.spec.model import JobSpec
from agenttts.spec.strict import load_strict


def load_spec(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """The job spec in a file with ``--set`` overrides applied and paths made absolute.

    Raises `UserError` naming file, line, key, value and what is valid.
    """
    return parse_spec(read_text(path, "job spec"), str(path), path.parent, overrides)


def parse_spec(text: str, source: str, base: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """The job spec in ``text``; relative paths are taken from ``base``."""
    spec = load_strict(JobSpec, text, source, overrides)
    try:
        return spec.anchored(base)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def dump_spec(spec: JobSpec) -> str:
    """YAML that loads to the same spec: what a run keeps as its ``spec.yaml``."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_text(path: Path, what: str) -> str:
    """The text of a file the user named; `UserError` with near names when it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        folder = path.parent
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        near = nearest_name(path.name, names)
        hint = f"; did you mean '{folder / near}'?" if near else ""
        raise UserError(f"{path}: no such {what}{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a {what} is a file, this is a directory") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
