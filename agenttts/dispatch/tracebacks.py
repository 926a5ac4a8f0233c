"""The tracebacks in a log that lead to an error: what raised it, where the error itself does
not say.
"""

from __future__ import annotations

import re

_BEGINS = "Traceback (most recent call last):"
# traceback.py: how Python joins the tracebacks of exceptions that follow from each other.
_JOINS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
# "builtins.OSError: [Errno 5] ..." without the name of the exception.
_NAME = re.compile(r"[\w.]*\w(?:Error|Exception|Exit|Warning|Interrupt): |[\w.]+: ")
_SHORTEST = 12
"""Characters that an error and a line of a log must share; fewer are in any two texts."""


def exceptions_behind(error: str, log: str) -> str:
    """The lines with exceptions of every traceback in ``log`` that ends in ``error``, its causes
    before it; '' for none.

    Python prints an exception's causes before it, joined by a sentence. A log may also hold
    tracebacks of exceptions that were caught; those that no such sentence joins to the error's have
    nothing to do with it.
    """
    told = " ".join(error.split())
    return "\n".join(
        line for chain in _chains(log) if any(_same(line, told) for line in chain) for line in chain
    )


def _chains(log: str) -> list[list[str]]:
    """The exceptions of each chain of joined tracebacks: their lines, without those of the
    frames.
    """
    chains: list[list[str]] = []
    chain: list[str] | None = None
    joined = in_frames = False
    prefix = ""
    for line in log.splitlines():
        start = line.find(_BEGINS)
        if start >= 0:
            # Loggers put time and process before each line, in as many characters.
            prefix = line[:start]
            if chain is None or not joined:
                chain = []
                chains.append(chain)
            joined, in_frames = False, True
            continue
        if chain is None:
            continue
        text = line[len(prefix) :]
        if text.strip() in _JOINS:
            joined = True
        elif in_frames and text.strip() and not text.startswith((" ", "\t")):
            in_frames = False
            chain.append(text.strip())
    return chains


def _same(line: str, told: str) -> bool:
    """Whether a line with an exception is of the error."""
    text = " ".join(line.split())
    match = _NAME.match(text)
    text = text[match.end() :] if match else text
    return min(len(text), len(told)) >= _SHORTEST and (text in told or told in text)
