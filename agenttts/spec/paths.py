"""Paths written by the user: environment variables, ``~`` and relative paths."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agenttts.errors import KeyPath, UserError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
# What a shell would make something else of: ${NAME:-default}, $(command), `command`.
_OF_A_SHELL = re.compile(r"\$\{[^}]*\}?|\$\([^)]*\)?|`[^`]*`?")
_WRITTEN_AS_PATH = re.compile(
    r"\.{0,2}/|~(?:[A-Za-z_][\w.-]*)?/|~$|\$\{?[A-Za-z_]\w*\}?(?:/|$)|(?:\$\{[^{}\s]*\}|\$\([^()]*\)|`[^`]*`)/",
    re.ASCII,
)
_FILES = {
    *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".gz"),
    *(".yaml", ".yml", ".sif", ".gguf"),
}
_HUB_MARK = "hf:"
_MODEL_OPTIONS = (
    "tokenizer",
    "hf_config_path",
    "generation_config",
    "spec_model",
    "model",  # of the draft model, in speculative_config
)
"""Engine options that may name a file or a directory."""
_DRAFT = "speculative_config"


def expanded(value: str, key: KeyPath) -> str:
    """Return ``value`` with ``$NAME``, ``${NAME}`` and a leading ``~`` replaced.

    Args:
        value: A path, or a value that may be one.
        key: The keys that lead to the value, for the error.

    Raises:
        UserError: A variable is unset or empty, ``~NAME`` names no user, or ``value`` has a form
            that only a shell replaces.
    """
    for match in _OF_A_SHELL.finditer(value):
        if not _VARIABLE.match(match[0]):
            raise UserError(
                f"'{value}' holds {match[0]}, which no shell replaces here; valid: "
                "$NAME, ${NAME} and a leading ~; "
                "export a variable with the value, or write the path out",
                at=key,
            )

    def replace(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name)
        if not found:
            state = "not set" if found is None else "empty"
            raise UserError(
                f"'{value}' uses the variable {name}, which is {state}; export it, or "
                "write the path out",
                at=key,
            )
        check_characters(found, f"the value of the variable {name}", key)
        return found

    path = _VARIABLE.sub(replace, value)
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise UserError(
            f"'{value}' names a home directory that is not known here; write the path out",
            at=key,
        ) from None


def absolute(value: str, base: Path, key: KeyPath) -> str:
    """Return a path, expanded and made absolute against ``base``.

    A link to a file keeps its own name, such as ``model.gguf`` beside its tokenizer. In a hub
    snapshot the name of a link's target is only a digest.
    """
    literal = base / value  # a name may contain a dollar sign
    path = (literal if is_there(literal) else base / expanded(value, key)).absolute()
    whole = path.name in ("", "..") or is_there(path, Path.is_dir)
    found = str(path.resolve() if whole else path.parent.resolve() / path.name)
    check_characters(found, f"the path of '{value}'", key)
    return found


def check_characters(text: str, what: str, key: KeyPath = ()) -> None:
    """Check that a text from the system can be written into a file.

    File names and variables may hold bytes that are not UTF-8. Python keeps each as half of a
    surrogate pair.

    Raises:
        UserError: It cannot; the message begins with ``what``.
    """
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise UserError(
            f"{what} holds bytes that are not UTF-8 text ({shown}); use a place whose path is in "
            "UTF-8",
            at=key,
        )


def absolute_if_path(value: str, base: Path, key: KeyPath) -> str:
    """Return `absolute` of a value that exists or looks like a path.

    A value looks like a path if it begins with '.', '/' or '~', or has a file extension of this
    project. Any other text, such as a hub id, is only expanded.
    """
    if not value:
        return value
    if is_there(base / value):
        return absolute(value, base, key)
    text = expanded(value, key)
    path_like = text.startswith((".", "/", "~")) or Path(text).suffix in _FILES
    return absolute(text, base, key) if path_like or is_there(base / text) else text


def absolute_data(value: str, base: Path, key: KeyPath) -> str:
    """Return `absolute_if_path` of a data set.

    A data set may also be ``hf:`` followed by a hub id or a directory.
    """
    if not value.startswith(_HUB_MARK):
        return absolute_if_path(value, base, key)
    text = expanded(value.removeprefix(_HUB_MARK), key)
    place = re.match(r"[^:@]*", text)
    name = place[0] if place else ""
    if name and (_WRITTEN_AS_PATH.match(name) or is_there(base / name, Path.is_dir)):
        text = absolute(name, base, key) + text[len(name) :]
    return _HUB_MARK + text


def absolute_option(value: Any, base: Path, key: KeyPath) -> Any:
    """Return `absolute` of an option that is clearly a path.

    An option is clearly a path if it begins with './', '../', '/', '~/' or '$NAME/', or if the file
    exists. Any other option may be any text and stays as it is.
    """
    if not isinstance(value, str) or not value or "\n" in value:
        return value
    if _WRITTEN_AS_PATH.match(value) or is_there(base / value, Path.is_file):
        return absolute(value, base, key)
    return value


def absolute_bind(bind: str, base: Path, key: KeyPath) -> str:
    """Return ``HOST[:CONTAINER[:OPTIONS]]``, expanded, with HOST made absolute."""
    host, separator, rest = bind.partition(":")
    if not is_there(base / host):  # a name may have a dollar sign in it
        host, separator, rest = expanded(bind, key).partition(":")
    if host and not host.startswith("/"):
        host = absolute(host, base, key)
    return host + separator + rest


def absolute_model_options(options: Mapping[str, Any], base: Path, key: KeyPath) -> dict[str, Any]:
    """Return engine options with all paths among them made absolute."""
    found = {
        name: absolute_option(value, base, (*key, name)) if name in _MODEL_OPTIONS else value
        for name, value in options.items()
    }
    draft = options.get(_DRAFT)
    if isinstance(draft, dict):
        found[_DRAFT] = absolute_model_options(draft, base, (*key, _DRAFT))
    return found


def places_of_options(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the existing paths among engine options, by key."""
    return {name: place for name, place in named_places(options).items() if is_there(place)}


def named_places(options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the absolute paths among engine options, by key."""
    found = {
        name: Path(options[name])
        for name in _MODEL_OPTIONS
        if isinstance(options.get(name), str) and options[name].startswith("/")
    }
    draft = options.get(_DRAFT)
    if isinstance(draft, dict):
        found |= {f"{_DRAFT}.{name}": place for name, place in named_places(draft).items()}
    return found


def is_there(path: Path, check: Callable[[Path], bool] = Path.exists) -> bool:
    """Return whether a path passes a check; not if it cannot be looked at."""
    try:
        return check(path)
    except (OSError, ValueError):  # below a closed folder, a long text, or a null character
        return False
