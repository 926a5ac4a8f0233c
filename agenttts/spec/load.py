"""Read a job spec from a file, and write a resolved one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agenttts.errors import UserError, nearest_name
from agenttts.spec.mistaken_file import mistaken_file
from agenttts.spec.model import JobSpec
from agenttts.spec.strict import load_with_source
from agenttts.spec.yaml_document import dump_document


def load_spec(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job spec from a file.

    ``--set`` overrides are applied and paths made absolute.

    Raises:
        UserError: Something is wrong; the message names file, line, key and value, and what is
            valid.
    """
    text = read_text(path, "job spec")
    try:
        return parse_spec(text, str(path), path.parent, overrides)
    except UserError:
        if told := mistaken_file(path):
            raise UserError(told) from None
        raise


def parse_spec(text: str, source: str, base: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Return the job spec in ``text``; relative paths are relative to ``base``."""
    spec, found = load_with_source(JobSpec, text, source, overrides)
    with found.located():
        return spec.with_absolute_paths(base).with_source(found)


def dump_spec(spec: JobSpec) -> str:
    """Return YAML that loads to the same spec; a run keeps it as its ``spec.yaml``."""
    return dump_document(spec.model_dump(mode="json"))


def read_text(path: Path, what: str) -> str:
    """Return the text of a file that the user named.

    Raises:
        UserError: The file is not there; the message suggests near names.
    """
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
