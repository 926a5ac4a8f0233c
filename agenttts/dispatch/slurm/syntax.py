"""The syntax of a Slurm request's values: time limits, memory, names.

Pure; every check raises ``ValueError``.
"""

from __future__ import annotations

import re

_TIME = re.compile(r"(?:(?P<d>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")
_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_NAME = re.compile(r"[\w@][\w.@:+=/-]*(?:,[\w@][\w.@:+=/-]*)*")
_GPU_TYPE = re.compile(r"\w[\w.+-]*")
_NODES = re.compile(r"[\w./][\w.,/\[\]-]*")
_CONSTRAINT = re.compile(r"[\w\[(!][\w.:&|*!()\[\],=-]*")
# No part of a request reaches a shell, because the batch file quotes it. No value that Slurm knows
# holds one of these characters.
_SHELL = re.compile(r"[$`;&|<>\"'\\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def minutes(time: str) -> int:
    """Return a Slurm time limit in whole minutes, rounded up.

    Source: sbatch(1), ``--time``.
    """
    match = _TIME.fullmatch(time)
    if not match:
        raise ValueError(
            f"'{time}' is not a valid time limit; valid: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, "
            "D-HH:MM:SS"
        )
    days, first, second, third = (int(part) if part else None for part in match.groups())
    if days is not None:
        seconds = days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds <= 0:
        raise ValueError(f"'{time}' is not a valid time limit: it must be above zero")
    return -(-seconds // 60)


def memory(text: str) -> str:
    """Return an amount of memory in Slurm's shortest form: ``64gb`` becomes ``64G``.

    Source: sbatch(1), ``--mem``: a whole number, in megabytes unless a unit follows.
    """
    amount, unit = _amount(text)
    return f"{amount}{unit}"


def memory_times(text: str, count: int) -> str:
    """Return ``count`` times an amount of memory."""
    amount, unit = _amount(text)
    return f"{amount * count}{unit}"


def memory_bytes(text: str) -> int | None:
    """Return an amount of memory in bytes; None for 0, which asks for all of a node."""
    amount, unit = _amount(text)
    return amount * 1024 ** ("KMGT".index(unit or "M") + 1) or None


def _amount(text: str) -> tuple[int, str]:
    match = _MEMORY.fullmatch(text)
    if not match or not text.isascii():
        raise ValueError(
            f"{text!r} is not a valid amount of memory; valid: a whole number and a unit (K, "
            "M, G or T; without one: M), "
            "e.g. 64G"
        )
    return int(match[1]), match[2].upper()


def name(text: str) -> str:
    """Check a name, or several names separated by commas.

    Names are those of a partition, account, QOS, reservation or workload key.
    """
    return _checked(
        text, _NAME, "name", "letters, digits and . _ - + = @ : / (commas between several)"
    )


def gpu_type(text: str) -> str:
    """Check the type of a GPU.

    Slurm would take a list of types as GPUs of each of them.
    """
    return _checked(text, _GPU_TYPE, "type of a GPU", "one type without its number, e.g. a100")


def nodes(text: str) -> str:
    """Check a list of nodes, e.g. ``n[1-4,7],gpu9``."""
    return _checked(text, _NODES, "list of nodes", "names and ranges, e.g. n[1-4,7],gpu9")


def constraint(text: str) -> str:
    """Check node features, e.g. ``a100&nvlink`` or ``[rack1|rack2]``."""
    return _checked(
        text, _CONSTRAINT, "constraint", "features joined by & | * ( ) [ ], e.g. a100&nvlink"
    )


def value(text: str, allowed: str = "") -> str:
    """Check the value of any other option.

    It must be one line without characters that a shell acts upon, except those in ``allowed``.
    """
    if not text.strip():
        raise ValueError("it is empty; give it a value, or remove the key")
    if control := _CONTROL.search(text):
        raise ValueError(f"{text!r} contains {control[0]!r}; valid: text of one line")
    if found := [character for character in _SHELL.findall(text) if character not in allowed]:
        raise ValueError(
            f"{text!r} contains {found[0]}, which only a shell interprets, "
            "and the options of sbatch are not read by a shell; write the value itself"
        )
    return text


def _checked(text: str, form: re.Pattern[str], what: str, valid: str) -> str:
    if not form.fullmatch(text):
        raise ValueError(f"{text!r} is not a valid {what}; valid: {valid}")
    return text
